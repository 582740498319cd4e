#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws the prefill rows of softmax_bench: share of the multiply-add peak against the number of tokens.

    ./softmax_bench --benchmark_filter=prefill --benchmark_out=softmax.json
    bench/plot.py softmax.json -o softmax.svg
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="JSON written by softmax_bench --benchmark_out=FILE")
    parser.add_argument("-o", "--output", default="softmax.svg", help="picture to write (default: %(default)s)")
    arguments = parser.parse_args()
    with open(arguments.file, encoding="utf-8") as file:
        data = json.load(file)
    curves = medians(data["benchmarks"])
    if not curves:
        parser.error(f"{arguments.file} has no prefill rows with a share of the peak")

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
    context = data.get("context", {})
    figure.suptitle("softmax forward, one thread. " + context.get("build", "") + "\n" + context.get("one_core", ""),
                    fontsize=7)
    figure.savefig(arguments.output)


if __name__ == "__main__":
    main()
