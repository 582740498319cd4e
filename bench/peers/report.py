#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws and tabulates what peers.py measured, with Python alone.

    bench/peers/report.py docs/peers.json

writes peers.svg (all rows on one thread) and peers_short.svg beside the file, and puts the tables between the two
<!-- peers --> lines of peers.md, if there is one. The same file gives the same bytes.
"""

import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

LIBRARIES = ["heed", "torch", "onnxruntime", "openvino"]
PEERS = LIBRARIES[1:]


# ---- text -----------------------------------------------------------------------------------------------------------


def duration(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            number = seconds * factor
            return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:.3g} {unit}"


def head(group):
    return f"\n{group}\n  {'':46} T  " + "".join(f"{name:>26}" for name in LIBRARIES)


def line(row):
    """Time, times heed's, and error of each library; then the quartiles, forms and reasons."""
    cells, remarks = [], []
    for name in LIBRARIES:
        entry = row["results"][name]
        if entry["status"] == "none":
            cells.append("–")
            remarks.append(f"{name}: {entry['why']}")
            continue
        ratio = "" if name == "heed" else f"{entry['x_heed'][1]:.2f}x "
        state = "WRONG " if entry["status"] == "wrong" else ""
        cells.append(f"{state}{duration(entry['seconds'][1])} {ratio}{entry['error']:.0e}")
        spread = "" if name == "heed" else f", {entry['x_heed'][0]:.2f} to {entry['x_heed'][2]:.2f}"
        remarks.append(f"{name}: {entry['form']}{spread}" if name != "heed" else
                       f"heed: {duration(entry['seconds'][0])} to {duration(entry['seconds'][2])}")
    text = f"  {row['name']:46} {row['threads']}  " + "".join(f"{cell:>26}" for cell in cells)
    return text + "\n" + "".join(f"      {remark}\n" for remark in remarks).rstrip()


def cell(row, name):
    entry = row["results"][name]
    if entry["status"] == "none":
        return "–"
    if entry["status"] == "wrong":
        return "wrong"
    ratio = f"{entry['x_heed'][1]:.2f}"
    return f"**{ratio}**" if entry["x_heed"][1] < 1 else ratio


def tables(data):
    """The rows as Markdown, a table for each group, and what was in use."""
    rows, lines = data["rows"], [source(data)]
    for group in dict.fromkeys(row["group"] for row in rows):
        lines += [f"\n| {group} | threads | heed | " + " | ".join(PEERS) + " | error of heed |",
                  "|---|---|---|" + "---|" * len(PEERS) + "---|"]
        mine = [row for row in rows if row["group"] == group]
        for row in mine:
            entry = row["results"]["heed"]
            lines.append(f"| {row['name']} | {row['threads']} | {duration(entry['seconds'][1])} | "
                         + " | ".join(cell(row, name) for name in PEERS) + f" | {entry['error']:.0e} |")
    reasons = dict.fromkeys(f"- {name}, {row['group']}: {entry['why']}" for row in rows
                            for name, entry in row["results"].items() if entry["status"] == "none")
    return "\n".join(lines + ["\nWhy there is no number:\n", *reasons]) + "\n"


def wrapped(text, columns=120):
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > columns:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def source(data):
    context = data["context"]
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items() if name in PEERS)
    note = f" {context['note']}." if context["note"] else ""
    rounds = sorted({row["rounds"] for row in data["rows"]})
    return wrapped(f"Measured on {context['date']} on {context['machine']}: heed ({context['heed']}), {versions}; "
                   f"medians of {' or '.join(map(str, rounds))} rounds.{note}")


# ---- pictures -------------------------------------------------------------------------------------------------------

STYLE = """\
  .paper { fill: #ffffff } text { font-family: sans-serif; font-size: 11px; fill: #1f2328 }
  .group { font-weight: bold } .small { font-size: 10px; fill: #59636e } .right { text-anchor: end }
  .middle { text-anchor: middle } .grid { stroke: #d8dee4 } .one { stroke: #0969da; stroke-width: 2 }
  .heed { fill: #0969da } .torch { fill: #d9650d } .onnxruntime { fill: #6e7781 } .openvino { fill: #1a8f5a }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #30363d }
    .one { stroke: #4493f8 } .heed { fill: #4493f8 } .torch { fill: #f0883e } .onnxruntime { fill: #a5adb6 }
    .openvino { fill: #3fb970 }
  }
"""
LEFT, RIGHT, WIDTH = 372, 46, 860  # pixels: before the bars, behind them, in all
BAR, GAP = 10, 8
LOWEST, HIGHEST = 0.5, 16  # times heed's


def place(ratio):
    """Pixels of a ratio, on a logarithmic axis."""
    share = math.log(min(max(ratio, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def svg(data, rows):
    """Bars from 1, heed's time, to the time of each library: to the right slower than heed, to the left faster."""
    body, y, group = [], 74, None
    first = y
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            y += 8 if y > first else 0
            body.append(f'<text class="group" x="12" y="{y + 12}">{escape(group)}</text>')
            y += 20
        bars = [(name, row["results"][name]) for name in PEERS if row["results"][name]["status"] == "ok"]
        height = max(len(bars), 1) * (BAR + 2)
        middle = y + height / 2 + 4
        mine = duration(row["results"]["heed"]["seconds"][1])
        body.append(f'<text x="24" y="{middle:g}">{escape(row["name"])}</text>')
        body.append(f'<text class="small right" x="{LEFT - 12}" y="{middle:g}">{mine}</text>')
        for name, entry in bars:
            ratio = entry["x_heed"][1]
            begin, end = sorted((place(1), place(ratio)))
            body.append(f'<rect class="{name}" x="{begin:g}" y="{y}" width="{max(end - begin, 1):g}" height="{BAR}"/>')
            number = f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"
            at = f'class="small" x="{end + 4:g}"' if ratio >= 1 else f'class="small right" x="{begin - 4:g}"'
            body.append(f'<text {at} y="{y + BAR - 1}">{number}</text>')
            y += BAR + 2
        if not bars:
            y += BAR + 2
        y += GAP
    bottom = y
    lines = []
    for ratio in (0.5, 1, 2, 4, 8, 16):
        x = place(ratio)
        if ratio != 1:
            lines.append(f'<line class="grid" x1="{x:g}" y1="66" x2="{x:g}" y2="{bottom}"/>')
        lines.append(f'<text class="small middle" x="{x:g}" y="60">{ratio:g}</text>')
    one = f'<line class="one" x1="{place(1):g}" y1="66" x2="{place(1):g}" y2="{bottom}"/>'
    top = [f'<text class="group" x="12" y="20">Time, heed = 1: right of the line slower than heed, left of it faster'
           "</text>"]
    x = 12
    for name in LIBRARIES:
        label = "heed, with its time" if name == "heed" else f"{name} {data['context']['versions'].get(name, '–')}"
        top.append(f'<rect class="{name}" x="{x}" y="30" width="10" height="10"/>')
        top.append(f'<text x="{x + 15}" y="39">{escape(label)}</text>')
        x += 30 + 6.4 * len(label)
    threads = rows[0]["threads"] if rows else 1
    count = "one thread" if threads == 1 else f"{threads} threads"
    context = data["context"]
    captions = wrapped(f"{context['machine']}, {count}. heed: {context['heed']}. {context['date']}. No bar: that "
                       f"library has no way to compute the row. {context['note']}", 130).split("\n")
    for i, caption in enumerate(captions):
        top.append(f'<text class="small" x="12" y="{bottom + 18 + 14 * i}">{escape(caption)}</text>')
    height = bottom + 14 * len(captions) + 14
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<style>\n{STYLE}</style>", f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        *lines, *body, one, *top, "</svg>", ""])


# ---- files ----------------------------------------------------------------------------------------------------------

MARK = "<!-- peers -->"


def write(path):
    """Writes the pictures and the page of a JSON file; returns what was written."""
    path = pathlib.Path(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    threads = min(row["threads"] for row in data["rows"])
    rows = [row for row in data["rows"] if row["threads"] == threads]
    written = [path]
    for name, chosen in ((path.stem, rows), (path.stem + "_short", [row for row in rows if row["picture"]])):
        if chosen:
            picture = path.with_name(name + ".svg")
            picture.write_text(svg(data, chosen), encoding="utf-8")
            written.append(picture)
    page = path.with_suffix(".md")
    if page.is_file():
        before, _, after = page.read_text(encoding="utf-8").split(MARK)
        page.write_text(f"{before}{MARK}\n{tables(data)}{MARK}{after}", encoding="utf-8")
        written.append(page)
    return written


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for file in write(name):
            print("written:", file)
