// SPDX-License-Identifier: BSD-3-Clause

// The tokenizer of examples/sentence_encoder, with a vocabulary made by hand.

#include <sstream>
#include <string>
#include <vector>

#include "../examples/sentence_encoder/wordpiece.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/safetensors_file.hpp"

using namespace heed_test;

namespace {

const std::vector<std::string> vocabulary = {
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "un", "##aff", "##able", "##a", "a", "!", ",", "cafe",
    "'",     "s",     "中",    "文",    "か",    "##か",  "ss", "ß",     "-",      "##",  "#", "[", "]", "sep",
    "α",     "##β",   "ᄀ",    "##ᅡ",   "##ᆨ",   "。",    "更", "å",     "##c",    "ා",   ";", "=", "i", "##i"};

minilm::wordpiece tokenizer() {
  std::stringstream file;
  for (const std::string& token : vocabulary) file << token << "\n";
  return minilm::wordpiece(file);
}

// The tokens between [CLS] and [SEP], with spaces.
std::string cut(const std::string& text, std::size_t limit = 1000) {
  static const minilm::wordpiece words = tokenizer();
  const std::vector<int> ids = words(text, limit);
  std::string all;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string& token = vocabulary.at(static_cast<std::size_t>(ids[i]));
    if (i == 0)
      CHECK(token == "[CLS]");
    else if (i + 1 == ids.size())
      CHECK(token == "[SEP]");
    else
      all += (all.empty() ? "" : " ") + token;
  }
  return all;
}

}  // namespace

TEST_CASE("words are cut into the longest pieces, from the left") {
  CHECK(cut("hello world") == "hello world");
  CHECK(cut("unaffable") == "un ##aff ##able");
  CHECK(cut("aaa") == "a ##a ##a");
  CHECK(cut("unknown hello") == "[UNK] hello");
  CHECK(cut("unaffables") == "[UNK]");  // all of a word or nothing
  CHECK(cut("able") == "[UNK]");        // only a continuation
  CHECK(cut("") == "");
  CHECK(cut("  \t\r\n ") == "");
}

TEST_CASE("text is folded: case, accents, control characters") {
  CHECK(cut("HELLO WoRLD") == "hello world");
  CHECK(cut("Café CAFE\u0301 cafe\u0323\u0301") == "cafe cafe cafe");
  CHECK(cut("ß ẞ SS") == "ß ß ss");
  CHECK(cut("İ I\u0307i") == "i i ##i");
  CHECK(cut("Αβ ΆΒ́") == "α ##β α ##β");
  CHECK(cut("hel\x01lo wor\u200bld \ufeffhello hel\u00adlo\x7f") == "hello world hello hello");
  CHECK(cut(std::string("hel\0lo", 6)) == "hello");
  CHECK(cut("\u212bc å") == "a ##c a");  // the angstrom sign is an a with a ring
  CHECK(cut("각") == "ᄀ ##ᅡ ##ᆨ");      // Hangul, in letters
  CHECK(cut("\u037e") == ";");           // the Greek question mark
  CHECK(cut("a\u2260a") == "a = a");     // not equal is equal with a stroke, a mark
  CHECK(cut("\u0301") == "");
}

TEST_CASE("punctuation and Chinese characters are words of their own") {
  CHECK(cut("hello,world!!") == "hello , world ! !");
  CHECK(cut("a's-a") == "a ' s - a");
  CHECK(cut("a$a^a`a") == "a [UNK] a [UNK] a [UNK] a");  // symbols to Unicode, punctuation to BERT
  CHECK(cut("中文hello文") == "中 文 hello 文");
  CHECK(cut("\uf901") == "更");     // a compatibility ideograph
  CHECK(cut("かか") == "か ##か");  // kana are letters
  CHECK(cut("a。a") == "a 。 a");
  CHECK(cut("hello\u3000world\u00a0a\u2028a") == "hello world a a");
  CHECK(cut("[SEP]") == "[ sep ]");  // text never becomes a special token
  CHECK(cut("##a ##") == "# # a # #");
}

TEST_CASE("long words are unknown, and long texts are cut") {
  CHECK(cut(std::string(100, 'a')).starts_with("a ##a ##a"));
  CHECK(cut(std::string(101, 'a')) == "[UNK]");
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "á";
  CHECK(cut(accents).size() == std::string("a").size() + 99 * std::string(" ##a").size());
  CHECK(cut("hello world hello world", 5) == "hello world hello");
  CHECK(cut("unaffable", 4) == "un ##aff");
  CHECK(cut("hello world", 2) == "");
  CHECK(cut("hello world", 4) == "hello world");
  CHECK(cut("a,,,,", 4) == "a ,");
}

TEST_CASE("bytes that are no UTF-8 are dropped, and whatever the bytes are, tokens are few and known") {
  CHECK(cut("hel\xfflo \xc3 world\xe4\xb8") == "hello world");
  CHECK(cut("a\xc0\xaf"
            "a") == "a ##a");  // an overlong slash is no slash
  CHECK(cut("a\xed\xa0\x80"
            "a") == "a ##a");  // half of a surrogate pair
  CHECK(cut("a\xf4\x90\x80\x80"
            "a") == "a ##a");  // beyond Unicode
  CHECK(cut("\xf8\x88\x80\x80\x80"
            "a") == "a");
  const minilm::wordpiece words = tokenizer();
  random_numbers random(7);
  for (int i = 0; i < 10000; ++i) {
    std::string text;
    for (std::int32_t n = random.below(200); n > 0; --n) {
      if (random.below(2) == 0)
        text += vocabulary[static_cast<std::size_t>(random.below(static_cast<std::int32_t>(vocabulary.size())))];
      else
        text += static_cast<char>(random.below(256));
    }
    const auto limit = static_cast<std::size_t>(2 + random.below(300));
    const std::vector<int> ids = words(text, limit);
    bool good = ids.size() >= 2 && ids.size() <= limit && ids.front() == 2 && ids.back() == 3;
    for (const int id : ids) good = good && id >= 0 && id < words.size();
    if (!good) FAIL("text " << i);
  }
}

TEST_CASE("a vocabulary needs the special tokens, and may have Windows line ends") {
  std::istringstream none("[PAD]\n[UNK]\n[SEP]\n"), windows("[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n"), empty("");
  CHECK(text_thrown_by([&] { minilm::wordpiece{none}; }) == "the vocabulary has no [CLS]");
  CHECK(text_thrown_by([&] { minilm::wordpiece{empty}; }) == "the vocabulary has no [UNK]");
  CHECK(minilm::wordpiece(windows)("a", 8) == std::vector<int>{1, 3, 2});

  std::istringstream twice("[UNK]\n[CLS]\n[SEP]\na\na\n"), endless(std::string((1 << 20) + 1, '\n'));
  CHECK(minilm::wordpiece(twice)("a", 8) == std::vector<int>{1, 4, 2});
  CHECK(text_thrown_by([&] { minilm::wordpiece{endless}; }) == "the vocabulary has more than 1048576 lines");
}
