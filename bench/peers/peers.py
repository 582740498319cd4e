#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Times heed beside torch, onnxruntime and openvino, on the same data in one process: ./run peers [ARGUMENTS]

A row is one call. Every library runs it in every way that it has for it (torch: fused or as matrix products, in
several chunk sizes, ...). Every way is compared with numpy in double, and the fastest right one is the library's.
These then take turns: in each round every library runs once, for at least 2 ms, in an order that changes from round to
round. Printed are medians over the rounds and the median of the ratios to heed within a round.

Writes a JSON file, beside it a picture of all rows on one thread, a short one, and, if there is a page of the same
name, its table: see report.py.
"""

import argparse
import datetime
import gc
import json
import math
import os
import pathlib
import platform
import re
import statistics
import sys
import time

# Threads sleep while another library has its turn. Read when the libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import cases
import libraries
import report

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHORTEST = 0.002  # seconds in a round
NOTES = """\
Included: everything from a call in Python to its return, on inputs that are in place. heed writes into an array that is
there (called by ctypes), torch makes its result anew, onnxruntime and openvino have inputs and outputs bound once.
heed, torch, openvino and onnxruntime's Attention read (batch, head, token, dim); onnxruntime's own operators read
(batch, token, head, dim), converted before the clock starts. Idle threads sleep, none spins."""


def load(arguments):
    """[library], and {name of one that cannot be imported: why}"""
    found, missing = [], {}
    for name, make in {
        "heed": lambda: libraries.Heed(arguments.heed_c),
        "torch": lambda: libraries.Torch(arguments.no_cuda),
        "onnxruntime": libraries.OnnxRuntime,
        "openvino": libraries.OpenVino,
    }.items():
        try:
            found.append(make())
        except Exception as error:
            if name == "heed":
                raise
            missing[name] = brief(error)
    return found, missing


def brief(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def timed(run, calls=1):
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def best_form(library, case, x, want, threads):
    """The entry of a library in a row: its fastest right form, ready to run, or why there is none."""
    try:
        forms = library.forms(case)
    except libraries.Missing as missing:
        return {"status": "none", "why": str(missing)}
    ready, wrong, tried = {}, {}, {}
    for name, build in forms.items():
        try:
            ready[name] = build(x, threads)
            ready[name].before()
            ready[name].run()
            wrong[name] = cases.error(ready[name].results(), want)
        except Exception as error:
            ready.pop(name, None)
            tried[name] = brief(error)
    if not ready:
        return {"status": "none", "why": "; ".join(f"{name}: {why}" for name, why in tried.items())}
    right = [name for name in ready if wrong[name] <= case.allowed]
    times = {name: [] for name in right or ready}
    for _ in range(4):
        for name in times:
            ready[name].before()
            calls = max(1, math.ceil(SHORTEST / min(times[name]))) if times[name] else 1
            times[name].append(timed(ready[name].run, calls))
    seconds = {name: min(mine) for name, mine in times.items()}
    for name in ready:
        tried[name] = f"{seconds[name]:.3g} s" if name in right else f"error {wrong[name]:.1e}"
    fastest = min(seconds, key=seconds.get)
    return {"status": "ok" if right else "wrong", "form": fastest, "error": wrong[fastest], "ready": ready[fastest],
            "calls": max(1, math.ceil(SHORTEST / seconds[fastest])), "tried": tried}


def measure(case, found, missing, threads, rounds, x, want):
    """The row of a case in the JSON file."""
    entries = {name: {"status": "none", "why": f"not imported: {why}"} for name, why in missing.items()}
    for library in found:
        entries[library.name] = best_form(library, case, x, want, threads)
    ready = [(library, entries[library.name]) for library in found if "ready" in entries[library.name]]
    times = {library.name: [] for library, _ in ready}
    gc.collect()
    gc.disable()
    for i in range(rounds):
        turn = ready[i % len(ready) :] + ready[: i % len(ready)]
        for library, entry in turn if i % 2 == 0 else turn[::-1]:
            if library.name == "torch":
                library.torch.set_num_threads(threads)
            entry["ready"].before()
            times[library.name].append(timed(entry["ready"].run, entry["calls"]))
    gc.enable()
    for library, entry in ready:
        entry["error"] = cases.error(entry["ready"].results(), want)  # of the last call
        if entry["error"] > case.allowed:
            entry["status"] = "wrong"
        mine = times[library.name]
        entry["seconds"] = quartiles(mine)
        entry["x_heed"] = quartiles([a / b for a, b in zip(mine, times["heed"])])
        for name in ("ready", "calls"):
            del entry[name]
    order = ["heed", "torch", "onnxruntime", "openvino"]
    return {"group": case.group, "name": case.name, "shape": case.shape, "verb": case.verb, "threads": threads,
            "picture": case.picture, "rounds": rounds, "allowed": case.allowed,
            "results": {name: rounded(entries[name]) for name in order}}


def quartiles(numbers):
    if len(numbers) < 3:
        return [min(numbers), statistics.median(numbers), max(numbers)]
    return statistics.quantiles(numbers, n=4, method="inclusive")


def rounded(entry):
    digits = {name: [float(f"{x:.4g}") for x in entry[name]] for name in ("seconds", "x_heed") if name in entry}
    return entry | digits | ({"error": float(f"{entry['error']:.2g}")} if "error" in entry else {})


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read()
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    flags = flags[1].split() if flags else []
    levels = {"avx512_bf16": "AVX-512 with bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
    level = next((word for flag, word in levels.items() if flag in flags), platform.machine())
    level += ", AMX" if "amx_tile" in flags else ""
    family = re.search(r"cpu family\s*: (.*)", text)
    return f"{model[1] if model else platform.processor()} (family {family[1] if family else '?'}), {level}"


def compiler(path):
    """The compiler of heed_c, which the library itself says."""
    text = pathlib.Path(path).read_bytes()
    for name, pattern in (("clang", rb"clang version ([\d.]+)"), ("GCC", rb"GCC: \([^)]*\) ([\d.]+)")):
        if match := re.search(pattern, text):
            return f"{name} {match[1].decode()}"
    return "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds, without the rows of more than 1024 tokens")
    parser.add_argument("--only", metavar="REGEX", default="", help="rows whose 'group: name' matches")
    parser.add_argument("--rounds", type=int, help="rounds of each row (default: 15)")
    parser.add_argument("--threads", default="1,2", help="counts; all rows run on the first, main rows on all")
    parser.add_argument("--json", metavar="FILE", default=ROOT / "build/peers.json", type=pathlib.Path,
                        help="what to write (default: build/peers.json)")
    parser.add_argument("--note", default="", help="a remark that the file, the pictures and the page carry")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    parser.add_argument("--heed-c", default=ROOT / "build/peers/heed_c.so", help=argparse.SUPPRESS)
    parser.add_argument("--no-cuda", default=ROOT / "build/peers/no_cuda", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [case for case in cases.all_cases() if re.search(arguments.only, f"{case.group}: {case.name}")]
    if arguments.quick:
        chosen = [case for case in chosen if case.verb == "decode" or case.n <= 1024]
    if arguments.list:
        print(*(f"{case.group}: {case.name}" for case in chosen), sep="\n")
        return 0
    if not chosen:
        parser.error("no row matches --only")
    rounds = arguments.rounds or (5 if arguments.quick else 15)
    counts = [int(count) for count in arguments.threads.split(",")]
    counts = [count for count in counts if count <= len(os.sched_getaffinity(0))] or [1]

    found, missing = load(arguments)
    context = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {library.name: library.version for library in found} | {"python": platform.python_version()},
        "heed": f"{compiler(arguments.heed_c)}, -O2 -march=native",
        "note": arguments.note,
        "load": round(os.getloadavg()[0], 2),
    }
    print(context["machine"])
    print(", ".join(f"{name} {version}" for name, version in context["versions"].items()), "-", context["heed"])
    for name, why in missing.items():
        print(f"{name} is left out: {why}")
    print(NOTES)
    rows, group = [], None
    for case in chosen:
        x = cases.data(case)
        want = cases.reference(case, x)
        for threads in counts if case.main else counts[:1]:
            row = measure(case, found, missing, threads, rounds, x, want)
            rows.append(row)
            if case.group != group:
                group = case.group
                print(report.head(group))
            print(report.line(row), flush=True)
    rows.sort(key=lambda row: row["threads"])  # stable: the rows of one thread first, as they ran
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(row) for row in rows)
    arguments.json.write_text(f'{{"context": {json.dumps(context)},\n"rows": [\n{text}\n]}}\n', encoding="utf-8")
    for path in report.write(arguments.json):
        print("written:", path)
    wrong = [f"{row['name']}: {name}" for row in rows for name, entry in row["results"].items()
             if entry["status"] == "wrong"]
    for line in wrong:
        print("WRONG:", line)
    return 1 if any(line.endswith(": heed") for line in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
