#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks who may include whom, and the few rules of form that a compiler does not check."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "include"
SHARED = {"core", "simd", "tile", "pairwise", "recurrent", "reference", "interop", "dispatch", "distributed"}
KERNELS = {p.name for p in (INCLUDE / "heed").iterdir() if p.is_dir()} - SHARED

# layer -> layers that it may include, besides itself; "options" is <kernel>/options.hpp, "public" is heed/<name>.hpp
MAY_INCLUDE = {
    "core": {"version"},
    "simd": {"core"},
    "tile": {"core", "simd"},
    "pairwise": {"core", "simd", "tile"},  # the two engines never include each other
    "recurrent": {"core", "simd", "tile"},
    "options": {"core"},
    "kernel": {"core", "simd", "tile", "pairwise", "recurrent", "options", "dispatch"},
    "dispatch": {"core", "options"},  # declarations: what a verb needs where the library is compiled
    "distributed": {"core", "options", "kernel"},
    "public": {"core", "options", "kernel", "distributed", "version"},
    "reference": {"core", "options"},
    "interop": {"core", "distributed"},
    "version": set(),
}
THIRD_PARTY = {  # layer -> headers that are not the standard library's
    "simd": r"xsimd/.*|(imm|xmm|x86|arm_neon|intrin).*|sys/mman\.h",
    "reference": r"(unsupported/)?Eigen/.*",
    "interop": r"(unsupported/)?Eigen/.*|omp\.h|mpi\.h",
}
STANDARD = r"[a-z0-9_]+"
SLOW = {"iostream", "regex", "ranges"}  # never, for the sake of the user's compile time
CONTAINERS = {"vector", "functional", "map", "unordered_map", "list", "deque"}
# Their symbols would carry no tag of the machine.
NO_CONTAINERS = {"core", "simd", "tile", "pairwise", "recurrent", "kernel", "options"}


def layer(path):
    """The layer of "heed/..."."""
    parts = path.split("/")
    if len(parts) == 2:
        return "version" if parts[1] == "version.hpp" else "public"
    if parts[1] in KERNELS:
        return "options" if parts[2] == "options.hpp" else "kernel"
    return parts[1]


def problems(path, text):
    own = layer(path)
    if own not in MAY_INCLUDE:
        yield "a folder that the table of layers does not know"
        return
    if not re.search(r"^#pragma once$", text, re.M):
        yield "no #pragma once"
    for quoted, name in re.findall(r'^ *# *include *([<"])([^>"]+)[>"]', text, re.M):
        if name.startswith("heed/"):
            if quoted == "<":
                yield f'<{name}>: write "{name}" inside the library'
            if not (INCLUDE / name).is_file():
                yield f"{name} does not exist"
            elif layer(name) != own and layer(name) not in MAY_INCLUDE[own]:
                yield f"{own} may not include {layer(name)} ({name})"
        elif re.fullmatch(STANDARD, name):
            if name in SLOW or (name in CONTAINERS and own in NO_CONTAINERS):
                yield f"{own} may not include <{name}>"
        elif not re.fullmatch(THIRD_PARTY.get(own, "(?!)"), name):
            yield f"{own} may not include {name}"
    if own != "simd" and re.search(r"\b(_mm\d*_\w+|__m(128|256|512)\w*|xsimd::)", re.sub(r"//.*", "", text)):
        yield "intrinsics and xsimd belong into simd/"
    if path not in ("heed/core/config.hpp", "heed/version.hpp"):
        for macro in re.findall(r"^ *# *define (\w+)", text, re.M):
            if not re.search(rf"^ *# *undef {macro}$", text, re.M):
                yield f"{macro}: a macro that stays defined belongs into core/config.hpp"


def form(text):
    if not re.match(r"(#!.*\n)?(//|#) SPDX-License-Identifier: BSD-3-Clause\n", text):
        yield "the first line does not name the licence"
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > 120:
            yield f"line {number} has {len(line)} columns, more than 120"
        if line != line.rstrip() or "\t" in line:
            yield f"line {number} has a tab or spaces at its end"


def map_problems():
    """docs/map.md lists every header as "- `name.hpp`: ..." under "### `heed/folder/`", once, and no other.

    It leaves out <verb>_call.hpp: that goes with <verb>.hpp."""
    headers = {p.relative_to(INCLUDE).as_posix() for p in INCLUDE.rglob("*.hpp")}
    headers -= {name for name in headers if name.endswith("_call.hpp") and name.replace("_call", "") in headers}
    folder, listed, lines = "", set(), (ROOT / "docs/map.md").read_text().splitlines()
    for number, line in enumerate(lines, 1):
        heading, item = re.match(r"### `(heed/.*)`$", line), re.match(r"- `([\w/]+\.hpp)`: \S", line)
        folder = heading[1] if heading else folder
        name = folder + item[1] if item else ""
        if name in listed:
            yield f"docs/map.md: line {number} lists {name} a second time"
        listed |= {name} - {""}
    for name in sorted(headers - listed):
        yield f"docs/map.md: does not list {name}"
    for name in sorted(listed - headers):
        yield f"docs/map.md: lists {name}, which does not exist"


def main():
    found = 0
    names = ("*.hpp", "*.cpp", "*.py", "*.sh", "*.cmake", "CMakeLists.txt")
    folders = ("include", "src", "tests", "bench", "examples", "cmake", "packaging", ".ci")
    files = [p for folder in folders for name in names for p in (ROOT / folder).rglob(name)]
    for file in sorted(files + [ROOT / "run", ROOT / ".ci/run", ROOT / "CMakeLists.txt"]):
        text = file.read_text()
        messages = list(form(text))
        if INCLUDE in file.parents:
            messages += problems(file.relative_to(INCLUDE).as_posix(), text)
        for message in messages:
            print(f"{file.relative_to(ROOT)}: {message}")
        found += len(messages)
    for message in map_problems():
        print(message)
        found += 1
    print(f"include rules: {len(files)} files, {found} problems")
    return found != 0


sys.exit(main())
