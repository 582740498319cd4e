# SPDX-License-Identifier: BSD-3-Clause
"""Where a header can be changed and how. Each operator yields (start, end, mutated text of [start, end))."""

import re

import source

SWAPS = {"sign": {" + ": " - ", " - ": " + "}, "bound": {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > "},
         "equality": {" == ": " != ", " != ": " == "}, "logic": {" && ": " || ", " || ": " && "}}
STRIDES = [("q_row", "k_row"), ("a_row", "b_row"), ("b_row", "c_row"), ("a_bytes", "b_bytes"), ("queries", "keys"),
           ("first_query", "first_key"), ("rows", "lanes"), ("stride", "lanes"), ("d", "e"), ("dim", "value_dim"),
           ("heads", "kv_heads"), ("k_stride", "v_stride"), ("first", "end"), ("from", "to"), ("lo", "hi")]
RESCALE = {"accumulate::scale": "accumulate::keep", "accumulate::keep": "accumulate::zero",
           "lane_state::scale": "lane_state::keep", "lane_state::fresh": "lane_state::keep"}
FACTOR = r"\w*(?:factor|scale|inv_l|gate|decay|weight|left|share)\w*"
POWER = r"\b\w*(?:powers_?|q_decay|k_decay|decay_?|q_decay_|k_decay_)(?=[\[(])"


def swaps(code, operator):
    for old, new in SWAPS[operator].items():
        for match in re.finditer(re.escape(old), code):
            at = match.start()
            start, end = source.expression(code, at + 1)
            yield start, end, code[start:at] + new + code[at + len(old) : end]


def sign(code):
    yield from swaps(code, "sign")
    for match in re.finditer(r"(?<=[\w)\]]) ([+-])= ", code):
        start, end = piece(code, match.start())
        if code[start : match.start()].strip():
            at = match.start(1)
            yield start, end, code[start:at] + ("-" if code[at] == "+" else "+") + code[at + 1 : end]
    for match in re.finditer(r"(?:(?<=[,=?:] )|(?<=[([{])|(?<=rn ))-(?=[\w(])(?!\d)", code):
        end = source.primary_end(code, match.end())
        if end:
            yield match.start(), end, code[match.end() : end]


def logic(code):
    yield from swaps(code, "logic")
    for match in re.finditer(r"!(?=[\w(])", code):
        end = source.primary_end(code, match.end())
        yield match.start(), end, "static_cast<bool>(%s)" % code[match.end() : end]


def off_by_one(code):
    for match in re.finditer(r"(?<![\w.'\"])(\d)(?![\w.'\"])", code):
        if re.search(r"stride\($|extent\($|T\($|<< $|get\u27e8$", code[max(0, match.start() - 9) : match.start()]):
            continue
        if source.is_member(code, match.start()):  # what an object has before it is set
            continue
        yield match.start(), match.end(), str(int(match.group()) + 1)


def stride(code):
    for a, b in STRIDES:
        for old, new in ((a, b), (b, a)):
            for match in re.finditer(r"(?<=[.>])%s\b(?! ?=[^=]|\()" % old, code):
                start = source.primary_start(code, match.end())
                other = code[start : match.start()] + new
                if len(other) > len(new) + 1 and re.search(re.escape(other) + r"\b", code):
                    yield start, match.end(), other
    for match in re.finditer(r"(stride|extent)\(([0-3])\)", code):
        start = source.primary_start(code, match.end())
        other = {"0": "1", "1": "2", "2": "1", "3": "2"}[match.group(2)]
        yield start, match.end(), "%s%s(%s)" % (code[start : match.start()], match.group(1), other)
    name = r"[\w.>()-]*stride[\w()]*"
    for match in re.finditer(rf"(?<=, )1, {name}(?=,)|(?<=, ){name}, 1(?=,)", code):
        yield match.start(), match.end(), "%s, %s" % tuple(reversed(match.group().split(", ")))


def rescale(code):
    for old, new in RESCALE.items():
        for match in re.finditer(r"\b(?:tile::)?" + old, code):
            yield match.start(), match.end(), match.group().replace(old, new)
    for match in re.finditer(r" \* (?=(?:\w|->|[.:])*?%s)" % FACTOR, code):
        end = source.primary_end(code, match.end())
        name = re.sub(r"\u27e8.*?\u27e9|\[.*?\]|\(.*\)", "", code[match.end() : end or match.end()])
        if end and re.fullmatch(FACTOR, re.split(r"\.|->|::", name)[-1]):
            start, stop = source.expression(code, match.start() + 1)
            yield start, stop, code[start : match.start()] + code[end:stop]


def power(code):
    for match in re.finditer(POWER, code):
        end = source.match_right(code, match.end())
        if not re.search(r",|\w [&*]?\w|^$", code[match.end() + 1 : end]):  # not parameters
            yield match.end() + 1, end, code[match.end() + 1 : end] + " + 1"
    for match in re.finditer(r"\bexp2?(?:_nonpositive)?\(", code):
        end = source.match_right(code, match.end() - 1)
        yield match.end(), end, "(%s) + (%s)" % (code[match.end() : end], code[match.end() : end])


def alignment(code):
    for match in re.finditer(r"\b(?:tile::)?(?:whole_vectors|odd_lines)(?:\u27e8T\u27e9)?\(", code):
        end = source.match_right(code, match.end() - 1) + 1
        yield match.start(), end, code[match.end() - 1 : end]
    for match in re.finditer(r" / ([\w:]+) \* \1\b", code):
        start, end = source.expression(code, match.start() + 1)
        yield start, end, code[start : match.start()] + code[match.end() : end]


def minmax(code):
    for match in re.finditer(r"\b(?:std|simd)::(min|max)(?=[\u27e8(])", code):
        end = source.primary_end(code, match.start())
        other = "max" if match.group(1) == "min" else "min"
        yield match.start(), end, code[match.start() : match.start(1)] + other + code[match.end() : end]


def piece(code, at):
    """The extent of the part of an expression statement, between commas, that `at` is in; (at, at) where none is."""
    start, end = source.statement(code, at)
    if end >= len(code) or code[end] != ";":
        return at, at
    cuts, i = [start], start
    while i < end:
        if code[i] == ",":
            cuts.append(i + 1)
        elif code[i] in source.CLOSE:  # of the head of a loop
            cuts = [i + 1]
        elif code[i] in source.OPEN:
            closed = source.match_right(code, i)
            if closed > end:  # around a lambda, or the head of a loop
                return at, at
            if code[i] == "(" and source.word_before(code, i) in ("if", "for", "while", "switch", "constexpr"):
                cuts = [closed + 1]
            i = closed
        i += 1
    declared = re.match(r"\s*([\w:]+)(?:\u27e8.*?\u27e9)?(?: [*&]*|[*&]+ )\w", code[cuts[0] : end])
    if declared and declared.group(1) not in source.STOP_WORDS:
        return at, at
    for a, b in zip(cuts, cuts[1:] + [end + 1]):
        if a <= at < b:
            while code[a].isspace():
                a += 1
            if code[a : a + 5] == "else ":
                a += 5
            return a, b - 1 if b > end or code[b - 1] == "," else b
    return at, at


def drop(code):
    """Statements that store or call, and their parts."""
    store = r"[\w.>\-*]+(?:\[[^;=]*?\])?(?:\.\w+)* [+\-*/|&]?= "
    for match in re.finditer(r"(?<=[;{}),\n ])(?=(?:%s|[\w.:>\-]+\())" % store, code):
        start, end = piece(code, match.start())
        text = code[start:end]
        if start != match.start() or code[end] not in ",;":
            continue
        if re.match(store, text) or (text.endswith(")") and source.primary_end(code, start) == end):
            yield start, end, ""


def flush(code):
    for match in re.finditer(r"\bflushed\((?!float x)", code):
        end = source.match_right(code, match.end() - 1) + 1
        yield match.start(), end, code[match.end() - 1 : end]
    for match in re.finditer(r"const simd::flush_to_zero (\w+);", code):
        yield match.start(), match.end(), ""


def fence(code):
    """The whole call, since an order must be a constant."""
    for match in re.finditer(r"std::memory_order_(?:acquire|release|acq_rel|seq_cst)", code):
        opened = match.start() - 1
        while code[opened] != "(":
            opened -= 1
        start, end = source.primary_start(code, opened), source.match_right(code, opened) + 1
        yield start, end, code[start : match.start()] + "std::memory_order_relaxed" + code[match.end() : end]


def bound(code):
    return swaps(code, "bound")


def equality(code):
    return swaps(code, "equality")


ALL = [sign, bound, equality, off_by_one, stride, rescale, power, alignment, flush, fence, minmax, logic, drop]
