// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Cuts text into tokens and joins them again: byte-level byte pair encoding, with the tokens, merges and special tokens
// of a GGUF file.
//
// A text is cut into words first (next_word); merges never cross words. Each byte of a word becomes the token of that
// byte. Then, as long as a merge fits two neighbouring tokens, the earliest merge of the file's list joins them.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gguf.hpp"
#include "unicode.hpp"

namespace chat {

using token_id = std::int32_t;

// Returns how many bytes the first word of a text has that is not empty. A word is one of, in this order:
//   's 't 're 've 'm 'll 'd;  letters, numbers, or other characters, each with a space before them or none;  spaces.
// Of several spaces before a word the last one is left to the word. digits_apart: a number is always one character
// long, with no space before it.
inline std::size_t next_word(std::string_view text, bool digits_apart) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (text.starts_with(ending)) return ending.size();

  const auto class_at = [&](std::size_t i) { return class_of(first_character(text.substr(i)).code); };
  // The end of the characters of one class from `begin` on
  const auto end_of = [&](std::size_t begin, char_class wanted) {
    std::size_t end = begin;
    while (end < text.size() && class_at(end) == wanted) end += first_character(text.substr(end)).bytes;
    return end;
  };

  const std::size_t begin = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const char_class kind = class_at(begin);
  if (kind == char_class::number && digits_apart) return begin == 1 ? 1 : first_character(text).bytes;
  if (kind != char_class::space) return end_of(begin, kind);

  const std::size_t end = end_of(0, char_class::space);
  const bool at_end = end == text.size() || (digits_apart && class_at(end) == char_class::number);
  if (at_end) return end;
  std::size_t last = 0;  // where the last of the spaces begins
  for (std::size_t i = 0; i < end; i += first_character(text.substr(i)).bytes) last = i;
  return last > 0 ? last : end;
}

// The file writes each byte of a token as a printable character: itself where it is one of Latin-1, else a character
// from U+0100 on.
inline std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> characters;
  char32_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    characters[byte] = printable ? static_cast<char32_t>(byte) : next++;
  }
  return characters;
}

class tokenizer {
 public:
  // Throws file_error where the file has no such tokenizer, or where its lists do not fit each other.
  explicit tokenizer(const gguf& file) {
    if (const auto kind = file.string("tokenizer.ggml.model"); kind != "gpt2")
      throw file_error("the tokenizer is " + in_quotes(kind) + ", must be 'gpt2': byte-level byte pairs");
    const auto words = file.string("tokenizer.ggml.pre");
    if (words != "smollm" && words != "gpt-2")
      throw file_error("the tokenizer cuts words as " + in_quotes(words) + ", must be 'smollm' or 'gpt-2'");
    digits_apart_ = words == "smollm";
    read_tokens(file);
    read_merges(file);
    end_ = static_cast<token_id>(file.integer("tokenizer.ggml.eos_token_id", 0, tokens_.size() - 1));
  }

  std::size_t size() const { return tokens_.size(); }
  token_id end() const { return end_; }  // what the model writes where its answer ends

  // Returns the tokens of a text in which special tokens have no meaning: what a user wrote.
  std::vector<token_id> encode(std::string_view text) const {
    std::vector<token_id> ids;
    while (!text.empty()) {
      const std::size_t size = next_word(text, digits_apart_);
      encode_word(text.substr(0, size), ids);
      text.remove_prefix(size);
    }
    return ids;
  }

  // The same where special tokens, such as <|im_start|>, are written as text: the parts of a template.
  std::vector<token_id> encode_with_special(std::string_view text) const {
    std::vector<token_id> ids;
    const auto append = [&](const std::vector<token_id>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    while (!text.empty()) {
      const auto [at, special] = find_special(text);
      append(encode(text.substr(0, at)));
      if (at == text.size()) break;
      ids.push_back(special);
      text.remove_prefix(at + tokens_[static_cast<std::size_t>(special)].size());
    }
    return ids;
  }

  // Returns the bytes of a token, which may be a part of a character. A special token has none.
  std::string_view bytes_of(token_id id) const {
    const bool special = std::find(special_.begin(), special_.end(), id) != special_.end();
    return special ? std::string_view() : tokens_.at(static_cast<std::size_t>(id));
  }

 private:
  struct merge {
    std::size_t rank;  // smaller ones first
    token_id joined;
  };
  static constexpr token_id none = -1;

  static std::uint64_t pair_of(token_id left, token_id right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }

  void read_tokens(const gguf& file) {
    constexpr std::int32_t normal = 1, control = 3, user_defined = 4;
    const auto& written = file.strings("tokenizer.ggml.tokens");
    const auto types = file.integers("tokenizer.ggml.token_type");
    if (written.empty() || written.size() != types.size() || written.size() > most_tokens)
      throw file_error("the tokenizer has " + to_text(written.size()) + " tokens and " + to_text(types.size()) +
                       " types of tokens; both must be the same number, 1 to " + to_text(most_tokens));
    std::unordered_map<char32_t, char> bytes;
    const auto characters = byte_characters();
    for (std::size_t byte = 0; byte < 256; ++byte)
      bytes.emplace(characters[byte], static_cast<char>(static_cast<unsigned char>(byte)));
    byte_tokens_.fill(none);
    for (std::size_t i = 0; i < written.size(); ++i) {
      const auto id = static_cast<token_id>(i);
      if (!ids_.emplace(std::string(written[i]), id).second)
        throw file_error("token " + to_text(i) + ", " + in_quotes(written[i]) + ", is there twice");
      if (types[i] == control || types[i] == user_defined) {
        tokens_.emplace_back(written[i]);
        if (!written[i].empty()) special_.push_back(id);
        continue;
      }
      std::string token;
      for (auto rest = written[i]; !rest.empty();) {
        const auto c = first_character(rest);
        const auto byte = bytes.find(c.code);
        if (byte == bytes.end() && types[i] == normal)
          throw file_error("token " + to_text(i) + ", " + in_quotes(written[i]) + ", has a character that is no byte");
        if (byte != bytes.end()) token += byte->second;
        rest.remove_prefix(c.bytes);
      }
      if (token.size() == 1) byte_tokens_[static_cast<unsigned char>(token[0])] = id;
      tokens_.push_back(std::move(token));
    }
  }

  void read_merges(const gguf& file) {
    const auto& written = file.strings("tokenizer.ggml.merges");
    for (std::size_t rank = 0; rank < written.size(); ++rank) {
      const auto pair = written[rank];
      const std::size_t space = std::min(pair.find(' '), pair.size());
      const auto find = [&](const std::string& token) {
        const auto at = ids_.find(token);
        if (at == ids_.end())
          throw file_error("merge " + to_text(rank) + ", " + in_quotes(pair) + ": there is no token " +
                           in_quotes(token));
        return at->second;
      };
      const std::string left(pair.substr(0, space)), right(pair.substr(std::min(space + 1, pair.size())));
      const token_id first = find(left), second = find(right);
      merges_.emplace(pair_of(first, second), merge{rank, find(left + right)});  // of two that are equal, the first
    }
  }

  // Returns where the first special token of a text begins, and which it is; of several there, the longest.
  std::pair<std::size_t, token_id> find_special(std::string_view text) const {
    std::size_t first = text.size(), size = 0;
    token_id found = none;
    for (const token_id id : special_) {
      const std::string_view token = tokens_[static_cast<std::size_t>(id)];
      const std::size_t at = text.find(token);
      if (at < first || (at == first && at < text.size() && token.size() > size))
        std::tie(first, size, found) = std::tuple(at, token.size(), id);
    }
    return {first, found};
  }

  // Appends the tokens of a word. A queue holds the merges that fit, so that a word of n bytes takes n log n steps.
  void encode_word(std::string_view word, std::vector<token_id>& ids) const {
    std::vector<token_id> pieces;  // `none` where a piece was joined to the one before it
    for (const char c : word)      // a byte without a token is left out
      if (const token_id id = byte_tokens_[static_cast<unsigned char>(c)]; id != none) pieces.push_back(id);
    const std::size_t count = pieces.size();
    std::vector<std::size_t> before(count), after(count);  // the neighbours that are left
    for (std::size_t i = 0; i < count; ++i) before[i] = i - 1, after[i] = i + 1;

    struct candidate {
      std::size_t rank, at;
      token_id left, right, joined;
      bool operator>(const candidate& other) const { return std::tie(rank, at) > std::tie(other.rank, other.at); }
    };
    std::priority_queue<candidate, std::vector<candidate>, std::greater<>> queue;
    const auto offer = [&](std::size_t at) {  // the piece at `at` and the one behind it
      if (at >= count || after[at] >= count) return;
      const token_id left = pieces[at], right = pieces[after[at]];
      if (const auto m = merges_.find(pair_of(left, right)); m != merges_.end())
        queue.push({m->second.rank, at, left, right, m->second.joined});
    };
    for (std::size_t i = 0; i < count; ++i) offer(i);
    while (!queue.empty()) {
      const candidate best = queue.top();
      queue.pop();
      const std::size_t next = after[best.at];
      if (pieces[best.at] != best.left || next >= count || pieces[next] != best.right) continue;  // it has changed
      pieces[best.at] = best.joined;
      pieces[next] = none;
      after[best.at] = after[next];
      if (after[next] < count) before[after[next]] = best.at;
      offer(before[best.at]);
      offer(best.at);
    }
    for (const token_id id : pieces)
      if (id != none) ids.push_back(id);
  }

  static constexpr std::size_t most_tokens = std::size_t{1} << 24;

  bool digits_apart_ = false;
  token_id end_ = 0;
  std::vector<std::string> tokens_;  // their bytes; of special tokens the text
  std::vector<token_id> special_;
  std::array<token_id, 256> byte_tokens_;
  std::unordered_map<std::string, token_id> ids_;  // as the file writes them
  std::unordered_map<std::uint64_t, merge> merges_;
};

}  // namespace chat
