#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes unicode_data.hpp, the tables of Unicode that wordpiece.hpp needs, from those of Python.

    python3 examples/sentence_encoder/unicode_data.py > examples/sentence_encoder/unicode_data.hpp
"""

import unicodedata

CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # by arithmetic, in wordpiece.hpp


def ranges(*categories):
    found = []
    for character in CHARACTERS:
        if unicodedata.category(character) in categories:
            c = ord(character)
            if found and found[-1][1] == c - 1:
                found[-1][1] = c
            else:
                found.append([c, c])
    return found


def folded(character):
    parts = unicodedata.normalize("NFD", character)
    return "".join(c.lower() for c in parts if unicodedata.category(c) != "Mn")


def lines(items, separator, width, begin="", end=""):
    text, line = [], begin
    for item in items:
        if len(line) + len(item) + len(separator) + len(end) > width:
            text.append(line.rstrip() + end if not end else line + end)
            line = begin
        line += item + separator
    text.append(line.rstrip() if not end else line.rstrip() + end)
    return "\n".join(text)


def print_ranges(name, comment, found):
    items = [f"{{0x{first:X}, 0x{last:X}}}" for first, last in found]
    print(f"// {comment}\ninline constexpr char32_t {name}[][2] = {{\n{lines(items, ', ', 118, '    ')}\n}};\n")


def print_text(name, comment, words):
    text = lines(words, " ", 119, '    U"', '"')
    print(f"// {comment}\ninline constexpr std::u32string_view {name} =\n{text};\n")


def main():
    groups, long = {}, []
    for character in CHARACTERS:
        result = folded(character)
        if ord(character) < 0x80 or ord(character) in HANGUL or result in ("", character) or result.isspace():
            continue
        if len(result) == 1:
            groups.setdefault(result, result)
            groups[result] += character
        else:
            long.append(character + result)
    words = [group[0] + group[i : i + 100] for group in groups.values() for i in range(1, len(group), 100)]

    print("// SPDX-License-Identifier: BSD-3-Clause\n#pragma once\n")
    print(f"// Written by unicode_data.py from Unicode {unicodedata.unidata_version}.\n#include <string_view>\n")
    print("namespace minilm::unicode_data {\n\n// clang-format off")
    print_ranges("marks", "Marks without a width of their own (Mn), such as accents", ranges("Mn"))
    print_ranges("punctuation", "Punctuation (P)", ranges("Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps"))
    print_ranges("controls", "Control and format characters, and private ones (Cc, Cf, Co)", ranges("Cc", "Cf", "Co"))
    comment = "Groups: a character, then every other that becomes it without marks and in lower case"
    print_text("folds", comment, words)
    print_text("long_folds", "Groups: a character, then the two or three that it becomes", long)
    print("// clang-format on\n\n}  // namespace minilm::unicode_data")


main()
