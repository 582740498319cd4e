# SPDX-License-Identifier: BSD-3-Clause
"""Which spots can be changed, and which of them a seed chooses: evenly over files, then over operators."""

import pathlib
import random
import re
from dataclasses import dataclass

import operators
import source

FOLDERS = ("tile", "pairwise", "recurrent")
FILES = ("core/mask.hpp",)

# What cannot change a result, and is therefore left out.
# Files: which unit is chosen by processor and environment.
LEFT_OUT_FILES = ("tile/unit_choice.hpp",)
# Functions and types: cost models, sizes of tiles and chunks, the order of tasks, prefetches, and texts of plans.
LEFT_OUT_NAMES = (
    "chunk_of", "time_of", "slowest_piece", "cut_sequences", "heads_together", "states_together", "token_major",
    "forward_time", "reverse_time", "sweep_piece", "end_of_list", "cut_sweeps", "block_keys", "key_cost", "cost",
    "most_pieces", "measure", "cost_of", "for_all_heads", "touch_pages", "after", "prefetch", "prefetch_queries",
    "prefetch_tokens", "next_keys", "line_prefetcher", "pages_prefetcher", "page_values_prefetcher", "no_prefetcher",
    "rows_behind", "describe", "name_copy", "path", "why",
)
# Statements: what the compiler evaluates (sizes of tiles, choices by type), assertions, declarations, texts.
LEFT_OUT_STATEMENTS = re.compile(
    r"\b(?:static_assert|HEED_ASSERT|constexpr|template|requires|concept|using|typedef|enum|operator)\b"
    r"|prefetch|touch_pages|text <<|\.why\b|\bname_|#|one_pass =|case \w|sizeof\.\.\."
)


@dataclass(frozen=True)
class Spot:
    file: str
    start: int
    end: int
    operator: str
    text: str  # what takes the place of [start, end)
    line: int
    column: int
    was: str
    code: str  # the line, without what is around it

    def shown(self):
        return " ".join(restore(self.text).split()) or "(nothing)"

    def key(self):
        return f"{self.file}:{self.line}:{self.column}:{self.operator}:{self.shown()}"


def restore(code):
    return code.replace("\u27e8", "<").replace("\u27e9", ">")


def headers(include):
    root = pathlib.Path(include) / "heed"
    found = [f"{folder}/{path.name}" for folder in FOLDERS for path in sorted((root / folder).glob("*.hpp"))]
    return [f for f in found + list(FILES) if f not in LEFT_OUT_FILES]


def left_out(code, at):
    start, end = source.statement(code, at)
    text = re.sub(r"if constexpr \([^;{}]*?\) ", "if (c) ", code[start:end])
    return LEFT_OUT_STATEMENTS.search(text) or source.in_template_arguments(code, at)


def spots(include, file):
    """All spots of a header, by operator."""
    text = (pathlib.Path(include) / "heed" / file).read_text()
    code = source.mask(text)
    excluded = list(source.bodies(code, LEFT_OUT_NAMES))
    found = {}
    for operator in operators.ALL:
        for start, end, mutated in operator(code):
            was = " ".join(restore(code[start:end]).split())
            texts = re.search("[\"']", was)  # what they say is masked
            if not was or texts or left_out(code, start) or any(a <= start <= b for a, b in excluded):
                continue
            line = text.count("\n", 0, start) + 1
            column = start - text.rfind("\n", 0, start)
            shown = text.splitlines()[line - 1].split("  //")[0].strip()
            spot = Spot(file, start, end, operator.__name__, mutated, line, column, was, shown)
            found.setdefault(operator.__name__, []).append(spot)
    return found


def order(include, seed):
    """All spots in the order in which they are drawn: in turn one of each file, by its rarest operator so far."""
    rng = random.Random(seed)
    files = headers(include)
    rng.shuffle(files)
    left = {}
    for file in files:
        left[file] = spots(include, file)
        for list_of_operator in left[file].values():
            rng.shuffle(list_of_operator)
    drawn = dict.fromkeys((f.__name__ for f in operators.ALL), 0)
    while any(left.values()):
        for file in files:
            if not left[file]:
                continue
            name = min(left[file], key=lambda o: (drawn[o], o))
            drawn[name] += 1
            yield left[file][name].pop()
            if not left[file][name]:
                del left[file][name]


def overlaps(spot, taken):
    return any(t.file == spot.file and t.start < spot.end and spot.start < t.end for t in taken)
