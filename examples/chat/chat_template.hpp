// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Writes a conversation as the model was trained to read it:
//   <|im_start|>system\n...<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n
// The file has this as a program of a template language. Its form is written down here, and only the text of the system
// message is taken from the file.

#include <string>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "tokenizer.hpp"

namespace chat {

class chat_template {
 public:
  chat_template(const gguf& file, const tokenizer& words) : words_(words) {
    constexpr std::string_view name = "tokenizer.chat_template", system = "<|im_start|>system\n", end = "<|im_end|>";
    const auto text = file.string(name);
    if (text.find("<|im_start|>") == text.npos || text.find(end) == text.npos)
      throw file_error("metadata " + in_quotes(name) + " is no template with <|im_start|> and <|im_end|>");
    if (const auto begin = text.find(system); begin != text.npos) {
      const auto message = text.substr(begin + system.size());
      system_ = message.substr(0, message.find(end));
    }
  }

  // Returns the tokens of what the user wrote, up to where the answer begins. first: it begins the conversation, and
  // the system message comes before it; else the model's last answer does, without its end.
  std::vector<token_id> question(std::string_view text, bool first) const {
    std::vector<token_id> ids;
    const auto append = [&](const std::vector<token_id>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    if (!first)
      append(words_.encode_with_special("<|im_end|>\n"));
    else if (!system_.empty())
      append(words_.encode_with_special("<|im_start|>system\n" + system_ + "<|im_end|>\n"));
    append(words_.encode_with_special("<|im_start|>user\n"));
    append(words_.encode(text));  // without special tokens: nobody can write as another one
    append(words_.encode_with_special("<|im_end|>\n<|im_start|>assistant\n"));
    return ids;
  }

 private:
  const tokenizer& words_;
  std::string system_;
};

}  // namespace chat
