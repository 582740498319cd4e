#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Counts memory operands and stores in the inner loops of tile/multiply.hpp and of AMX as they were compiled.

Compiles one translation unit that uses multiply for float at -O2 with both compilers for AVX2 and AVX-512, disassembles
every block function, takes its innermost loop with fused multiply-adds, and fails where it stores or loads
more than it must: MR broadcasts and NR vectors (for one vector a broadcast may be folded into its multiply-add). So it
does with the blocks of bf16 dot products. A step of a 2 x 2 block of AMX is four tile loads, four products, no store.
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
template void heed::tile::multiply(const heed::tile::matrix_product<float>&, heed::index_t);
"""
UNITS = """
#include "heed/tile/unit_choice.hpp"
auto* unit = &heed::tile::bf16_unit;
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


def functions(compiler, machine, source, folder):
    """Yields head, lines of every function of the compiled source."""
    file, built = folder / "loops.cpp", folder / "loops.o"
    file.write_text(source)
    flags = ["-std=c++20", "-O2", MACHINES[machine], f"-I{ROOT}/include"]
    subprocess.run([compiler, *flags, "-c", file, "-o", built], check=True)
    dump = ["objdump", "-dC", "--no-show-raw-insn", "-M", "intel", built]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    for part in re.split(r"\n\n", text):
        head = re.search(r"<.*>:", part)
        if head:
            lines = re.finditer(r"^\s*([0-9a-f]+):\s+(.*)$", part, re.M)
            yield head.group(0), [(int(m.group(1), 16), m.group(2)) for m in lines]


def check_blocks(compiler, machine, source, product, folder):
    problems, seen = [], 0
    for head, lines in functions(compiler, machine, source, folder):
        block = re.search(r"blocks<(\d+), (\d+)(?:, (?:float|heed::[\w:]*no_prefetch))*>\(", head)
        if not block:
            continue
        rows, vectors = int(block.group(1)), int(block.group(2))
        for body in loops(lines):
            products = [i for i in body if re.match(product, i)]
            if not products:
                continue
            seen += 1
            stores = [i for i in body if re.match(r"v?mov\w+\s+(?:\w+ PTR )?\[", i)]
            loads = [i for i in body if i.startswith("v") and "[" in i]
            trips = max(1, len(products) // (rows * vectors))  # an unrolled loop holds several steps
            allowed = trips * (rows + vectors)
            counts = f"{len(products)} products, {len(loads)} loads, {len(stores)} stores"
            name = f"{compiler} {machine} {product} {rows}x{vectors}: {counts}"
            print(name)
            if stores or len(loads) > allowed:
                problems.append(f"{name}, at most {allowed} loads and no store allowed")
    if seen == 0:
        problems.append(f"{compiler} {machine} {product}: no inner loop found")
    return problems


def check_tiles(compiler, folder):
    """The tile instructions of multiply_amx: of each loop, and which tiles its products read and write."""
    problems, seen = [], 0
    for head, lines in functions(compiler, "avx512", UNITS, folder):
        if not re.search(r"::multiply_amx\(", head):
            continue
        for body in loops(lines):
            count = {name: sum(i.startswith(name) for i in body) for name in ("tileloadd", "tdpbf16ps", "tilestored")}
            if count["tdpbf16ps"] != 4:
                continue
            seen += 1
            print(f"{compiler} AMX 2x2: {count}")
            dots = [re.findall(r"tmm(\d)", i) for i in body if i.startswith("tdpbf16ps")]
            if dots != [list("046"), list("147"), list("256"), list("357")]:
                problems.append(f"{compiler} AMX: products of tiles {dots}")
            if count["tileloadd"] != 4 or count["tilestored"] != 0:
                problems.append(f"{compiler} AMX: 4 tile loads and no tile store allowed, found {count}")
    return problems if seen == 1 else problems + [f"{compiler} AMX: found {seen} loops of 2 x 2 tiles"]


def main():
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for compiler in ("g++", "clang++"):
            if shutil.which(compiler) is None:
                print(f"SKIPPED: {compiler} is not installed")
                continue
            for machine in MACHINES:
                problems += check_blocks(compiler, machine, SOURCE, "vfn?madd", Path(folder))
            problems += check_blocks(compiler, "avx512", UNITS, "vdpbf16ps", Path(folder))
            problems += check_tiles(compiler, Path(folder))
    for problem in problems:
        print("FAILED:", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
