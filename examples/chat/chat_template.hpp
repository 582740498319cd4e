// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Writes a conversation as the model was trained to read it:
//   <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n
// The file has this as a program of a template language. Its form is written down here, and only the text of the system
// message is taken from the file. Special tokens mean nothing in that text or in what the user writes, so nobody
// can write in the name of another.

#include <string>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "tokenizer.hpp"

namespace chat {

class chat_template {
 public:
  // Throws file_error where the file has no such template, or where a special token of it is missing.
  chat_template(const gguf& file, const tokenizer& words) : words_(words) {
    constexpr std::string_view name = "tokenizer.chat_template", system = "<|im_start|>system\n", end = "<|im_end|>";
    const auto text = file.string(name);
    for (const std::string_view special : {std::string_view("<|im_start|>"), end}) {
      if (text.find(special) == text.npos)
        throw file_error("metadata " + in_quotes(name) + " is no template with " + std::string(special));
      const auto ids = words.encode_with_special(special);
      if (ids.size() != 1 || !words.bytes_of(ids[0]).empty())
        throw file_error("the tokenizer has no special token " + in_quotes(special));
    }
    if (const auto begin = text.find(system); begin != text.npos) {
      const auto message = text.substr(begin + system.size());
      system_ = message.substr(0, message.find(end));
      if (system_.find('\'') != system_.npos)
        system_.clear();  // a quote ends the text: the program inserts another one
    }
  }

  // Returns the tokens of what the user wrote, up to where the answer begins. first: it begins the conversation, and
  // the system message comes before it; else the model's last answer does, without its end.
  std::vector<token_id> question(std::string_view text, bool first) const {
    std::vector<token_id> ids;
    const auto append = [&](const std::vector<token_id>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    const auto append_turn = [&](const std::string& role, std::string_view message) {
      append(words_.encode_with_special("<|im_start|>" + role));
      append(words_.encode("\n" + std::string(message)));  // spaces behind the line break belong to one word with it
      append(words_.encode_with_special("<|im_end|>\n"));
    };
    if (!first)
      append(words_.encode_with_special("<|im_end|>\n"));
    else if (!system_.empty())
      append_turn("system", system_);
    append_turn("user", text);
    append(words_.encode_with_special("<|im_start|>assistant\n"));
    return ids;
  }

 private:
  const tokenizer& words_;
  std::string system_;
};

}  // namespace chat
