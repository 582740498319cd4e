# SPDX-License-Identifier: BSD-3-Clause
"""Makes the API pages from the public headers.

Doxygen says which names there are, where, and who may use them. Their declarations and comments are then taken from
the headers as they are written there. Namespaces `detail` are left out, and so are overloads that only refuse a call.

    pages("heed/build/doxygen") -> {"api/softmax.md": text, ...}, {"include/heed/softmax/forward.hpp": "api/softmax.md"}
"""

import collections
import pathlib
import re
import shutil
import subprocess
import textwrap
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]

GROUPS = [  # page, title, what to include, text, headers (in this order)
    ("softmax", "Softmax", "heed/softmax.hpp",
     "[Softmax attention](../kernels/softmax.md) and [decode](../kernels/decode.md) explain the verbs.",
     "softmax/forward softmax/options softmax/backward softmax/decode softmax/merge softmax/prepare"
     " softmax/prepare_decode"),
    ("sparse_query", "Sparse query", "heed/sparse_query.hpp",
     "[Softmax](softmax.md)'s verbs, with head counts of `choose_heads`: [sparse query](../kernels/sparse_query.md).",
     "sparse_query/choose_heads"),
    ("mixture_of_head", "Mixture of head", "heed/mixture_of_head.hpp",
     "Explained in [mixture of head attention](../kernels/mixture_of_head.md).",
     "mixture_of_head/forward mixture_of_head/options mixture_of_head/backward mixture_of_head/decode"
     " mixture_of_head/router"),
    ("local_linear", "Local linear", "heed/local_linear.hpp",
     "Explained in [local linear attention](../kernels/local_linear.md).",
     "local_linear/forward local_linear/options local_linear/backward local_linear/decode"),
    ("linear", "Linear", "heed/linear.hpp", "Explained in [linear attention](../kernels/linear.md).",
     "linear/forward linear/options linear/backward linear/decode core/feature_map core/state"),
    ("lightning", "Lightning", "heed/lightning.hpp", "Explained in [lightning attention](../kernels/lightning.md).",
     "lightning/forward lightning/options lightning/backward lightning/decode core/decay"),
    ("views", "Views and types", "any kernel's header", "[Conventions](../conventions.md) has layouts and shapes.",
     "core/factories core/view core/types"),
    ("masks", "Masks, places and scores", "any kernel's header", "[Masks](../masks.md) shows each rule as a picture.",
     "core/mask core/alignment core/score_function slopes core/per_head core/per_sequence"),
    ("cache", "Caches", "heed/cache.hpp", "[Key/value caches](../caches.md) says which one is for what.",
     "cache/contiguous cache/ring cache/paged cache/sequence_cache core/kv_cache"),
    ("convert", "Convert and quantize", "heed/convert.hpp",
     "[16-bit types](../sixteen_bit.md) and [8-bit caches](../caches.md#8-bit-caches) use them.",
     "convert/tensor convert/quantize"),
    ("context", "Context, plans and errors", "any kernel's header",
     "Where a call runs, what it would do, and what it throws.", "core/context core/plan core/error level"),
    ("distributed", "Several processes", "heed/distributed.hpp",
     "Explained in [attention over several processes](../distributed.md). `heed/interop/mpi.hpp` is included by name.",
     "distributed/softmax_forward distributed/softmax_backward distributed/linear distributed/lightning"
     " distributed/options distributed/schedule distributed/network distributed/threads interop/mpi"),
    ("interop", "Executors", "the header itself, by name", "Executors that are ready to use.",
     "interop/openmp interop/eigen_thread_pool"),
    ("reference", "References", "the header itself, by name (needs Eigen)",
     "Textbook loops in double that the tests compare with. They are slow on purpose.",
     "reference/softmax reference/softmax_backward reference/sparse_query reference/mixture_of_head"
     " reference/mixture_of_head_backward reference/local_linear reference/local_linear_backward reference/linear"
     " reference/linear_backward reference/lightning reference/lightning_backward"),
]

INSIDE = {"detail", "simd", "tile", "pairwise", "recurrent", "dispatch"}  # namespaces that are not for users

DOXYFILE = """
INPUT = include/heed
RECURSIVE = YES
FILE_PATTERNS = *.hpp
GENERATE_HTML = NO
GENERATE_LATEX = NO
GENERATE_XML = YES
XML_PROGRAMLISTING = NO
EXTRACT_ALL = YES
HAVE_DOT = NO
INCLUDE_GRAPH = NO
INCLUDED_BY_GRAPH = NO
MARKDOWN_SUPPORT = NO
AUTOLINK_SUPPORT = NO
MACRO_EXPANSION = YES
EXPAND_ONLY_PREDEF = YES
PREDEFINED = HEED_INLINE= HEED_NOINLINE= HEED_MAY_ALIAS= HEED_UNROLL_2= HEED_ISA=isa _OPENMP=1 __cplusplus=202002L
WARN_IF_UNDOCUMENTED = NO
WARN_AS_ERROR = FAIL_ON_WARNINGS
QUIET = YES
"""

Name = collections.namedtuple("Name", "kind name file line members body")


def found_names(folder):
    """Returns {header: [Name]} of everything public, in the order of the lines."""
    shutil.rmtree(folder, ignore_errors=True)
    pathlib.Path(folder).mkdir(parents=True)
    subprocess.run(["doxygen", "-"], input=f"{DOXYFILE}OUTPUT_DIRECTORY = {folder}\n", text=True, check=True, cwd=ROOT)
    found = collections.defaultdict(dict)
    for path in sorted(pathlib.Path(folder, "xml").glob("*.xml")):
        for compound in xml.etree.ElementTree.parse(path).getroot().iter("compounddef"):
            kind = compound.get("kind")
            scope = compound.findtext("compoundname").replace("::isa", "").replace(" ", "")
            if kind in ("file", "dir") or INSIDE & set(scope.split("::")) or not scope.startswith("heed"):
                continue
            members = [Name(m.get("kind"), f"{scope}::{m.findtext('name')}", m.find("location").get("file"),
                            int(m.find("location").get("line")), m.get("prot") + (m.findtext("argsstring") or ""), None)
                       for m in compound.iter("memberdef")]
            if kind == "namespace":
                for each in members:
                    found[each.file].setdefault(each.line, each)
            else:
                at = compound.find("location")
                body = (int(at.get("bodystart", 0)), int(at.get("bodyend", 0)))
                each = Name(kind, scope, at.get("file"), int(at.get("line")), members, body)
                found[each.file].setdefault(each.line, each)
    return {file: [names[line] for line in sorted(names)] for file, names in found.items()}


def first_line(lines, at):
    """The line (from 0) where the declaration that has its name in line `at` (from 1) begins."""
    line = at - 1
    while line > 0 and (before := lines[line - 1].strip()) and not before.startswith(("//", "#")) \
            and not re.search(r"[;{}:]$", re.sub(r" *//.*", "", before)):
        line -= 1
    return line


def comment_above(lines, line):
    """The lines of the comment that ends above `line` (from 0), without their slashes."""
    first = line
    while first > 0 and lines[first - 1].strip().startswith("//"):
        first -= 1
    return [text.strip()[3:] for text in lines[first:line]]


def declaration(lines, line, kind):
    """The source from `line` (from 0) up to the body, the initialisers of a constructor, or the end."""
    text, depth = "\n".join(lines[line:line + 60]), 0
    for at, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        ends = char == ";" or (char == "{" and kind not in ("variable", "typedef", "enum", "concept")) or \
            (kind == "function" and text[at - 1:at + 2].replace("\n", " ") == " : ")
        if depth == 0 and ends:
            return tidy(text[:at])
    raise ValueError(f"no end of the declaration: {text[:80]}")


def tidy(text):
    """The declaration without macros and private bases; lines that were aligned behind a macro move with it."""
    def without(match):
        moved = len(match[1])
        return re.sub(rf"\n {{{moved}}}( *)", r"\n\1", match[2])
    text = re.sub(r"\b(HEED_(?:INLINE|NOINLINE|MAY_ALIAS) )((?:.|\n {16,})*)", without, textwrap.dedent(text)).rstrip()
    return re.sub(r" : public detail::[\w:<>]+", "", text) + ";"


def prose(comment):
    """Markdown of a comment: names as code, lines that are indented as code blocks."""
    def words(text):
        links = {"docs": lambda m: f"[{m[2]}](../{m[1]})", "arXiv": lambda m: f"[{m[0]}](https://arxiv.org/abs/{m[3]})"}
        pattern = (r"docs/((?:\w+/)*(\w+)\.md)|arXiv (\d{4}\.\d{5})|[\w.]*(?:::|_|->)[\w:.]*(?:\(\))?|[\w.]+\(\)"
                   r"|`[^`]+`|[\\*\[\]#|<>&]")
        def one(m):
            for key, make in links.items():
                if m[0].startswith(key):
                    return make(m)
            if len(m[0]) == 1:
                return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(m[0], "\\" + m[0])
            end = re.search(r"[.:]*$", m[0])[0]
            return f"`{m[0].strip('`')[:len(m[0]) - len(end)]}`{end}" if m[0] != end else m[0]
        return re.sub(pattern, one, text)
    blocks = []
    for line in comment:
        kind = "code" if line.startswith(("  ", "g++ ")) else "text"
        if not line.strip():
            blocks.append(("", []))
        elif blocks and blocks[-1][0] == kind:
            blocks[-1][1].append(line)
        else:
            blocks.append((kind, [line]))
    return "\n\n".join("```cpp\n" + textwrap.dedent("\n".join(text)) + "\n```" if kind == "code"
                       else words(" ".join(text)) for kind, text in blocks if text)


def code(text):
    return f"```cpp\n{text}\n```\n"


def public_members(name):
    own = name.name.split("::")[-1]
    for each in name.members:
        short = each.name.split("::")[-1]
        special = re.search(r"=(default|delete)$", each.members) or short.startswith(("~", "@")) or short.endswith("_")
        if each.members.startswith("public") and not special and short != f"operator{own}":
            yield each


def described(name, lines):
    """The declaration of a name, then its comment, then its members."""
    line = first_line(lines, name.line)
    text = prose(comment_above(lines, line))
    if name.body is None or name.kind == "concept":
        return code(declaration(lines, line, name.kind)) + "\n" + text + "\n"
    if name.kind == "struct" and not any(m.members.startswith("private") for m in name.members):  # of numbers
        return code(tidy("\n".join(lines[line:name.body[1]])).rstrip(";") + ";") + "\n" + text + "\n"
    parts, open_block, last = [code(declaration(lines, line, name.kind)), text], [], 0
    def close():
        if open_block:
            parts.extend([code("\n".join(open_block)), last_text])
        open_block.clear()
    last_text, seen = "", set()
    for each in sorted(public_members(name), key=lambda m: m.line):
        line = first_line(lines, each.line)
        if line in seen:
            continue
        seen.add(line)
        comment = comment_above(lines, line)
        if comment or not lines[line - 1].strip():
            close()
            last_text = prose(comment)
        open_block.append(declaration(lines, line, each.kind))
    close()
    return "\n\n".join(part for part in parts if part) + "\n"


def pages(folder):
    found, texts, page_of, index = found_names(folder), {}, {}, []
    for page, title, include, text, headers in GROUPS:
        out, names = [f"# {title}\n\n{text}\n\nInclude: {include if ' ' in include else f'`{include}`'}.\n"], []
        for header in headers.split():
            file, last = f"include/heed/{header}.hpp", ""
            if not (ROOT / file).exists():
                continue
            lines = (ROOT / file).read_text().splitlines()
            page_of[file] = f"api/{page}.md"
            out.append(f"## heed/{header}.hpp\n")
            intro = re.match(r"// SPDX.*\n#pragma once\n\n((?://.*\n)+)\n", "\n".join(lines) + "\n")
            if intro:
                out.append(prose([text.strip()[3:] for text in intro[1].splitlines()]) + "\n")
            for name in found.get(file, []):
                line = first_line(lines, name.line)
                comment, short = comment_above(lines, line), name.name.removeprefix("heed::")
                refuses = comment and comment[0].startswith("Refuses")
                if refuses or (last == "" and name.kind == "function" and not comment) or \
                        (not comment and re.search(r"requires\s*\(!", "\n".join(lines[line:name.line]))):
                    continue
                shown = short.replace("reference::", "") if page == "reference" else short.split("::")[-1]
                also = re.findall(r", (\w+)\{", lines[line]) if name.kind == "variable" else []
                if short != last:
                    anchor = re.sub(r"\W+", "-", shown.replace("operator&", "and")).strip("-")
                    out.append(f"### {', '.join(f'`{x}`' for x in [shown, *also])} {{ #{anchor} }}\n")
                    names += [f"[`{x}`]({page}.md#{anchor})" for x in [shown, *also]]
                out.append(described(name, lines))
                last = short
        texts[f"api/{page}.md"] = "\n".join(out)
        index.append(f"| [{title}]({page}.md) | {', '.join(dict.fromkeys(names))} |")
    if forgotten := found.keys() - page_of.keys():
        raise ValueError(f"GROUPS lacks headers with public names: {', '.join(sorted(forgotten))}")
    texts["api/index.md"] = "\n".join([
        "# API\n\nEvery public name, by page. The pages are made from the headers' own comments.\n",
        "| page | names |\n|---|---|", *index, ""])
    return texts, page_of
