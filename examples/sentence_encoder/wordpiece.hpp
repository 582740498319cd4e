// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Cuts text into the tokens of an uncased BERT model (Devlin et al., arXiv 1810.04805): drops control characters and
// accents, lowers case, cuts at white space, punctuation and Chinese characters, and then cuts every word into the
// longest pieces of a vocabulary, from the left. A word that the vocabulary cannot spell is [UNK].
#include <algorithm>
#include <array>
#include <cstddef>
#include <istream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unicode_data.hpp"

namespace minilm {

// Decodes UTF-8. A byte that is part of no character becomes U+FFFD.
inline std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(at < text.size() ? text[at] : '\0'); };
    const unsigned char first = byte(i);
    const std::size_t more = first < 0x80 ? 0 : first < 0xC0 ? 4 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    constexpr char32_t smallest[] = {0, 0x80, 0x800, 0x10000}, bits[] = {0x7F, 0x1F, 0x0F, 0x07};
    bool good = more < 4 && first < 0xF8;
    char32_t c = good ? first & bits[more] : 0;
    for (std::size_t k = 1; good && k <= more; ++k) {
      good = byte(i + k) >> 6 == 2;
      c = c << 6 | (byte(i + k) & 0x3F);
    }
    good = good && c >= smallest[more] && c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF);
    out += good ? c : U'\xFFFD';
    i += good ? more + 1 : 1;
  }
  return out;
}

class wordpiece {
 public:
  // Reads a vocabulary: a token a line, numbered from 0. Pieces that continue a word begin with "##". The last of equal
  // tokens counts.
  explicit wordpiece(std::istream& vocabulary) {
    for (std::string line; std::getline(vocabulary, line); ++size_) {
      if (size_ == max_size)
        throw std::runtime_error("the vocabulary has more than " + std::to_string(max_size) + " lines");
      if (!line.empty() && line.back() == '\r') line.pop_back();
      const std::u32string token = decode_utf8(line);
      const bool continues = token.size() > 2 && token.starts_with(U"##");
      const std::u32string piece = token.substr(continues ? 2 : 0);
      longest_ = std::max(longest_, piece.size());
      (continues ? inside_ : first_)[piece] = size_;
    }
    unknown_ = special(U"[UNK]", "[UNK]"), begin_ = special(U"[CLS]", "[CLS]"), end_ = special(U"[SEP]", "[SEP]");
    read_folds();
  }

  int size() const { return size_; }

  // Returns [CLS], the tokens of the text, [SEP], at most `limit` in all. Text that spells a special token is text.
  std::vector<int> operator()(std::string_view text, std::size_t limit) const {
    std::vector<int> ids = {begin_};
    std::u32string word;
    const auto end_word = [&] {
      if (!word.empty() && ids.size() < limit) add_pieces(word, ids);
      word.clear();
    };
    for (const char32_t c : decode_utf8(text)) {
      if (is_space(c)) {
        end_word();
      } else if (c != 0 && c != U'\xFFFD' && !in(unicode_data::controls, c)) {
        const bool alone = is_chinese(c);
        if (alone) end_word();
        each_folded(c, [&](char32_t folded) {
          const bool punctuation = in(unicode_data::punctuation, folded) || is_ascii_symbol(folded);
          if (punctuation) end_word();
          word += folded;
          if (punctuation) end_word();
        });
        if (alone) end_word();
      }
      if (ids.size() >= limit) break;
    }
    end_word();
    ids.resize(std::min(ids.size(), std::max<std::size_t>(limit, 2) - 1));
    ids.push_back(end_);
    return ids;
  }

 private:
  using pieces = std::unordered_map<std::u32string, int>;
  static constexpr int max_size = 1 << 20;          // twice the largest published ones
  static constexpr std::size_t longest_word = 100;  // in characters; a longer one is [UNK]

  int special(const std::u32string& token, const char* name) const {
    const auto found = first_.find(token);
    if (found == first_.end()) throw std::runtime_error(std::string("the vocabulary has no ") + name);
    return found->second;
  }

  void add_pieces(std::u32string_view word, std::vector<int>& ids) const {
    const std::size_t before = ids.size();
    if (word.size() > longest_word) return ids.push_back(unknown_);
    for (std::size_t from = 0; from < word.size();) {
      const pieces& known = from == 0 ? first_ : inside_;
      auto found = known.end();
      std::size_t length = std::min(longest_, word.size() - from);
      for (; length > 0 && found == known.end(); --length)
        found = known.find(std::u32string(word.substr(from, length)));
      if (found == known.end()) {
        ids.resize(before);
        return ids.push_back(unknown_);
      }
      ids.push_back(found->second);
      from += length + 1;
    }
  }

  // Spaces of Unicode, and the three control characters that count as space.
  static bool is_space(char32_t c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
  }
  // What ASCII has besides letters, digits and space; some of it is no punctuation to Unicode.
  static bool is_ascii_symbol(char32_t c) {
    return (c > ' ' && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') || (c > 'z' && c < 0x7F);
  }
  // Ideographs; neither kana nor Hangul.
  static bool is_chinese(char32_t c) {
    constexpr char32_t blocks[][2] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
                                      {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF}, {0x2F800, 0x2FA1F}};
    return in(blocks, c);
  }
  static bool in(std::span<const char32_t[2]> ranges, char32_t c) {
    const auto after =
        std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t x, const auto& r) { return x < r[0]; });
    return after != ranges.begin() && c <= (*std::prev(after))[1];
  }

  void read_folds() {
    std::u32string_view left = unicode_data::folds;
    while (!left.empty()) {  // words: the result, then each character that it is the result of
      const std::u32string_view group = left.substr(0, left.find(U' '));
      for (const char32_t c : group.substr(1)) folds_.emplace(c, group.substr(0, 1));
      left.remove_prefix(std::min(left.size(), group.size() + 1));
    }
    left = unicode_data::long_folds;
    while (!left.empty()) {  // words: a character, then its result
      const std::u32string_view group = left.substr(0, left.find(U' '));
      folds_.emplace(group[0], group.substr(1));
      left.remove_prefix(std::min(left.size(), group.size() + 1));
    }
  }

  // Runs f on what is left of a character without its marks, in lower case.
  template <class F> void each_folded(char32_t c, const F& f) const {
    if (c < 0x80) return f(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    if (in(unicode_data::marks, c)) return;
    if (c >= 0xAC00 && c <= 0xD7A3) {  // a Hangul syllable is two or three letters, by arithmetic
      const char32_t syllable = c - 0xAC00;
      f(0x1100 + syllable / (21 * 28));
      f(0x1161 + syllable / 28 % 21);
      if (syllable % 28 != 0) f(0x11A7 + syllable % 28);
      return;
    }
    const auto found = folds_.find(c);
    if (found == folds_.end()) return f(c);
    for (const char32_t folded : found->second) f(folded);
  }

  pieces first_, inside_;  // pieces that begin a word, and those that continue one, without their "##"
  std::size_t longest_ = 0;
  int size_ = 0, unknown_ = 0, begin_ = 0, end_ = 0;
  std::unordered_map<char32_t, std::u32string_view> folds_;
};

}  // namespace minilm
