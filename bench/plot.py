#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws benchmark rows.

The picture depends on the rows: from softmax_bench, the share of the multiply-add peak against the number of tokens;
from mixture_of_head_bench, the time over that of all heads against the share of active pairs, beside the ideal; from
lightning_bench, tokens per second against the number of tokens, beside softmax, with the crossover; from decode_bench,
the share of the read bandwidth and tokens per second against the heads of a group, a line for each storage. Several
files are read as one.

--bars draws one bar for each kernel instead, from the rows that BARS names: the share of the multiply-add peak,
beside that of the row <name>/eigen where there is one.

    ./softmax_bench --benchmark_filter=prefill --benchmark_out=softmax.json
    bench/plot.py softmax.json -o softmax.svg
    ./mixture_of_head_bench --benchmark_filter='random|clustered' --benchmark_out=mixture.json
    bench/plot.py mixture.json -o mixture.svg
    ./lightning_bench --benchmark_filter='prefill/D[0-9]*/N[0-9]*$|softmax' --benchmark_out=lightning.json
    bench/plot.py lightning.json -o lightning.svg
    ./decode_bench --benchmark_filter='^(float|bf16|f16|int8)/contiguous/D128/M32768/G[0-9]*/i' \\
      --benchmark_out=decode.json
    bench/plot.py decode.json -o decode.svg
    bench/plot.py --bars softmax.json linear.json lightning.json mixture.json -o share_of_peak.svg

A file is what a benchmark writes with --benchmark_out, the format of Google Benchmark. This script reads from it

    context.build, context.one_core     flags and the peak measured by that process, for the title
    benchmarks[].run_name               the name of the row
    benchmarks[].run_type               "iteration" rows alone; medians over the repetitions are taken here
    benchmarks[].<counter>              pct_peak (--bars, softmax), x_softmax and ideal (mixture), tokens/s (lightning,
                                        decode), pct_read (decode)
"""

import argparse
import collections
import json
import math
import re
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["svg.fonttype"] = "none"  # text stays text
plt.rcParams["svg.hashsalt"] = "heed"  # the same rows, the same file
MASKS = ["dense", "causal", "window"]
LINES = {"heed": ("tab:blue", "o"), "eigen": ("tab:orange", "s"), "naive": ("tab:gray", "^")}

STORAGES = {
    "float": ("tab:blue", "o"), "bf16": ("tab:orange", "s"), "f16": ("tab:green", "D"), "int8": ("tab:red", "^"),
}

BARS = [  # (pattern of a row's name with its D, label), from top to bottom
    (r"prefill/dense/D(\d+)/N4096", "softmax"),
    (r"prefill/causal/D(\d+)/N4096", "softmax, causal"),
    (r"causal/random/D(\d+)/N4096/f50", "mixture of head, half active, causal"),
    (r"prefill/D(\d+)/N4096", "lightning"),
    (r"causal/elu/D(\d+)/N16384", "linear, elu + 1, causal"),
]


def row_name(row):
    """The name of a row without what Google Benchmark adds to it."""
    return re.sub(r"/(manual_time|[a-z_]+:\d+)\b", "", row.get("run_name", row["name"]))


def bar_shares(benchmarks):
    """[(label, share of the peak, that of Eigen or None)], medians over the repetitions."""
    shares = collections.defaultdict(list)
    for row in benchmarks:
        if row["run_type"] == "iteration" and "pct_peak" in row:
            shares[row_name(row)].append(row["pct_peak"])
    middle = {name: statistics.median(values) for name, values in shares.items()}
    bars = []
    for pattern, label in BARS:
        found = [(int(match[1]), name) for name in middle if (match := re.fullmatch(pattern, name))]
        bars += [(f"{label}, D = {d}", middle[name], middle.get(name + "/eigen")) for d, name in sorted(found)]
    return bars


def plot_bars(bars):
    figure, axis = plt.subplots(figsize=(7.2, 0.42 * len(bars) + 1.0), layout="constrained")
    place = range(len(bars))
    axis.barh([y - 0.18 for y in place], [heed for _, heed, _ in bars], 0.36, color="tab:blue", label="heed")
    rivals = [(y + 0.18, eigen) for y, (_, _, eigen) in zip(place, bars) if eigen is not None]
    if rivals:
        axis.barh(*zip(*rivals), 0.36, color="tab:orange", label="the same with Eigen's matrix products")
    for y, share in [(y - 0.18, heed) for y, (_, heed, _) in zip(place, bars)] + rivals:
        axis.annotate(f"{share:.0f}", (share, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set_yticks(place, [label for label, _, _ in bars], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("% of the multiply-add peak of one core", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.legend(fontsize=8, loc="outside upper right", ncols=2, frameon=False)
    return figure


def medians(benchmarks):
    """{(mask, D, line): [(N, share of the peak)]}, the median over the repetitions."""
    shares = collections.defaultdict(list)
    for row in benchmarks:
        match = re.fullmatch(r"prefill/(\w+)/D(\d+)/N(\d+)(?:/(eigen|naive))?", row.get("run_name", row["name"]))
        if match and row["run_type"] == "iteration" and "pct_peak" in row:
            mask, d, n, line = match.groups()
            shares[mask, int(d), line or "heed", int(n)].append(row["pct_peak"])
    curves = collections.defaultdict(list)
    for (mask, d, line, n), values in sorted(shares.items()):
        curves[mask, d, line].append((n, statistics.median(values)))
    return curves


def active_times(benchmarks):
    """{(mask, D, routing): {N: [(active share, time over all heads)]}}, medians over the repetitions."""
    times = collections.defaultdict(list)
    for row in benchmarks:
        match = re.match(r"(\w+)/(random|clustered)/D(\d+)/N(\d+)/f\d+", row.get("run_name", row["name"]))
        if match and row["run_type"] == "iteration" and "x_softmax" in row:
            mask, routing, d, n = match.groups()
            times[mask, int(d), routing, int(n), row["ideal"]].append(row["x_softmax"])
    curves = collections.defaultdict(lambda: collections.defaultdict(list))
    for (mask, d, routing, n, share), values in sorted(times.items()):
        curves[mask, d, routing][n].append((share, statistics.median(values)))
    return curves


def token_rates(benchmarks):
    """{D: {line: [(N, number)]}} for the lines lightning and softmax, tokens/s, and ratio, that of the two measured
    side by side; medians over the repetitions."""
    numbers = collections.defaultdict(list)
    for row in benchmarks:
        match = re.fullmatch(r"(prefill|softmax)/D(\d+)/N(\d+)", row_name(row))
        if not match or row["run_type"] != "iteration" or "tokens/s" not in row:  # a failed row
            continue
        kind, d, n = match[1], int(match[2]), int(match[3])
        if kind == "prefill":
            numbers[d, "lightning", n].append(row["tokens/s"])
        elif "x_softmax" in row:
            numbers[d, "softmax", n].append(row["softmax_tokens/s"])
            numbers[d, "ratio", n].append(row["x_softmax"])
    curves = collections.defaultdict(lambda: collections.defaultdict(list))
    for (d, line, n), values in sorted(numbers.items()):
        curves[d][line].append((n, statistics.median(values)))
    return {d: lines for d, lines in curves.items() if "softmax" in lines and "lightning" in lines}


def group_curves(benchmarks):
    """{storage: [(heads of a group, % of the read bandwidth, % of the peak, tokens/s)]}, medians of the repetitions."""
    rows = collections.defaultdict(list)
    for row in benchmarks:
        match = re.fullmatch(r"(\w+)/contiguous/D128/M32768/G(\d+)", row_name(row))
        if match and row["run_type"] == "iteration" and "pct_read" in row:
            rows[match[1], int(match[2])].append((row["pct_read"], row["pct_peak"], row["tokens/s"]))
    curves = collections.defaultdict(list)
    for (storage, group), values in sorted(rows.items()):
        curves[storage].append((group, *map(statistics.median, zip(*values))))
    return curves


def crossing(ratios):
    """The N where the ratio passes 1 for good, interpolated in log N, log ratio."""
    for (n0, r0), (n1, r1) in reversed(list(zip(ratios, ratios[1:]))):
        if r0 < 1 <= r1:
            share = math.log(1 / r0) / math.log(r1 / r0)
            return math.exp(math.log(n0) + share * math.log(n1 / n0))
    return None


def plot_rates(curves):
    figure, axes = plt.subplots(1, len(curves), squeeze=False, sharey=True, figsize=(4.2 * len(curves), 3.6),
                                layout="constrained")
    for axis, (d, lines) in zip(axes.flat, sorted(curves.items())):
        for line, color, marker in (("lightning", "tab:blue", "o"), ("softmax", "tab:orange", "s")):
            n, rate = zip(*lines[line])
            axis.plot(n, rate, color=color, marker=marker, markersize=4, label=line)
        cross = crossing(lines["ratio"])
        if cross is not None:
            print(f"D = {d}: crossover at {cross:.0f} tokens")
            axis.axvline(cross, color="black", linewidth=0.8, linestyle="--")
            axis.annotate(f" crossover {cross:.0f}", (cross, 0.03), xycoords=("data", "axes fraction"), fontsize=8)
        axis.set_title(f"causal, D = E = {d}", fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks([64, 256, 1024, 4096, 16384, 65536, 262144], ["64", "256", "1k", "4k", "16k", "64k", "256k"])
        axis.grid(alpha=0.3)
        axis.set_xlabel("tokens N")
    axes.flat[0].set_ylabel("tokens/s")
    axes.flat[0].legend(fontsize=8, loc="center right")
    return figure


def plot_groups(curves):
    figure, (shares, rates) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for storage, (color, marker) in STORAGES.items():
        if storage not in curves:
            continue
        group, read, peak, rate = zip(*curves[storage])
        shares.plot(group, read, color=color, marker=marker, markersize=4, label=storage)
        rates.plot(group, rate, color=color, marker=marker, markersize=4, label=storage)
        if storage == "float":  # the multiply-add peak ends here
            limit = [min(100, 100 * x / y) for x, y in zip(read, peak)]
            shares.plot(group, limit, color="black", linewidth=0.8, linestyle="--", label="float, smaller roof")
    for axis, label in ((shares, "% of the read bandwidth"), (rates, "tokens/s")):
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.set_ylim(0, 105 if axis is shares else None)
        axis.grid(alpha=0.3)
        axis.set_xlabel("query heads of each key/value head")
        axis.set_ylabel(label)
    rates.legend(*shares.get_legend_handles_labels(), fontsize=8)
    return figure


def plot_active(curves):
    keys = sorted(curves, key=lambda key: (MASKS.index(key[0]), key[2], key[1]))
    columns = 2 if len(keys) > 1 else 1
    figure, axes = plt.subplots((len(keys) + columns - 1) // columns, columns, squeeze=False, sharex=True, sharey=True,
                                figsize=(4 * columns, 3.2 * ((len(keys) + columns - 1) // columns)),
                                layout="constrained")
    for axis, key in zip(axes.flat, keys):
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="ideal")
        for n, points in sorted(curves[key].items()):
            share, time = zip(*points)
            axis.plot(share, time, marker="o", markersize=3, label=f"N = {n}")
        axis.set_title(f"{key[0]}, {key[2]}, D = {key[1]}", fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_xlabel("share of active pairs")
        axis.set_ylabel("time over all heads")
    axes.flat[0].legend(fontsize=8)
    return figure


def plot_shares(curves):
    masks = [mask for mask in MASKS if any(key[0] == mask for key in curves)]
    dims = sorted({key[1] for key in curves})
    figure, axes = plt.subplots(len(masks), len(dims), figsize=(3.2 * len(dims), 2.6 * len(masks)), sharex=True,
                                sharey=True, squeeze=False, layout="constrained")
    for row, mask in zip(axes, masks):
        for axis, d in zip(row, dims):
            for line, (color, marker) in LINES.items():
                if (mask, d, line) in curves:
                    n, share = zip(*curves[mask, d, line])
                    axis.plot(n, share, color=color, marker=marker, markersize=4, label=line)
            axis.set_title(f"{mask}, D = {d}", fontsize=9)
            axis.set_xscale("log", base=2)
            axis.set_ylim(0, 100)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("% of peak")
    for axis in axes[-1]:
        axis.set_xlabel("tokens N")
    max(axes.flat, key=lambda axis: len(axis.lines)).legend(fontsize=8)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="file",
                        help="JSON written by a benchmark with --benchmark_out=FILE")
    parser.add_argument("-o", "--output", default="softmax.svg", help="picture to write (default: %(default)s)")
    parser.add_argument("--bars", action="store_true", help="one bar for each kernel")
    arguments = parser.parse_args()
    data = {}
    for name in arguments.files:
        with open(name, encoding="utf-8") as file:
            more = json.load(file)
        data["context"] = more.get("context", {})
        data.setdefault("benchmarks", []).extend(more["benchmarks"])
    active, rates = active_times(data["benchmarks"]), token_rates(data["benchmarks"])
    groups = group_curves(data["benchmarks"])
    if arguments.bars:
        bars = bar_shares(data["benchmarks"])
        if not bars:
            parser.error("no rows that --bars draws")
        figure, title = plot_bars(bars), None  # its title stands in the text around it
    elif active:
        figure, title = plot_active(active), "mixture_of_head forward, one thread. "
    elif rates:
        figure, title = plot_rates(rates), "lightning and softmax forward, one thread, one head. "
    elif groups:
        figure = plot_groups(groups)
        title = "softmax decode, one thread, 8 key/value heads, M = 32768, D = 128. "
    else:
        curves = medians(data["benchmarks"])
        if not curves:
            parser.error("no rows that this script draws")
        figure, title = plot_shares(curves), "softmax forward, one thread. "
    context = data["context"]
    if title is not None:
        figure.suptitle(title + context.get("build", "") + "\n" + context.get("one_core", ""), fontsize=7)
    figure.savefig(arguments.output, metadata={"Date": None} if arguments.output.endswith(".svg") else None)


if __name__ == "__main__":
    main()
