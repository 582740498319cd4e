// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Writes GGUF files for the tests of examples/chat: small ones with any metadata and tensors, and a whole tiny model.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "../examples/chat/gguf.hpp"

namespace heed_test {

struct byte_writer {
  std::vector<std::byte> bytes;

  template <class T> byte_writer& number(T x) {
    const auto* const from = reinterpret_cast<const std::byte*>(&x);
    bytes.insert(bytes.end(), from, from + sizeof(T));
    return *this;
  }
  byte_writer& raw(const std::string& text) {
    for (const char c : text) bytes.push_back(static_cast<std::byte>(c));
    return *this;
  }
  byte_writer& string(const std::string& text) { return number(std::uint64_t{text.size()}).raw(text); }
};

class gguf_file {
 public:
  std::uint64_t alignment = 32;

  gguf_file& u32(const std::string& name, std::uint32_t x) {
    begin_value(name, 4).number(x);
    return *this;
  }
  gguf_file& f32(const std::string& name, float x) {
    begin_value(name, 6).number(x);
    return *this;
  }
  gguf_file& text(const std::string& name, const std::string& x) {
    begin_value(name, 8).string(x);
    return *this;
  }
  gguf_file& texts(const std::string& name, const std::vector<std::string>& x) {
    auto& to = begin_value(name, 9).number(std::uint32_t{8}).number(std::uint64_t{x.size()});
    for (const auto& s : x) to.string(s);
    return *this;
  }
  gguf_file& integers(const std::string& name, const std::vector<std::int32_t>& x) {
    auto& to = begin_value(name, 9).number(std::uint32_t{5}).number(std::uint64_t{x.size()});
    for (const auto i : x) to.number(i);
    return *this;
  }
  // Any bytes as a value of a type, right or wrong
  gguf_file& value(const std::string& name, std::uint32_t type, const byte_writer& x) {
    auto& to = begin_value(name, type).bytes;
    to.insert(to.end(), x.bytes.begin(), x.bytes.end());
    return *this;
  }
  gguf_file& tensor(const std::string& name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                    const std::vector<std::byte>& data) {
    round_up(data_);
    tensors_.string(name).number(static_cast<std::uint32_t>(shape.size()));
    for (const auto n : shape) tensors_.number(n);
    tensors_.number(type).number(std::uint64_t{data_.bytes.size()});
    data_.bytes.insert(data_.bytes.end(), data.begin(), data.end());
    ++tensor_count_;
    return *this;
  }
  gguf_file& floats(const std::string& name, const std::vector<std::uint64_t>& shape, const std::vector<float>& x) {
    const auto bytes = std::as_bytes(std::span(x));
    return tensor(name, shape, 0, {bytes.begin(), bytes.end()});
  }

  std::vector<std::byte> bytes() const {
    byte_writer all;
    all.raw("GGUF").number(std::uint32_t{3}).number(tensor_count_).number(value_count_);
    all.bytes.insert(all.bytes.end(), values_.bytes.begin(), values_.bytes.end());
    all.bytes.insert(all.bytes.end(), tensors_.bytes.begin(), tensors_.bytes.end());
    round_up(all);
    all.bytes.insert(all.bytes.end(), data_.bytes.begin(), data_.bytes.end());
    return all.bytes;
  }

 private:
  void round_up(byte_writer& to) const {
    while (to.bytes.size() % alignment != 0) to.bytes.push_back({});
  }
  byte_writer& begin_value(const std::string& name, std::uint32_t type) {
    ++value_count_;
    return values_.string(name).number(type);
  }

  byte_writer values_, tensors_, data_;
  std::uint64_t value_count_ = 0, tensor_count_ = 0;
};

// A vocabulary of special tokens, the 256 bytes, and what a few merges make of them
inline gguf_file& add_vocabulary(gguf_file& file) {
  std::vector<std::string> tokens{"<|im_start|>", "<|im_end|>"};
  std::vector<std::int32_t> types{3, 3};
  const auto add = [&](const std::string& token) {
    tokens.push_back(token);
    types.push_back(1);
  };
  // Each byte as the file format writes it, by the rule: printable ones of Latin-1 as they are, others from U+0100 on
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    const int code = printable ? byte : next++;
    add(code < 0x80 ? std::string{static_cast<char>(code)}
                    : std::string{static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))});
  }
  const std::string space = "\xc4\xa0";  // U+0120 stands for byte 32
  const std::vector<std::string> merges{"h e",        "l l", space + " h", "he ll", "hell o", space + " " + space,
                                        space + "h e", "1 2", "o l",        "ll o"};
  for (const auto& joined : {std::string("he"), std::string("ll"), space + "h", std::string("hell"),
                             std::string("hello"), space + space, space + "he", std::string("12"), std::string("ol"),
                             std::string("llo")})
    add(joined);
  return file.text("tokenizer.ggml.model", "gpt2")
      .text("tokenizer.ggml.pre", "smollm")
      .texts("tokenizer.ggml.tokens", tokens)
      .integers("tokenizer.ggml.token_type", types)
      .texts("tokenizer.ggml.merges", merges)
      .u32("tokenizer.ggml.eos_token_id", 1)
      .text("tokenizer.chat_template", "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}");
}
constexpr std::uint64_t vocabulary_size = 2 + 256 + 10;

// Sizes of a model so small that a plain loop in double runs it
struct tiny_sizes {
  std::uint32_t layers = 2, width = 24, hidden = 40, heads = 6, kv_heads = 2, head_dim = 8, rotated = 4;
  bool own_scores = false;  // a matrix of its own for the scores, instead of the embeddings
};

// Returns a model with random weights, the same for the same seed. Its heads are wider than width / heads, and only a
// part of each is rotated.
inline gguf_file tiny_model(const tiny_sizes& s, std::uint32_t seed) {
  std::mt19937 random(seed);
  gguf_file file;
  file.text("general.architecture", "llama")
      .u32("llama.block_count", s.layers)
      .u32("llama.context_length", 64)
      .u32("llama.embedding_length", s.width)
      .u32("llama.feed_forward_length", s.hidden)
      .u32("llama.attention.head_count", s.heads)
      .u32("llama.attention.head_count_kv", s.kv_heads)
      .u32("llama.attention.key_length", s.head_dim)
      .u32("llama.rope.dimension_count", s.rotated)
      .f32("llama.rope.freq_base", 500)
      .f32("llama.attention.layer_norm_rms_epsilon", 1e-3f);
  add_vocabulary(file);
  const auto add = [&](const std::string& name, std::uint64_t inputs, std::uint64_t outputs) {
    std::vector<float> x(inputs * outputs);
    std::normal_distribution<float> normal(outputs == 1 ? 1.f : 0.f, outputs == 1 ? 0.2f : 0.3f);
    for (auto& number : x) number = normal(random);
    file.floats(name + ".weight",
                outputs == 1 ? std::vector<std::uint64_t>{inputs} : std::vector<std::uint64_t>{inputs, outputs}, x);
  };
  const std::uint64_t all_heads = s.heads * s.head_dim, all_kv_heads = s.kv_heads * s.head_dim;
  add("token_embd", s.width, vocabulary_size);
  for (std::uint32_t i = 0; i < s.layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    add(block + "attn_norm", s.width, 1);
    add(block + "attn_q", s.width, all_heads);
    add(block + "attn_k", s.width, all_kv_heads);
    add(block + "attn_v", s.width, all_kv_heads);
    add(block + "attn_output", all_heads, s.width);
    add(block + "ffn_norm", s.width, 1);
    add(block + "ffn_gate", s.width, s.hidden);
    add(block + "ffn_up", s.width, s.hidden);
    add(block + "ffn_down", s.hidden, s.width);
  }
  add("output_norm", s.width, 1);
  if (s.own_scores) add("output", s.width, vocabulary_size);
  return file;
}

// Returns the text of the exception that f throws; empty if it throws none.
template <class F> std::string error_text(const F& f) {
  try {
    f();
    return "";
  } catch (const std::exception& problem) {
    return problem.what();
  }
}

}  // namespace heed_test
