#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measures what docs/performance.md shows, and draws it.

    bench/performance.py measure [SUITE...]   runs the benchmarks of the suites, all if none is named (under 8 minutes
                                              once they are built),
                                              and writes docs/performance/<suite>.json
    bench/performance.py plots                draws docs/performance/<suite>.svg from these files, and writes the table
                                              of machines in docs/performance.md

A file has the format of Google Benchmark, with one entry for each row: the medians of the counters that are drawn. Its
context names the machine, the date and the command. `./run measure` and `./run plots` install what is needed.
"""

import argparse
import collections
import datetime
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/performance"
PAGE = ROOT / "docs/performance.md"

Suite = collections.namedtuple("Suite", "bench rows counters arguments")
MANY = "--benchmark_min_time=0.1 --benchmark_repetitions=5"
FEW = "--benchmark_min_time=0.05 --benchmark_repetitions=3"
SUITES = {  # name: benchmark, rows, counters that are kept, arguments
    "softmax": Suite("softmax", r"^prefill/(dense|causal)/D(64|128)/N[0-9]*(/eigen)?$", "pct_peak", MANY),
    "decode": Suite("decode", r"^(float|bf16|f16|int8)/contiguous/D128/M32768/G[0-9]*/i", "pct_read pct_peak tokens/s",
                    "--benchmark_repetitions=3"),
    "lightning": Suite("lightning", r"^prefill/D(64|128)/N[0-9]*$|^softmax/D(64|128)/N(64|256|1024|4096|16384)/",
                       "tokens/s softmax_tokens/s x_softmax", FEW),
    "sparse_query": Suite("sparse_query", r"^causal/[a-z]*/N4096/", "x_mha ideal", FEW),
    "mixture_of_head": Suite("mixture_of_head", r"^causal/(random|clustered)/D64/N(1024|4096)/f", "x_softmax ideal",
                             FEW),
    "backward": Suite("softmax_backward", r"^(dense|causal)/D(64|128)/N(64|256|1024|2048|8192)/(eigen/)?m",
                      "pct_fwd pct_bwd pct_peak", FEW),
    "backward_linear": Suite("linear", r"^backward/D(64|128)/N(1024|4096|16384|65536)/m", "pct_peak x_forward", FEW),
    "backward_lightning": Suite("lightning", r"^backward/D(64|128)/N(1024|4096|16384|65536)/m", "pct_peak x_forward",
                                FEW),
    "sixteen_bit": Suite("softmax_half", r"^(bf16|f16)/(dense|causal)/D(64|128)/N(64|256|1024|2048|4096)/", "x_float",
                         FEW),
}


def machine():
    """The processor, how many of its cores are here, and whether they are a virtual machine's."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    units = [name for name, flag in (("AMX", "amx_bf16"), ("AVX-512 BF16", "avx512_bf16"), ("AVX-512", "avx512f"),
                                     ("AVX2", "avx2")) if flag in flags]
    kind = "virtual, " if "hypervisor" in flags else ""
    cores = sum(line.startswith("processor") for line in lines)
    return f"{model} ({kind}{cores} core{'s' * (cores != 1)}{', ' + units[0] if units else ''})"


def measure(name, suite, binaries):
    """Runs a suite and writes its file; returns whether the benchmark was content."""
    arguments = [f"--benchmark_filter={suite.rows}", *suite.arguments.split()]
    start = [str(ROOT / "run"), "bench", suite.bench] if binaries is None else [f"{binaries}/{suite.bench}_bench"]
    if binaries is None:  # builds it
        subprocess.run([*start, "--benchmark_list_tests"], stdout=subprocess.DEVNULL, check=True)
    begin = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run([*start, *arguments, f"--benchmark_out={file.name}"], stdout=subprocess.DEVNULL)
        data = json.loads(pathlib.Path(file.name).read_text() or "{}")
    rows = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in data.get("benchmarks", []):
        for counter in suite.counters.split():
            if row["run_type"] == "iteration" and counter in row:
                rows[re.sub(r"/(manual_time|[a-z_]+:\d+)\b", "", row["run_name"])][counter].append(row[counter])
    if not rows:
        return False
    context = {key: data["context"].get(key, "") for key in ("build", "one_core")}
    context |= {"machine": machine(), "date": datetime.date.today().isoformat(),
                "command": f"./run bench {suite.bench} '--benchmark_filter={suite.rows}' {suite.arguments}"}
    entries = [{"name": row, "run_name": row, "run_type": "iteration"} |
               {counter: float(f"{statistics.median(values):.5g}") for counter, values in counters.items()}
               for row, counters in rows.items()]
    about = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in context.items())
    lines = ",\n".join("    " + json.dumps(entry) for entry in entries)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(
        f'{{\n  "context": {{\n{about}\n  }},\n  "benchmarks": [\n{lines}\n  ]\n}}\n')
    print(f"::: {name}: {len(rows)} rows, {time.monotonic() - begin:.0f} s", flush=True)
    return done.returncode == 0


# Drawing. matplotlib is needed from here on, and is imported by what draws.

def rows_of(data, pattern):
    """[(groups of the name, row)] of the rows whose name matches."""
    return [(match.groups(), row) for row in data["benchmarks"] if (match := re.fullmatch(pattern, row["run_name"]))]


def log_axis(axis, numbers, label):
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [f"{n // 1024}k" if n >= 1024 else str(n) for n in numbers])
    axis.minorticks_off()
    axis.set_xlabel(label)
    axis.grid(alpha=0.3)


def start_at_zero(axes, top=None):
    """Gives axes one scale from 0 to `top`, or to a little more than their largest number."""
    largest = max(max(line.get_ydata()) for axis in axes for line in axis.lines)
    for axis in axes:
        axis.set_ylim(0, top or 1.1 * largest)


def line_panels(data, pattern, counters, label, plt):
    """A panel for each (mask, D) of pattern's groups (line, mask, D, N); a line for each counter and line."""
    lines = collections.defaultdict(lambda: collections.defaultdict(list))
    for (line, mask, d, n), row in rows_of(data, pattern):
        for counter, text in counters.items():
            if counter in row:
                lines[mask, int(d)][text.format(line)].append((int(n), row[counter]))
    panels = sorted(lines, key=lambda key: (key[0] != "dense", key))
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.9), sharey=True, squeeze=False,
                                layout="constrained")
    for axis, key in zip(axes.flat, panels):
        for at, (text, points) in enumerate(lines[key].items()):
            axis.plot(*zip(*sorted(points)), marker="osD^v"[at % 5], markersize=4, label=text)
        every = sorted({n for points in lines[key].values() for n, _ in points})
        log_axis(axis, every if len(every) < 6 else every[::2], "tokens N")
        axis.set_title(f"{key[0]}, D = {key[1]}", fontsize=9)
    start_at_zero(axes.flat)
    axes.flat[0].set_ylabel(label)
    axes.flat[-1].legend(fontsize=7)
    return figure


def draw_softmax(data, plot, plt):
    names = {"": "heed", "/eigen": "Eigen"}
    for row in data["benchmarks"]:  # the line in front, as line_panels wants it
        match = re.fullmatch(r"prefill/(\w+/D\d+/N\d+)(|/eigen)", row["run_name"])
        row["run_name"] = f"{names[match[2]]}/{match[1]}"
    figure = line_panels(data, r"(\w+)/(dense|causal)/D(\d+)/N(\d+)", {"pct_peak": "{}"}, "% of the multiply-add peak",
                         plt)
    start_at_zero(figure.axes, 100)
    return figure


def draw_backward(data, plot, plt):
    figure = line_panels(data, r"()(dense|causal)/D(\d+)/N(\d+)", {"pct_fwd": "forward", "pct_bwd": "backward"},
                         "% of the multiply-add peak", plt)
    for axis in figure.axes:
        mask, d = axis.get_title().split(", D = ")
        points = [(int(n), row["pct_peak"]) for (n,), row in rows_of(data, rf"{mask}/D{d}/N(\d+)/eigen")]
        if points:
            axis.plot(*zip(*sorted(points)), marker="D", markersize=4, label="backward, Eigen")
    start_at_zero(figure.axes, 100)
    figure.axes[-1].legend(fontsize=7)
    return figure


def draw_recurrent_backward(data, plot, plt):
    lines = collections.defaultdict(list)
    for (d, n), row in rows_of(data, r"backward/D(\d+)/N(\d+)"):
        lines[int(d)].append((int(n), row["pct_peak"], row["x_forward"]))
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.7), layout="constrained")
    for at, label in ((1, "backward, % of the peak"), (2, "time over forward")):
        for d, points in sorted(lines.items()):
            n, *values = zip(*sorted(points))
            axes[at - 1].plot(n, values[at - 1], marker="o", markersize=4, label=f"D = {d}")
        log_axis(axes[at - 1], sorted({point[0] for points in lines.values() for point in points}), "tokens N")
        axes[at - 1].set_ylabel(label, fontsize=8)
        start_at_zero([axes[at - 1]], 100 if at == 1 else None)
    axes[0].legend(fontsize=7)
    return figure


def draw_sixteen_bit(data, plot, plt):
    figure = line_panels(data, r"(bf16|f16)/(dense|causal)/D(\d+)/N(\d+)", {"x_float": "{}"},
                         "times as fast as float", plt)
    for axis in figure.axes:
        axis.axhline(1, color="black", linewidth=0.8)
    start_at_zero(figure.axes)
    return figure


def draw_sparse_query(data, plot, plt):
    rows = sorted(((variant, row["ideal"], row["x_mha"]) for (variant,), row in rows_of(data, r"causal/(\w+)/N4096")),
                  key=lambda row: (-row[1], row[0]))
    figure, axis = plt.subplots(figsize=(6.4, 0.32 * len(rows) + 0.9), layout="constrained")
    place = range(len(rows))
    axis.barh([y - 0.18 for y in place], [time for _, _, time in rows], 0.36, label="measured")
    axis.barh([y + 0.18 for y in place], [ideal for _, ideal, _ in rows], 0.36, color="tab:gray",
              label="share of the multiplications")
    axis.set_yticks(place, [name for name, _, _ in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("time over that of multi-head attention of the same width, causal, N = 4096", fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(fontsize=7)
    return figure


DRAW = {
    "softmax": draw_softmax,
    "decode": lambda data, plot, plt: plot.plot_groups(plot.group_curves(data["benchmarks"])),
    "lightning": lambda data, plot, plt: plot.plot_rates(plot.token_rates(data["benchmarks"])),
    "sparse_query": draw_sparse_query,
    "mixture_of_head": lambda data, plot, plt: plot.plot_active(plot.active_times(data["benchmarks"])),
    "backward": draw_backward,
    "backward_linear": draw_recurrent_backward,
    "backward_lightning": draw_recurrent_backward,
    "sixteen_bit": draw_sixteen_bit,
}


def draw(name, plot, plt):
    """Draws a suite, or a note where it has not been measured; returns its line of the table."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        figure = plt.figure(figsize=(6.4, 0.6))
        figure.text(0.5, 0.5, f"not measured yet: ./run measure {name}", ha="center", va="center", fontsize=9)
        line = f"| {name} | not measured | | |"
    else:
        data = json.loads(file.read_text())
        context = data["context"]
        figure = DRAW[name](data, plot, plt)
        rates = re.match(r"float ([\d.]+).*?read ([\d.]+)", context["one_core"])
        compiler = context["build"].split(", flags")[0].strip()
        limits = f"{rates[1]} GFLOP/s, {rates[2]} GB/s" if rates else ""
        figure.suptitle(f"one thread, {context['machine']}\n{context['date']}, {compiler}, {limits}", fontsize=7)
        line = f"| {name} | {context['machine']}, {compiler} | {limits} | {context['date']} |"
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "plots"])
    parser.add_argument("suites", nargs="*", metavar="suite", help=", ".join(SUITES))
    parser.add_argument("--binaries", help="run the benchmarks of this folder as they are, instead of ./run bench")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(unknown)}")
    chosen = arguments.suites or list(SUITES)
    if arguments.what == "measure":
        failed = [name for name in chosen if not measure(name, SUITES[name], arguments.binaries)]
        print(f"{len(chosen) - len(failed)} suites measured" + (f", failed: {', '.join(failed)}" if failed else ""))
        return bool(failed)
    import plot  # matplotlib
    lines = [draw(name, plot, plot.plt) for name in SUITES]
    table = "| suite | machine and compiler | one core: multiply-add peak, read rate | measured |\n|---|---|---|---|\n"
    page = PAGE.read_text()
    page = re.sub(r"(<!-- measured -->\n).*?(<!-- /measured -->)",
                  lambda match: match[1] + table + "\n".join(lines) + "\n" + match[2], page, flags=re.S)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
