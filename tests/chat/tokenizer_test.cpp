// SPDX-License-Identifier: BSD-3-Clause

// The tokenizer of examples/chat on a vocabulary made by hand (gguf_file.hpp), against splits written down here and the
// plain loop that joins tokens merge by merge.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../examples/chat/chat_template.hpp"
#include "../examples/chat/gguf.hpp"
#include "../examples/chat/tokenizer.hpp"
#include "../examples/chat/unicode.hpp"
#include "chat/gguf_file.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

using strings = std::vector<std::string>;

strings words_of(std::string_view text, bool digits_apart = true) {
  strings words;
  while (!text.empty()) {
    const std::size_t size = chat::next_word(text, digits_apart);
    REQUIRE(size >= 1);
    REQUIRE(size <= text.size());
    words.emplace_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return words;
}

// A tokenizer, and the file that it was read from
struct loaded {
  std::vector<std::byte> bytes;
  chat::gguf file;
  chat::tokenizer words;
  static std::vector<std::byte> make() {
    gguf_file file;
    return add_vocabulary(file).bytes();
  }
  loaded() : bytes(make()), file(bytes), words(file) {}
};

// The tokens of a text, each as the bytes that it stands for; special ones as <id>
strings pieces(const chat::tokenizer& words, const std::vector<chat::token_id>& ids) {
  strings x;
  for (const auto id : ids) {
    const auto bytes = words.bytes_of(id);
    x.push_back(bytes.empty() ? "<" + std::to_string(id) + ">" : std::string(bytes));
  }
  return x;
}

// Joins the pieces of a word, each time the leftmost place of the earliest merge, until none fits.
strings joined(const std::string& word) {
  const std::vector<std::pair<std::string, std::string>> merges{
      {"h", "e"}, {"l", "l"}, {" ", "h"}, {"he", "ll"}, {"hell", "o"}, {" ", " "}, {" h", "e"}, {"1", "2"},
      {"o", "l"}, {"ll", "o"}};
  strings x;
  for (const char c : word) x.emplace_back(1, c);
  for (bool again = true; again;) {
    again = false;
    for (const auto& [left, right] : merges) {
      for (std::size_t i = 0; i + 1 < x.size() && !again; ++i)
        if (x[i] == left && x[i + 1] == right) {
          x[i] += right;
          x.erase(x.begin() + static_cast<std::ptrdiff_t>(i) + 1);
          again = true;
        }
      if (again) break;
    }
  }
  return x;
}

// The text of the file_error that a vocabulary gives after a change
template <class Change> std::string problem_of_vocabulary(Change change) {
  gguf_file file;
  change(file);
  const auto bytes = file.bytes();
  const chat::gguf read(bytes);
  try {
    const chat::tokenizer words(read);
    return "";
  } catch (const chat::file_error& problem) {
    return problem.what();
  }
}

gguf_file& base(gguf_file& file, const strings& tokens, const std::vector<std::int32_t>& types, const strings& merges,
                std::uint32_t end = 0, const char* kind = "gpt2", const char* pre = "smollm") {
  return file.text("tokenizer.ggml.model", kind)
      .text("tokenizer.ggml.pre", pre)
      .texts("tokenizer.ggml.tokens", tokens)
      .integers("tokenizer.ggml.token_type", types)
      .texts("tokenizer.ggml.merges", merges)
      .u32("tokenizer.ggml.eos_token_id", end);
}

}  // namespace

TEST_CASE("text is cut into words") {
  CHECK(words_of("Hello world") == strings{"Hello", " world"});
  CHECK(words_of("don't we'll I'd x's y're we've I'm") ==
        strings{"don", "'t", " we", "'ll", " I", "'d", " x", "'s", " y", "'re", " we", "'ve", " I", "'m"});
  CHECK(words_of("a  b") == strings{"a", " ", " b"});
  CHECK(words_of("a   b") == strings{"a", "  ", " b"});
  CHECK(words_of("a\n\nb") == strings{"a", "\n", "\n", "b"});
  CHECK(words_of("a \n b") == strings{"a", " \n", " b"});
  CHECK(words_of("a  ") == strings{"a", "  "});
  CHECK(words_of(" ") == strings{" "});
  CHECK(words_of("12 34") == strings{"1", "2", " ", "3", "4"});
  CHECK(words_of("a  5") == strings{"a", "  ", "5"});
  CHECK(words_of("a1b") == strings{"a", "1", "b"});
  CHECK(words_of("12 34", false) == strings{"12", " 34"});
  CHECK(words_of("a  5", false) == strings{"a", " ", " 5"});
  CHECK(words_of("x=(y+1);") == strings{"x", "=(", "y", "+", "1", ");"});
  CHECK(words_of(" ,. '") == strings{" ,.", " '"});
  CHECK(words_of("'S") == strings{"'", "S"});
  CHECK(words_of("na\xc3\xafve \xe4\xb8\xad\xe6\x96\x87") == strings{"na\xc3\xafve", " \xe4\xb8\xad\xe6\x96\x87"});
  CHECK(words_of("\xc2\xbd\xd9\xa3") == strings{"\xc2\xbd", "\xd9\xa3"});  // one half, Arabic 3
  CHECK(words_of("a\xe3\x80\x80\xe2\x80\x83" "b") ==  // wide spaces
        strings{"a", "\xe3\x80\x80", "\xe2\x80\x83", "b"});
  CHECK(words_of("\xf0\x9f\x98\x80\xf0\x9f\x98\x80 a") == strings{"\xf0\x9f\x98\x80\xf0\x9f\x98\x80", " a"});
  CHECK(words_of("a\xff\xfe" "b") == strings{"a", "\xff\xfe", "b"});
}

TEST_CASE("bytes that are no UTF-8 are characters by themselves") {
  for (const std::string_view text : {"\x80", "\xc1\x81", "\xc3", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\xf8", "\xe4\xb8", "\xe4" "aa"}) {
    CHECK(chat::first_character(text).bytes == 1);
    CHECK(chat::class_of(chat::first_character(text).code) == chat::char_class::other);
  }
  CHECK(chat::first_character("\xf0\x9f\x98\x80").code == 0x1f600);
  CHECK(chat::first_character("\xf4\x8f\xbf\xbf").code == 0x10ffff);
  CHECK(chat::class_of(0x3b1) == chat::char_class::letter);
  CHECK(chat::class_of(0x2167) == chat::char_class::number);
  CHECK(chat::class_of(0x3000) == chat::char_class::space);
}

TEST_CASE("the earliest merge comes first") {
  const loaded x;
  CHECK(pieces(x.words, x.words.encode("hello")) == strings{"hello"});
  CHECK(pieces(x.words, x.words.encode(" hello")) == strings{" ", "hello"});  // "h e" comes before "  h"
  CHECK(pieces(x.words, x.words.encode("ol")) == strings{"ol"});
  CHECK(pieces(x.words, x.words.encode("12")) == strings{"1", "2"});  // merges never cross words
  CHECK(x.words.encode("").empty());
}

TEST_CASE("tokens equal those of the plain loop, and give back the text") {
  const loaded x;
  std::mt19937 random(3);
  const std::string letters = "hheelllloo  1x'";
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (auto size = random() % 24; size > 0; --size) text += letters[random() % letters.size()];
    strings expected;
    for (const auto& word : words_of(text))
      for (const auto& piece : joined(word)) expected.push_back(piece);
    INFO(text);
    CHECK(pieces(x.words, x.words.encode(text)) == expected);
  }
  for (int i = 0; i < 1000; ++i) {
    std::string text, back;
    for (auto size = random() % 40; size > 0; --size) text += static_cast<char>(random() % 256);
    for (const auto id : x.words.encode(text)) back += x.words.bytes_of(id);
    CHECK(back == text);
  }
}

TEST_CASE("a word of a million letters takes no long time") {
  const loaded x;
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "hello";
  CHECK(x.words.encode(text).size() == 200000);
}

TEST_CASE("special tokens count in templates only") {
  const loaded x;
  CHECK(pieces(x.words, x.words.encode_with_special("a<|im_start|>hello<|im_end|>")) ==
        strings{"a", "<0>", "hello", "<1>"});
  CHECK(x.words.encode("<|im_end|>").size() == 10);
  CHECK(x.words.end() == 1);

  const chat::chat_template form(x.file, x.words);
  const auto first = form.question("<|im_end|>", true), next = form.question("hello", false);
  CHECK(std::count(first.begin(), first.end(), 1) == 2);  // of the system message and of the question
  CHECK(std::count(first.begin(), first.end(), 0) == 3);
  CHECK(next.front() == 1);
  std::string text;
  for (const auto id : form.question("hello", true)) text += id < 2 ? "|" : std::string(x.words.bytes_of(id));
  CHECK(text == "|system\nBe kind|\n|user\nhello|\n|assistant\n");
}

TEST_CASE("a template needs its special tokens, and then no question is empty") {
  const auto question = [](const std::vector<std::int32_t>& types, const std::string& form, const std::string& text) {
    gguf_file file;  // "\xc4\x8a" is a line break, "\xc4\xa0" is a space
    base(file, {"<|im_start|>", "<|im_end|>", "a", "\xc4\x8a", "\xc4\xa0", "\xc4\x8a\xc4\xa0"}, types,
         {"\xc4\x8a \xc4\xa0"});
    const auto bytes = file.text("tokenizer.chat_template", form).bytes();
    const chat::gguf read(bytes);
    const chat::tokenizer words(read);
    return pieces(words, chat::chat_template(read, words).question(text, true));
  };
  const std::vector<std::int32_t> types{3, 3, 1, 1, 1, 1};
  const std::string form = "<|im_start|><|im_end|>";
  // Of "user" and "assistant" this vocabulary has the letter a only.
  CHECK(question(types, form, "") == strings{"<0>", "\n", "<1>", "\n", "<0>", "a", "a", "\n"});
  CHECK(question(types, form, "  a") == strings{"<0>", "\n ", " ", "a", "<1>", "\n", "<0>", "a", "a", "\n"});
  CHECK(question(types, "<|im_start|>system\na<|im_end|>", "") ==
        strings{"<0>", "\n", "a", "<1>", "\n", "<0>", "\n", "<1>", "\n", "<0>", "a", "a", "\n"});
  // A text that the program of the template puts together is none
  CHECK(question(types, "'<|im_start|>system\n' + a + '<|im_end|>'", "") == question(types, form, ""));

  const auto problem = [&](const std::vector<std::int32_t>& some_types, const std::string& some_form) {
    return error_text([&] { question(some_types, some_form, ""); });
  };
  CHECK(problem({1, 3, 1, 1, 1, 1}, form) == "the tokenizer has no special token '<|im_start|>'");
  CHECK(problem({3, 1, 1, 1, 1, 1}, form) == "the tokenizer has no special token '<|im_end|>'");
  CHECK(problem(types, "<|im_start|>") == "metadata 'tokenizer.chat_template' is no template with <|im_end|>");
}

TEST_CASE("a vocabulary that does not fit together is refused") {
  const auto problem = [](auto... arguments) {
    return problem_of_vocabulary([&](gguf_file& file) { base(file, arguments...); });
  };
  const auto has = [](const std::string& text, const char* words) {
    UNSCOPED_INFO(text);
    return text.find(words) != std::string::npos;
  };
  const strings tokens{"a", "b", "ab"}, merges{"a b"};
  const std::vector<std::int32_t> types{1, 1, 1};
  CHECK(problem(tokens, types, merges).empty());
  CHECK(has(problem(tokens, types, merges, 0u, "llama"), "'llama', must be 'gpt2'"));
  CHECK(has(problem(tokens, types, merges, 0u, "gpt2", "other"), "'other', must be 'smollm'"));
  CHECK(has(problem(tokens, types, merges, 3u), "is 3, must be 0 to 2"));
  CHECK(has(problem(strings{"a", "b"}, types, merges), "2 tokens and 3 types"));
  CHECK(has(problem(strings{}, std::vector<std::int32_t>{}, merges), "0 tokens"));
  CHECK(has(problem(strings{"a", "b", "a"}, types, merges), "token 2, 'a', is there twice"));
  CHECK(has(problem(strings{"a", "b", "a b"}, types, merges), "no byte"));
  CHECK(has(problem(tokens, types, strings{"a c"}), "there is no token 'c'"));
  CHECK(has(problem(tokens, types, strings{"b a"}), "there is no token 'ba'"));
  CHECK(has(problem(tokens, types, strings{"ab"}), "there is no token ''"));
}
