#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes single-header bundles: one file for each header of include/heed itself, with all of heed that it includes.

    cmake/bundle.py FOLDER [NAME...]     NAME: heed, softmax, linear, ...; all of them if none is named

A bundle needs the standard library and xsimd, as the headers do. Two bundles may be included in one translation unit:
each header in them has a guard of its own. Bundles compile heed where they are included; heed::dispatch has none.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "include"
OWN = re.compile(r'#include "(heed/[^"]+)"')
DISPATCH = re.compile(r"#ifdef HEED_DISPATCH\n(?:#include .*\n)+#else\n((?:#include .*\n)+)#endif\n")
SPDX = "// SPDX-License-Identifier: BSD-3-Clause\n"


def version():
    text = (INCLUDE / "heed/version.hpp").read_text()
    return ".".join(re.findall(r"#define HEED_VERSION_\w+ (\d+)", text))


def add(header, seen, out):
    """Appends a header, those it includes first, each once."""
    if header in seen:
        return
    seen.add(header)
    guard = "HEED_BUNDLED_" + re.sub(r"\W", "_", header.removeprefix("heed/").removesuffix(".hpp")).upper()
    own, body, depth = [], [], 0
    for line in DISPATCH.sub(r"\1", (INCLUDE / header).read_text()).splitlines(keepends=True):
        include = OWN.match(line)
        depth += bool(re.match(r"#\s*if", line)) - bool(re.match(r"#\s*endif", line))
        if include:
            if depth:
                sys.exit(f"{header}: includes {include.group(1)} under a condition, which a bundle cannot do")
            own.append(include.group(1))
        elif line not in (SPDX, "#pragma once\n"):
            body.append(line)
    for each in own:
        add(each, seen, out)
    text = "".join(body).strip("\n")
    out.append(f"// ---- {header}\n#ifndef {guard}\n#define {guard}\n\n{text}\n\n#endif  // {guard}\n\n")


def bundle(name):
    out, seen = [], set()
    add(f"heed/{name}.hpp", seen, out)
    terms = "".join(f"// {line}".rstrip() + "\n" for line in (ROOT / "LICENSE").read_text().splitlines())
    return f"""{SPDX}//
// heed {version()}, heed/{name}.hpp in one file, made by cmake/bundle.py. Needs C++20 and xsimd 8.1 or newer.
//
{terms}#pragma once

#ifdef HEED_DISPATCH
#error "heed: a bundle compiles heed where it is included; heed::dispatch goes with the folder of headers"
#endif

{''.join(out)}"""


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    names = sys.argv[2:] or sorted(path.stem for path in (INCLUDE / "heed").glob("*.hpp"))
    for name in names:
        text = bundle(name)
        (folder / f"heed_{name}.hpp" if name != "heed" else folder / "heed.hpp").write_text(text)
        print(f"{name}: {text.count(chr(10))} lines")


main()
