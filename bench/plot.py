#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws benchmark rows.

Of softmax_bench, the share of the multiply-add peak against the number of tokens; of mixture_of_head_bench, the time
over that of all heads against the share of active pairs, beside the ideal; of lightning_bench, tokens per second
against the number of tokens, beside softmax, with the crossover. Several files are read as one.

    ./softmax_bench --benchmark_filter=prefill --benchmark_out=softmax.json
    bench/plot.py softmax.json -o softmax.svg
    ./mixture_of_head_bench --benchmark_filter='random|clustered' --benchmark_out=mixture.json
    bench/plot.py mixture.json -o mixture.svg
    ./lightning_bench --benchmark_filter='prefill/D[0-9]*/N[0-9]*$|softmax' --benchmark_out=lightning.json
    bench/plot.py lightning.json -o lightning.svg
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
        name = re.sub(r"/(manual_time|[a-z]+:1)\b", "", row.get("run_name", row["name"]))
        match = re.fullmatch(r"(prefill|softmax)/D(\d+)/N(\d+)", name)
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
    arguments = parser.parse_args()
    data = {}
    for name in arguments.files:
        with open(name, encoding="utf-8") as file:
            more = json.load(file)
        data["context"] = more.get("context", {})
        data.setdefault("benchmarks", []).extend(more["benchmarks"])
    active, rates = active_times(data["benchmarks"]), token_rates(data["benchmarks"])
    if active:
        figure, title = plot_active(active), "mixture_of_head forward, one thread. "
    elif rates:
        figure, title = plot_rates(rates), "lightning and softmax forward, one thread, one head. "
    else:
        curves = medians(data["benchmarks"])
        if not curves:
            parser.error("no rows that this script draws")
        figure, title = plot_shares(curves), "softmax forward, one thread. "
    context = data["context"]
    figure.suptitle(title + context.get("build", "") + "\n" + context.get("one_core", ""), fontsize=7)
    figure.savefig(arguments.output, metadata={"Date": None} if arguments.output.endswith(".svg") else None)


if __name__ == "__main__":
    main()
