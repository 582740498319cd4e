# SPDX-License-Identifier: BSD-3-Clause
"""C++ as clang-format leaves it, without a parser: code without comments, brackets, and the extent of expressions.

What the operators need of the format: a binary operator has a space on both sides, and a template's < and > have none
inside.
"""

import re

OPEN, CLOSE = "([{\u27e8", ")]}\u27e9"  # the last of each: a template's < and >
ASSIGN = re.compile(r"(?<![=!<>+*/%&|^-])=(?!=)")  # the = of an initialiser
STOP_WORDS = ("return", "else", "do", "throw", "case", "new")


def mask(text):
    """Returns code of equal length: comments and directives blank, what strings say as x, angles as brackets."""

    def blank(match):
        s = match.group()
        if s.startswith(("/", "#")):
            return re.sub(r"[^\n]", " ", s)
        return s[0] + "x" * (len(s) - 2) + s[-1]

    pattern = r"//[^\n]*|/\*.*?\*/|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)'"
    return angles(re.sub(pattern, blank, text, flags=re.S | re.M))


def angles(code):
    """Replaces the < and > of templates."""
    out, open_at = list(code), []
    for match in re.finditer(r"template <|(?<=\w)<(?![ <=])|(?<=[^ -])>", code):
        at = match.end() - 1
        if code[at] == "<":
            open_at.append(at)
        elif open_at:
            out[open_at.pop()], out[at] = OPEN[3], CLOSE[3]
    return "".join(out)


def match_right(code, at):
    """The place of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] in OPEN) - (code[i] in CLOSE)
        if depth == 0:
            return i
    return len(code) - 1


def match_left(code, at):
    """The place of the bracket that opens the one at `at`."""
    depth = 0
    for i in range(at, -1, -1):
        depth += (code[i] in CLOSE) - (code[i] in OPEN)
        if depth == 0:
            return i
    return 0


def word_before(code, at):
    return re.search(r"\w*$", code[max(0, at - 40) : at].rstrip()).group()


def is_stop(code, i):
    """Whether an expression cannot go on over the character at i."""
    c = code[i]
    if c in ",;?":
        return True
    if c == ":":
        return code[i - 1] != ":" and code[i + 1] != ":"
    return c == "=" and code[i + 1] != "=" and code[i - 1] not in "=!<>"


def expression(code, at):
    """The extent of the smallest whole expression around an operator at `at`: no assignment, comma or ? : is in it."""
    i = at - 1
    while i > 0:
        c = code[i]
        if c in OPEN or is_stop(code, i):
            break
        if c in CLOSE:
            opened = match_left(code, i)
            if c == ")" and word_before(code, opened) in ("if", "for", "while", "switch", "constexpr"):
                break
            if c == "}" and not re.match(r"\s*[.+\-*/%<>=&|!]", code[i + 1 : i + 9]):
                break
            i = opened
        elif c == " " and word_before(code, i) in STOP_WORDS:
            break
        i -= 1
    j = at
    while j < len(code):
        if code[j] in CLOSE or (j > at + 1 and is_stop(code, j)):
            break
        j = match_right(code, j) + 1 if code[j] in OPEN else j + 1
    start = i + 1
    while code[start].isspace():
        start += 1
    while code[j - 1].isspace():
        j -= 1
    return start, j


def primary_end(code, at):
    """The end of a name with its members, calls and subscripts, or of a bracket, that begins at `at`; else None."""
    match = re.compile(r"(?:\w|::)+").match(code, at)
    end = match.end() if match else at
    while end < len(code):
        if code[end] in OPEN and code[end] != "{":
            end = match_right(code, end) + 1
        elif found := re.compile(r"(?:\.|->|::)\w+").match(code, end):
            end = found.end()
        else:
            break
    return end if end > at else None


def primary_start(code, end):
    """The start of what primary_end finds the end of."""
    at = end
    while at > 0:
        if code[at - 1] in CLOSE and code[at - 1] != "}":
            at = match_left(code, at - 1)
        elif re.match(r"[\w.:]", code[at - 1]) or code[at - 2 : at] == "->":
            at -= 1 if code[at - 1] != ">" else 2
        else:
            break
    return at


def statement(code, at):
    """The text from the last ; { } before `at` to the next behind."""
    start = max(code.rfind(c, 0, at) for c in ";{}") + 1
    ends = [e for e in (code.find(c, at) for c in ";{}") if e >= 0]
    return start, min(ends, default=len(code))


def in_template_arguments(code, at):
    """Whether a template's < > or an `if constexpr` is around `at`."""
    depth = 0
    for i in range(at - 1, max(0, at - 600), -1):
        depth += (code[i] in CLOSE) - (code[i] in OPEN)
        if depth < 0:
            if code[i] == OPEN[3] or (code[i] == "(" and word_before(code, i) == "constexpr"):
                return True
            if code[i] == "{":
                return False
            depth = 0
    return False


def is_member(code, at):
    """Whether `at` is in a struct or class and in none of its functions."""
    depth = 0
    for i in range(at - 1, -1, -1):
        depth += (code[i] in CLOSE) - (code[i] in OPEN)
        if depth < 0:
            return code[i] == "{" and re.search(r"\b(?:struct|class) [^;{}]*$", code[:i]) is not None
    return False


def bodies(code, names):
    """The extents of the bodies of functions and types with these names."""
    for match in re.finditer(r"\b(?:%s)\b(?=[\u27e8( ])" % "|".join(map(re.escape, names)), code):
        opened = re.compile(r"[^;{}]*?\{").match(code, match.end())
        if opened and re.search(r"(?:\w|[>&*\u27e9]) $", code[: match.start()]):
            yield match.start(), match_right(code, opened.end() - 1)
