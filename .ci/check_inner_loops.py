#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Counts memory operands and stores in the inner loops of tile/multiply.hpp as they were compiled.

Compiles one translation unit that uses multiply for float at -O2 with both compilers for AVX2 and AVX-512, disassembles
every block function, takes its innermost loop with fused multiply-adds, and fails where it stores or loads
more than it must: MR broadcasts and NR vectors (for one vector a broadcast may be folded into its multiply-add).
"""
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
#include "heed/tile/multiply.hpp"
template void heed::tile::multiply<float>(const heed::tile::matrix_product<float>&, heed::index_t);
"""
MACHINES = {"avx2": "-march=haswell", "avx512": "-march=skylake-avx512"}


def loops(lines):
    """Instruction lists between a backward jump's target and the jump, innermost ones only."""
    found = []
    addresses = [a for a, _ in lines]
    for index, (_, text) in enumerate(lines):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if jump and int(jump.group(1), 16) in addresses:
            start = addresses.index(int(jump.group(1), 16))
            if start < index:
                found.append((start, index))
    inner = [s for s in found if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in found)]
    return [[text for _, text in lines[a : b + 1]] for a, b in inner]


def check(compiler, machine, folder):
    source, built = folder / "loops.cpp", folder / "loops.o"
    source.write_text(SOURCE)
    flags = ["-std=c++20", "-O2", MACHINES[machine], f"-I{ROOT}/include"]
    subprocess.run([compiler, *flags, "-c", source, "-o", built], check=True)
    dump = ["objdump", "-dC", "--no-show-raw-insn", "-M", "intel", built]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    problems, seen = [], 0
    for part in re.split(r"\n\n", text):
        head = re.search(r"<.*blocks<(\d+), (\d+), float>\(.*>:", part)
        if not head:
            continue
        rows, vectors = int(head.group(1)), int(head.group(2))
        lines = [(int(m.group(1), 16), m.group(2)) for m in re.finditer(r"^\s*([0-9a-f]+):\s+(.*)$", part, re.M)]
        for body in loops(lines):
            products = [i for i in body if "vfmadd" in i or "vfnmadd" in i]
            if not products:
                continue
            seen += 1
            stores = [i for i in body if re.match(r"v?mov\w+\s+(?:\w+ PTR )?\[", i)]
            loads = [i for i in body if i.startswith("v") and "[" in i]
            trips = max(1, len(products) // (rows * vectors))  # an unrolled loop holds several steps
            allowed = trips * (rows + vectors)
            counts = f"{len(products)} products, {len(loads)} loads, {len(stores)} stores"
            name = f"{compiler} {machine} {rows}x{vectors}: {counts}"
            print(name)
            if stores or len(loads) > allowed:
                problems.append(f"{name}, at most {allowed} loads and no store allowed")
    if seen == 0:
        problems.append(f"{compiler} {machine}: no inner loop found")
    return problems


def main():
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for compiler in ("g++", "clang++"):
            if shutil.which(compiler) is None:
                print(f"SKIPPED: {compiler} is not installed")
                continue
            for machine in MACHINES:
                problems += check(compiler, machine, Path(folder))
    for problem in problems:
        print("FAILED:", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
