#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""report.py BUILD: which lines of include/ the tests in BUILD ran, after ctest, at any level; see docs/reliability.md.

Prints the uncovered lines that unreached.txt does not explain. Fails for such a line, for an entry of unreached.txt
that explains no uncovered line, and for a share of covered lines below SHARE percent.

llvm-cov says nothing of code that no program compiles, such as a template that nothing instantiates: lines that begin
with the name of a statement count as not run there. A branch of `if constexpr` that no instantiation takes counts as
what is around it: llvm-cov cannot tell it from that.
"""

import collections
import os
import pathlib
import re
import subprocess
import sys

SHARE = 97
ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADERS = ROOT / "include" / "heed"
STATEMENT = re.compile(r"(return|if|for|while|do|switch|throw)\b")
LIST = pathlib.Path(__file__).with_name("unreached.txt")


def measure(build, sources):
    """Returns {file: {line: runs}} of the files in sources, over all object files: one by one, since llvm-cov takes a
    line that #if leaves out of one for no line of the others."""
    merged = build / "merged.profdata"
    profiles = sorted((build / "profiles").glob("*.profraw"))
    if not profiles:
        sys.exit(f"no test has run in {build}")
    subprocess.run(["llvm-profdata", "merge", "-sparse", "-o", merged, *profiles], check=True)
    lines = {file: {} for file in sources}
    for compiled in sorted(build.rglob("*.o")):
        command = ["llvm-cov", "export", "-format=lcov", f"-instr-profile={merged}", compiled, HEADERS]
        export = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if export.returncode and "No coverage data found" not in export.stderr:
            sys.exit(export.stderr)
        for record in export.stdout.splitlines():
            kind, _, value = record.partition(":")
            if kind == "SF":
                counted = lines[os.path.relpath(os.path.realpath(value), HEADERS)]
            elif kind == "DA":
                line, runs = map(int, value.split(",")[:2])
                counted[line] = max(runs, counted.get(line, 0))
    for file, source in sources.items():
        for number, text in enumerate(source, 1):
            if STATEMENT.match(text):
                lines[file].setdefault(number, 0)
    return lines


class Entry:
    """`file: key` of unreached.txt: lines by their text, a /regular expression/, or `first line ... last line`."""

    def __init__(self, number, text, reason):
        self.number, self.text, self.reason = number, text, reason
        self.file, _, key = text.partition(": ")
        first, dots, last = key.partition(" ... ")
        self.first, self.last = self.test(first), self.test(last) if dots else None

    @staticmethod
    def test(key):
        if len(key) > 2 and key[0] == key[-1] == "/":
            return re.compile(key[1:-1]).search
        return key.__eq__

    def lines(self, source):
        """Yields the numbers of the lines that it names."""
        inside = False
        for number, line in enumerate(source, 1):
            starts = not inside and self.first(line)
            if inside or starts:
                yield number
            if self.last and (inside or starts):
                inside = starts or not self.last(line)


def read_list():
    """Returns the entries: indented lines, below the reason that holds for them."""
    entries, reason = [], ""
    for number, line in enumerate(LIST.read_text().splitlines(), 1):
        if line.startswith("  "):
            entries.append(Entry(number, line.strip(), reason))
        elif line and not line.startswith("#"):
            reason = line
    return entries


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    texts = {str(path.relative_to(HEADERS)): path.read_text() for path in sorted(HEADERS.rglob("*.hpp"))}
    sources = {file: [line.strip() for line in text.splitlines()] for file, text in texts.items()}
    lines = measure(build, sources)
    uncovered = {file: {line for line, runs in counted.items() if runs == 0} for file, counted in lines.items()}
    explained, stale = collections.defaultdict(set), []
    for entry in read_list():
        found = uncovered.get(entry.file, set()).intersection(entry.lines(sources.get(entry.file, [])))
        explained[entry.file] |= found
        if not found:
            stale.append(entry)

    total = sum(map(len, lines.values()))
    missed = sum(map(len, uncovered.values()))
    unexplained = [(file, line) for file in sorted(uncovered) for line in sorted(uncovered[file] - explained[file])]
    for file, line in unexplained:
        print(f"include/heed/{file}:{line}: not run, not explained: {sources[file][line - 1]}")
    for entry in stale:
        print(f"{LIST.relative_to(ROOT)}:{entry.number}: explains no uncovered line: {entry.text}")
    share = 100 * (total - missed) / total
    print(f"{total - missed} of {total} lines of include/ run: {share:.2f} % (at least {SHARE} %); "
          f"{missed} do not, {len(unexplained)} of them unexplained; {len(stale)} entries explain nothing")
    return bool(unexplained or stale or share < SHARE)


if __name__ == "__main__":
    sys.exit(main())
