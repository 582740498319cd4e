#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws what each kernel touches, one SVG for each: draw_kernels.py FOLDER (docs/kernels/pictures). Needs only Python.

Every picture has a white ground, so that it reads the same on dark pages.
"""

import math
import pathlib
import random
import sys

INK, PALE, BLUE, SKY, ORANGE, SAND, GREEN, GRAY = ("#24292f", "#d0d7de", "#0969da", "#b6d4f5", "#bc4c00", "#ffd8b5",
                                                   "#1a7f37", "#57606a")


class Picture:
    def __init__(self, title, width, height):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                      f'viewBox="0 0 {width} {height}">', f"<title>{title}</title>",
                      f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>',
                      '<g font-family="sans-serif" font-size="12">']

    def box(self, x, y, width, height, fill="none", line=GRAY, stroke=1):
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" '
                          f'stroke="{line}" stroke-width="{stroke:g}"/>')

    def shape(self, points, fill):
        self.parts.append(f'<polygon points="{" ".join(f"{x:g},{y:g}" for x, y in points)}" fill="{fill}"/>')

    def line(self, points, color=GRAY, width=1.2, dash=""):
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dashed}/>')

    def arrow(self, x0, y0, x1, y1, color=GRAY):
        self.line([(x0, y0), (x1, y1)], color)
        angle = math.atan2(y1 - y0, x1 - x0)
        self.shape([(round(x1 - 7 * math.cos(angle + turn), 1), round(y1 - 7 * math.sin(angle + turn), 1))
                    for turn in (-0.4, 0.4)] + [(x1, y1)], color)

    def dot(self, x, y, radius, fill):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}"/>')

    def text(self, x, y, text, color=INK, anchor="start", size=12):
        for a, b in (("&", "&amp;"), ("<", "&lt;")):
            text = text.replace(a, b)
        self.parts.append(f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" font-size="{size}">'
                          f"{text}</text>")

    def save(self, folder, name):
        (folder / f"{name}.svg").write_text("\n".join([*self.parts, "</g>", "</svg>"]) + "\n")


def softmax():
    p, side, tiles, x0, y0 = Picture("Softmax attention, causal: tiles of the score matrix", 660, 300), 28, 8, 76, 50
    p.text(x0 + 112, 20, "key tiles", anchor="middle")
    p.text(x0 - 12, y0 + 84, "query", anchor="end")
    p.text(x0 - 12, y0 + 99, "tiles", anchor="end")
    for i in range(tiles):
        for j in range(tiles):
            x, y = x0 + j * side, y0 + i * side
            if j < i:
                p.box(x, y, side, side, BLUE if i == 5 else SKY, "#fff")
            elif j == i:
                p.shape([(x, y), (x, y + side), (x + side, y + side)], ORANGE if i == 5 else SAND)
                p.box(x, y, side, side, "none", "#fff")
            else:
                p.box(x, y, side, side, "none", PALE)
    p.arrow(x0 + 6, y0 + 5.5 * side, x0 + 5 * side - 6, y0 + 5.5 * side, "#fff")
    p.box(x0, 28, 8 * side, 14, "none", GRAY)
    p.text(x0 + 112, 39, "k, v", GRAY, "middle", 10)
    x, y = x0 + 8 * side + 30, 70
    for fill, text in ((SKY, "every pair is visible: no mask is computed"), (SAND, "some pairs are visible: masked"),
                       ("none", "no pair is visible: skipped")):
        p.box(x, y - 11, 14, 14, fill, GRAY)
        p.text(x + 22, y, text)
        y += 24
    for text in ("A row of tiles is one pass over the keys.", "It keeps for each query the largest score m,",
                 "the sum l of exp(s - m), and o.", "Scores never leave the cache."):
        p.text(x, y + 14, text)
        y += 19
    return p


def decode():
    p = Picture("Decode: the keys of a long cache are split over workers", 600, 250)
    p.text(20, 32, "cache: keys and values of the tokens so far")
    colors = (SKY, SAND, "#c6e9cf")
    for piece in range(3):
        for token in range(12):
            p.box(20 + (piece * 12 + token) * 14, 44, 14, 22, colors[piece], "#fff")
    p.box(20 + 36 * 14, 44, 14, 22, "none", PALE)
    p.box(20 + 37 * 14, 44, 14, 22, "none", PALE)
    p.text(20 + 38 * 14 + 6, 60, "room", GRAY, size=10)
    for piece in range(3):
        x = 20 + piece * 168 + 84
        p.arrow(x, 70, x, 96)
        p.box(x - 62, 98, 124, 40, colors[piece], GRAY)
        p.text(x, 115, f"worker {piece + 1}", anchor="middle")
        p.text(x, 131, "o, lse of its keys", anchor="middle", size=11)
        p.arrow(x, 140, 272 + 14 * (piece - 1), 172)
    p.box(192, 174, 160, 26, "#fff", INK)
    p.text(272, 191, "merge by lse", anchor="middle")
    p.arrow(352, 187, 392, 187)
    p.text(398, 191, "o of the new token")
    p.text(20, 222, "A piece is read once for all query heads of its key/value head.", GRAY, size=10.5)
    p.text(20, 238, "The result has the same bits for any number of workers.", GRAY, size=10.5)
    return p


def sparse_query():
    p = Picture("Head counts: multi-head, grouped-query and sparse query attention", 600, 266)
    variants = (("multi-head", 8, 8, "1"), ("grouped-query", 8, 2, "1"), ("sparse query", 4, 2, "1/2"),
                ("extreme sparse query", 2, 2, "1/4"))
    p.text(210, 26, "query heads", BLUE)
    p.text(360, 26, "key/value heads", ORANGE)
    p.text(494, 26, "multiplications", INK)
    for row, (name, queries, keys, work) in enumerate(variants):
        y = 44 + row * 50
        p.text(20, y + 14, name)
        for h in range(8):
            p.box(180 + h * 16, y, 13, 20, BLUE if h < queries else "none", BLUE if h < queries else PALE)
            p.box(345 + h * 16, y, 13, 20, ORANGE if h < keys else "none", ORANGE if h < keys else PALE)
        p.text(515, y + 15, work)
        p.line([(180, y + 31), (580, y + 31)], PALE)
    p.text(20, 242, "Sparse query attention has fewer query heads, so fewer score matrices.", GRAY, size=10.5)
    p.text(20, 257, "Grouped queries alone read less, but multiply as much.", GRAY, size=10.5)
    return p


def mixture_of_head():
    p, pick = Picture("Mixture of head: rows whose gate is 0 are skipped", 600, 230), random.Random(5)
    p.text(20, 26, "gates: tokens to the right, heads down")
    for h in range(6):
        p.text(20, 52 + h * 24, f"head {h}", size=11)
        active = 0
        for i in range(16):
            on = h == 0 or pick.random() < 0.45
            p.box(70 + i * 14, 38 + h * 24, 13, 18, BLUE if on else "none", BLUE if on else PALE)
            if on:
                p.box(370 + active * 12, 38 + h * 24, 12, 18, SKY, BLUE)
                active += 1
        p.arrow(302, 47 + h * 24, 360, 47 + h * 24)
    p.text(370, 26, "computed rows, side by side")
    p.text(20, 206, "The router gives each token its heads (head 0 is shared: always on). Active rows of a head fill "
           "whole tiles,", GRAY, size=10.5)
    p.text(20, 221, "so half of the rows take about half of the time. Outputs are scaled by the gate and summed.", GRAY,
           size=10.5)
    return p


def local_linear():
    p, pick = Picture("Local linear attention fits a line where softmax takes a mean", 640, 280), random.Random(3)
    left, right, low = 50, 400, 240
    value = lambda t: 205 - 150 * t ** 1.6
    p.line([(left, 20), (left, low), (right, low)], GRAY)
    p.text(left + 4, low + 18, "key")
    p.text(left - 8, 30, "value", anchor="end")
    query, points = 0.9, []
    for _ in range(46):
        t = pick.random() * 0.86
        points.append((t, value(t) + pick.gauss(0, 7), math.exp(-((t - query) / 0.2) ** 2 / 2)))
    x = lambda t: left + (right - left) * t
    for t, y, w in points:
        p.dot(x(t), y, 2 + 4.5 * w, BLUE if w > 0.3 else SKY)
    total = sum(w for _, _, w in points)
    mean_t, mean = sum(w * t for t, _, w in points) / total, sum(w * y for _, y, w in points) / total
    slope = sum(w * (t - mean_t) * (y - mean) for t, y, w in points) / sum(w * (t - mean_t) ** 2 for t, _, w in points)
    p.line([(x(0.55), mean), (x(1), mean)], ORANGE, 2, "6 4")
    p.line([(x(0.55), mean + slope * (0.55 - mean_t)), (x(1), mean + slope * (1 - mean_t))], GREEN, 2)
    p.line([(x(query), 20), (x(query), low)], GRAY, 1, "2 3")
    p.text(x(query), low + 18, "query", GRAY, "middle", 11)
    p.dot(x(query), mean, 5, ORANGE)
    p.dot(x(query), mean + slope * (query - mean_t), 5, GREEN)
    for at, (color, text) in enumerate(((BLUE, "keys near the query weigh more"), (ORANGE, "softmax: their mean"),
                                        (GREEN, "local linear: the line"), (GREEN, "through them, at the query"))):
        if at < 3:
            p.dot(424, 76 + at * 26, 5, color)
        p.text(436, 80 + at * 26 - (8 if at == 3 else 0), text, size=11.5)
    return p


def chunks(title, decays, words):
    """The score matrix in chunks: pairs inside a chunk are computed, all older ones come out of the state."""
    p, side, cells, count, x0, y0 = Picture(title, 600, 300), 14, 4, 4, 60, 40
    chunk = side * cells
    p.text(x0, 24, "keys, in chunks")
    p.text(x0 - 8, y0 + 20, "queries", anchor="end", size=11)
    for i in range(count * cells):
        for j in range(i + 1):
            inside = i // cells == j // cells
            weight = math.exp(-0.16 * (i - j)) if decays else 1
            base = (188, 76, 0) if inside else (9, 105, 218)
            mix = [round(255 - (255 - c) * (0.12 + 0.7 * weight if decays else 0.55)) for c in base]
            p.box(x0 + j * side, y0 + i * side, side, side, "#%02x%02x%02x" % tuple(mix), "#fff", 0.6)
    for n in range(count):
        p.box(x0 + n * chunk, y0 + n * chunk, chunk, chunk, "none", INK, 1.2)
        if n:
            p.box(x0, y0 + n * chunk, n * chunk, chunk, "none", INK, 1.2)
    x = x0 + count * chunk + 40
    p.box(x, 52, 14, 14, "#e3b394", GRAY)
    p.text(x + 22, 64, "pairs of one chunk: multiplied out")
    p.box(x, 76, 14, 14, "#7fb0e8", GRAY)
    p.text(x + 22, 88, "all older tokens: read from the state")
    for n in range(3):
        left = x + n * 92
        p.box(left, 122, 44, 44, SKY, BLUE)
        p.text(left + 22, 149, f"S{'₀₁₂'[n]}", anchor="middle", size=13)
        if n < 2:
            p.arrow(left + 46, 144, left + 88, 144)
            p.text(left + 67, 136, "+ k v" if not decays else "decay", anchor="middle", size=10)
    for at, line in enumerate(words):
        p.text(x, 196 + at * 19, line, size=11.5)
    return p


def linear():
    return chunks("Linear attention: a state of fixed size holds every older token", False,
                  ("S = sum of φ(k) v: D x E numbers a head,", "however long the stream is.",
                   "o = φ(q) S, over φ(q) sum of φ(k)", "where it is normalised."))


def lightning():
    return chunks("Lightning attention: weights decay with distance", True,
                  ("Each token multiplies S by λ = exp(-slope)", "and adds k v: D x E numbers a head.",
                   "o = q S, without a normaliser.", "Darker: a larger weight."))


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (softmax, decode, sparse_query, mixture_of_head, local_linear, linear, lightning):
        draw().save(folder, draw.__name__)


main()
