#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws and tabulates what peers.py measured, with Python alone.

    bench/peers/report.py docs/peers.json

writes peers.svg (all rows on one thread) and peers_short.svg beside the file, and puts the tables between the two
<!-- peers --> lines of peers.md, if there is one. The same file gives the same bytes. `./run plots` does this too.
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
  .mark { stroke: #ffffff; stroke-width: 0.7 }
  .heed { fill: #0969da } .torch { fill: #d9650d } .onnxruntime { fill: #6e7781 } .openvino { fill: #1a8f5a }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #30363d }
    .one { stroke: #4493f8 } .heed { fill: #4493f8 } .torch { fill: #f0883e } .onnxruntime { fill: #a5adb6 }
    .openvino { fill: #3fb970 } .mark { stroke: #0d1117 }
  }
"""
LEFT, RIGHT, WIDTH = 372, 46, 860  # pixels: before the bars, behind them, in all
BAR, GAP = 10, 8
SHORT_LEFT, SHORT_ROW, NAME, MARK_SIZE = 442, 14, 138, 4.5  # of the short picture
LOWEST, HIGHEST = 0.5, 16  # times heed's


def place(ratio, left=LEFT):
    """Pixels of a ratio, on a logarithmic axis."""
    share = math.log(min(max(ratio, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return round(left + share * (WIDTH - left - RIGHT), 1)


def axis(y, bottom, left=LEFT):
    """Lines of the ratios from y to bottom, with numbers above; that of heed."""
    lines = []
    for ratio in (0.5, 1, 2, 4, 8, 16):
        x = place(ratio, left)
        if ratio != 1:
            lines.append(f'<line class="grid" x1="{x:g}" y1="{y}" x2="{x:g}" y2="{bottom}"/>')
        lines.append(f'<text class="small middle" x="{x:g}" y="{y - 6}">{ratio:g}</text>')
    one = f'<line class="one" x1="{place(1, left):g}" y1="{y}" x2="{place(1, left):g}" y2="{bottom}"/>'
    return lines, one


def square(name, x, y):
    return f'<rect class="{name}" x="{x:g}" y="{y:g}" width="10" height="10"/>'


def legend(data, y, draw=square):
    """The title and what each colour means, at the height y."""
    lines = [f'<text class="group" x="12" y="{y - 19}">Time, heed = 1: right of the line slower than heed, left of it '
             "faster</text>"]
    x = 12
    for name in LIBRARIES:
        label = "heed, with its time" if name == "heed" else f"{name} {data['context']['versions'].get(name, '–')}"
        lines.append(draw(name, x, y - 9))
        lines.append(f'<text x="{x + 15}" y="{y}">{escape(label)}</text>')
        x += 30 + 6.4 * len(label)
    return lines


def picture(height, lines):
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<style>\n{STYLE}</style>", f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        *lines, "</svg>", ""])


def count_of_threads(rows):
    threads = rows[0]["threads"] if rows else 1
    return "one thread" if threads == 1 else f"{threads} threads"


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
    lines, one = axis(66, y)
    context = data["context"]
    captions = wrapped(f"{context['machine']}, {count_of_threads(rows)}. heed: {context['heed']}. {context['date']}. "
                       f"No bar: that library has no way to compute the row. {context['note']}", 130).split("\n")
    foot = [f'<text class="small" x="12" y="{y + 18 + 14 * i}">{escape(caption)}</text>'
            for i, caption in enumerate(captions)]
    return picture(y + 14 * len(captions) + 14, [*lines, *body, one, *legend(data, 39), *foot])


def mark(name, x, y):
    """A shape for each library, so that colour is not all that tells them apart, also where two are at one place."""
    x, y, r = x + 5, y + 5, MARK_SIZE
    if name == "heed":
        return f'<line class="one" x1="{x:g}" y1="{y - r - 1:g}" x2="{x:g}" y2="{y + r + 1:g}"/>'
    if name == "torch":
        return f'<circle class="{name} mark" cx="{x:g}" cy="{y:g}" r="{r}"/>'
    corners = {"onnxruntime": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
               "openvino": ((0, -1.35), (0.75, 0), (0, 1.35), (-0.75, 0))}[name]
    points = " ".join(f"{x + r * a:g},{y + r * b:g}" for a, b in corners)
    return f'<polygon class="{name} mark" points="{points}"/>'


def short_svg(data, rows):
    """A line for each row, with a mark at the time of each library."""
    body, y, group = [], 62, None
    for row in rows:
        if row["group"] != group:
            y += 3 if group else 0
            group = row["group"]
            body.append(f'<line class="grid" x1="12" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
            y += 1
            body.append(f'<text class="group" x="12" y="{y + 11}">{escape(group)}</text>')
        mine = duration(row["results"]["heed"]["seconds"][1])
        body.append(f'<text x="{NAME}" y="{y + 11}">{escape(row["name"])}</text>')
        body.append(f'<text class="small right" x="{SHORT_LEFT - 12}" y="{y + 11}">{mine}</text>')
        for name in PEERS:
            entry = row["results"][name]
            if entry["status"] == "ok":
                body.append(mark(name, round(place(entry["x_heed"][1], SHORT_LEFT) - 5, 1), y + 2))
        y += SHORT_ROW
    lines, one = axis(58, y + 2, SHORT_LEFT)
    context = data["context"]
    caption = (f"{context['machine']}, {count_of_threads(rows)}. {context['date']}. No mark: that library has no way "
               "to compute the row.")
    foot = f'<text class="small" x="12" y="{y + 18}">{escape(caption)}</text>'
    return picture(y + 26, [*lines, one, *body, *legend(data, 35, mark), foot])


# ---- files ----------------------------------------------------------------------------------------------------------

MARK = "<!-- peers -->"


def write(path):
    """Writes the pictures and the page of a JSON file; returns what was written."""
    path = pathlib.Path(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    threads = min(row["threads"] for row in data["rows"])
    rows = [row for row in data["rows"] if row["threads"] == threads]
    written = [path]
    for end, draw, chosen in (("", svg, rows), ("_short", short_svg, [row for row in rows if row["picture"]])):
        if chosen:
            file = path.with_name(f"{path.stem}{end}.svg")
            file.write_text(draw(data, chosen), encoding="utf-8")
            written.append(file)
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
