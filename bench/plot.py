#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws benchmark rows.

Of softmax_bench, the share of the multiply-add peak against the number of tokens; of mixture_of_head_bench, the time
over that of all heads against the share of active pairs, beside the ideal.

    ./softmax_bench --benchmark_filter=prefill --benchmark_out=softmax.json
    bench/plot.py softmax.json -o softmax.svg
    ./mixture_of_head_bench --benchmark_filter='random|clustered' --benchmark_out=mixture.json
    bench/plot.py mixture.json -o mixture.svg
"""

import argparse
import collections
import json
import re
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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
    parser.add_argument("file", help="JSON written by a benchmark with --benchmark_out=FILE")
    parser.add_argument("-o", "--output", default="softmax.svg", help="picture to write (default: %(default)s)")
    arguments = parser.parse_args()
    with open(arguments.file, encoding="utf-8") as file:
        data = json.load(file)
    active = active_times(data["benchmarks"])
    if active:
        figure, title = plot_active(active), "mixture_of_head forward, one thread. "
    else:
        curves = medians(data["benchmarks"])
        if not curves:
            parser.error(f"{arguments.file} has no rows that this script draws")
        figure, title = plot_shares(curves), "softmax forward, one thread. "
    context = data.get("context", {})
    figure.suptitle(title + context.get("build", "") + "\n" + context.get("one_core", ""), fontsize=7)
    figure.savefig(arguments.output)


if __name__ == "__main__":
    main()
