#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws docs/numerics.json, which `./run bench accuracy --json` writes, and prints the tables of docs/numerics.md.

    build/docs-env/bin/python docs/draw_numerics.py docs/numerics.json docs/numerics.svg
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["svg.fonttype"] = "none"  # text stays text
plt.rcParams["svg.hashsalt"] = "heed"  # the same rows, the same file
EPS = 2.0 ** -23
TICKS = [16, 256, 4096, 65536, 1 << 20]


def select(rows, **wanted):
    return sorted((r for r in rows if all(r[key] == value for key, value in wanted.items())), key=lambda r: r["m"])


def draw(axis, rows, label, **style):
    if rows:
        axis.plot([r["m"] for r in rows], [r["max"] for r in rows], label=label, markersize=3.5, linewidth=1.2, **style)


def picture(rows):
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
    softmax, kept, recurrent = axes
    mild = {"kernel": "softmax", "scores": "mild", "d": 64}
    for path, color in (("forward 64 rows", "tab:blue"), ("forward 1 row", "tab:cyan")):
        draw(softmax, select(rows, path=path, type="f32", by="heed", **mild), f"heed, {path[8:]}", color=color,
             marker="o")
    for path, line in (("forward 64 rows", "-"), ("forward 1 row", ":")):
        draw(softmax, select(rows, path=path, type="f32", by="torch", **mild), f"PyTorch, {path[8:]}",
             color="tab:orange", marker="s", linestyle=line)
    draw(softmax, select(rows, path="forward 64 rows", type="f32", by="naive", **mild), "textbook loop",
         color="tab:gray", marker="^")
    softmax.set_title("softmax forward, float, D = 64", fontsize=9)
    for kind, color in (("f32", "tab:blue"), ("f16", "tab:green"), ("bf16", "tab:orange"), ("int8", "tab:red")):
        cached = {"path": "decode 1 row", "type": kind, **mild}
        draw(kept, select(rows, by="heed, stored", **cached), f"{kind}: of what is stored", color=color, marker="o")
        if kind != "f32":
            draw(kept, select(rows, by="heed, before rounding", **cached), f"{kind}: of the floats before", color=color,
                 marker="o", markerfacecolor="none", linestyle="--")
    kept.set_title("softmax decode, by the type of the cache", fontsize=9)
    for decay, color in zip(sorted({r["decay"] for r in rows if r["kernel"] == "lightning"}, reverse=True),
                            ("tab:blue", "tab:green", "tab:orange", "tab:red")):
        same = {"kernel": "lightning", "decay": decay}
        draw(recurrent, select(rows, path="forward", by="heed", **same), f"forward, decay {decay:.5g}", color=color,
             marker="o")
        draw(recurrent, select(rows, path="decode", by="heed", **same), None, color=color, marker="o",
             markerfacecolor="none", linestyle="--")
    draw(recurrent, select(rows, kernel="lightning", decay=1, path="forward", by="naive"), "textbook loop, decay 1",
         color="tab:gray", marker="^")
    recurrent.set_title("lightning, float, D = 64 (dashed: decode)", fontsize=9)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(TICKS, ["16", "256", "4k", "64k", "1M"])
        axis.axhline(EPS, color="black", linewidth=0.6, linestyle=":")
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("keys or tokens M", fontsize=8)
        axis.legend(fontsize=6.5, loc="upper right" if axis is kept else "upper left")
    softmax.set_ylabel("largest error / largest result", fontsize=8)
    return figure


def table(rows, first, columns, lines):
    """Prints a table of docs/numerics.md: largest errors. columns: {title: wanted}; lines: {title: wanted}"""
    print(f"\n| {first} |", " | ".join(columns), "|\n|" + "---|" * (len(columns) + 1))
    for title, line in lines.items():
        cells = [select(rows, **line, **column) for column in columns.values()]
        print(f"| {title} |", " | ".join(f"{cell[0]['max']:.1e}" if cell else "" for cell in cells), "|")


def lengths(*keys):
    return {f"{m // 1024}k" if 1024 <= m < 1 << 20 else "1M" if m == 1 << 20 else str(m): {"m": m} for m in keys}


def tables(rows):
    forward = {"kernel": "softmax", "type": "f32"}
    by = {
        "heed, 64 rows": forward | {"path": "forward 64 rows", "by": "heed"},
        "heed, 1 row": forward | {"path": "forward 1 row", "by": "heed"},
        "PyTorch, 64 rows": forward | {"path": "forward 64 rows", "by": "torch"},
        "PyTorch, 1 row": forward | {"path": "forward 1 row", "by": "torch"},
        "textbook loop": forward | {"path": "forward 64 rows", "by": "naive"},
    }
    all_lengths = lengths(16, 256, 4096, 65536, 1 << 20)
    mild = {name: line | {"scores": "mild", "d": 64} for name, line in by.items()}
    table(rows, "softmax, keys M", all_lengths, mild)
    table(rows, "M = 64k, scores", {kind: {"scores": kind} for kind in ("mild", "4x", "16x", "dominant", "equal")},
          {name: line | {"m": 65536, "d": 64} for name, line in by.items()})
    table(rows, "M = 4k, head dim D", {str(d): {"d": d} for d in (16, 32, 64, 128, 256)},
          {name: line | {"m": 4096, "scores": "mild"} for name, line in by.items()})
    cached = {"kernel": "softmax", "path": "decode 1 row", "scores": "mild"}
    table(rows, "decode, M", lengths(256, 4096, 65536, 262144), {
        f"{kind}, {title}": cached | {"type": kind, "by": who}
        for kind in ("f32", "f16", "bf16", "int8")
        for title, who in (("of what is stored", "heed, stored"), ("of the floats before", "heed, before rounding"))
        if kind != "f32" or who == "heed, stored"})
    backward = {"kernel": "softmax", "type": "f32"}
    table(rows, "backward, M or N", lengths(64, 256, 4096, 16384), {
        f"{name}, {path[9:]}{'' if who == 'heed' else ', textbook loop'}":
            backward | {"path": f"{path} {name}", "by": who}
        for path in ("backward 64 rows", "backward 64 keys") for name in ("dq", "dk", "dv")
        for who in ("heed", "naive")})
    recurrent = {}
    for kernel, decay in [("linear", 1)] + [("lightning", d) for d in sorted(
            {r["decay"] for r in rows if r["kernel"] == "lightning"}, reverse=True)]:
        title = kernel if kernel == "linear" else f"lightning, decay {decay:.6g}"
        for name, path, who in (("forward", "forward", "heed"), ("decode", "decode", "heed"),
                                ("textbook loop", "forward", "naive")):
            recurrent[f"{title}: {name}"] = {"kernel": kernel, "decay": decay, "path": path, "by": who}
    table(rows, "tokens", all_lengths, recurrent)
    local = {"kernel": "local linear", "d": 64, "scores": "ridge 0.1"}
    table(rows, "local linear, M", lengths(16, 256, 4096, 65536), {
        "heed": local | {"path": "forward", "by": "heed"},
        "heed, `solver::direct`": local | {"path": "forward, direct", "by": "heed"},
        "textbook loop": local | {"path": "forward", "by": "naive"}})


def main():
    data = json.load(open(sys.argv[1], encoding="utf-8"))
    picture(data["rows"]).savefig(sys.argv[2], metadata={"Date": None})
    tables(data["rows"])


if __name__ == "__main__":
    main()
