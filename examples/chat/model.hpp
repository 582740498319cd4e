// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A language model of the Llama architecture, as a GGUF file describes it. For each of its layers:
//   x += W_o attention(rotate(W_q n), rotate(W_k n), W_v n)    n = norm(x)
//   x += W_down (silu(W_gate n) * W_up n)                      n = norm(x)
// The rows of x are tokens, norm divides by the root mean square, and rotate turns pairs of numbers by an angle that
// grows with the token's place. The scores of the next token are the products of norm(x) with all embeddings.

#include "dense.hpp"  // first, for the sake of g++ 12

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "dequantise.hpp"
#include "gguf.hpp"
#include "key_value_cache.hpp"
#include "tokenizer.hpp"

namespace chat {

// The sizes of a model, from the metadata of its file
struct model_sizes {
  index_t layers, width, hidden, heads, kv_heads, head_dim, rotated, context, tokens;
  double rotary_base, epsilon;

  explicit model_sizes(const gguf& file) {
    if (const auto kind = file.string("general.architecture"); kind != "llama")
      throw file_error("the architecture is " + in_quotes(kind) + ", must be 'llama'");
    const auto size = [&](const char* name, std::uint64_t most) {
      return static_cast<index_t>(file.integer(std::string("llama.") + name, 1, most));
    };
    layers = size("block_count", 1024);
    width = size("embedding_length", 1 << 16);
    hidden = size("feed_forward_length", 1 << 20);
    heads = size("attention.head_count", 1 << 12);
    kv_heads = file.has("llama.attention.head_count_kv") ? size("attention.head_count_kv", 1 << 12) : heads;
    context = size("context_length", 1 << 24);
    head_dim = file.has("llama.attention.key_length") ? size("attention.key_length", 1 << 12) : width / heads;
    rotated = file.has("llama.rope.dimension_count") ? size("rope.dimension_count", 1 << 12) : head_dim;
    rotary_base = file.has("llama.rope.freq_base") ? file.real("llama.rope.freq_base") : 10000;
    epsilon = file.real("llama.attention.layer_norm_rms_epsilon");
    tokens = static_cast<index_t>(file.strings("tokenizer.ggml.tokens").size());

    const auto require = [](bool good, const std::string& problem) {
      if (!good) throw file_error(problem);
    };
    const auto text = [](index_t x) { return std::to_string(x); };
    require(heads % kv_heads == 0, text(heads) + " query heads are no multiple of " + text(kv_heads) + " key heads");
    require(head_dim >= 1, text(heads) + " heads do not fit into a width of " + text(width));
    require(!file.has("llama.attention.value_length") || size("attention.value_length", 1 << 12) == head_dim,
            "keys and values of different lengths are not supported");
    require(rotated <= head_dim && rotated % 2 == 0,
            "rotary embedding of " + text(rotated) + " numbers, must be even and at most " + text(head_dim));
    require(std::isfinite(rotary_base) && rotary_base > 0,
            "the rotary base is " + std::to_string(rotary_base) + ", must be finite and above 0");
    require(std::isfinite(epsilon) && epsilon >= 0,
            "the epsilon of the norm is " + std::to_string(epsilon) + ", must be finite and at least 0");
    const auto* scaling = file.get<std::string_view>("llama.rope.scaling.type");
    require(scaling == nullptr || *scaling == "none", "scaled rotary embedding is not supported");
  }
};

// T, the type of the weights: float or bf16_t
template <class T> class model {
 public:
  // Reads all tensors into memory of its own; the file can be closed afterwards.
  explicit model(const gguf& file) : sizes_(file) {
    std::set<std::string> used;
    const auto append = [&](auto& to, const std::string& name, std::initializer_list<index_t> shape) {
      using number = typename std::decay_t<decltype(to)>::value_type;
      std::vector<std::uint64_t> wanted;
      for (const index_t n : shape) wanted.push_back(static_cast<std::uint64_t>(n));
      const auto numbers = dequantise<number>(file.find(name + ".weight", wanted));
      to.insert(to.end(), numbers.begin(), numbers.end());
      used.insert(name + ".weight");
    };
    const auto& s = sizes_;
    const index_t all_heads = s.heads * s.head_dim, all_kv_heads = s.kv_heads * s.head_dim;
    append(embeddings_.weights, "token_embd", {s.width, s.tokens});
    embeddings_.inputs = s.width;
    for (index_t i = 0; i < s.layers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      layer& l = layers_.emplace_back();
      l.qkv.inputs = l.gate_up.inputs = s.width;
      l.output.inputs = all_heads;
      l.down.inputs = s.hidden;
      append(l.attention_norm, block + "attn_norm", {s.width});
      append(l.qkv.weights, block + "attn_q", {s.width, all_heads});
      append(l.qkv.weights, block + "attn_k", {s.width, all_kv_heads});
      append(l.qkv.weights, block + "attn_v", {s.width, all_kv_heads});
      append(l.output.weights, block + "attn_output", {all_heads, s.width});
      append(l.hidden_norm, block + "ffn_norm", {s.width});
      append(l.gate_up.weights, block + "ffn_gate", {s.width, s.hidden});
      append(l.gate_up.weights, block + "ffn_up", {s.width, s.hidden});
      append(l.down.weights, block + "ffn_down", {s.hidden, s.width});
    }
    append(norm_, "output_norm", {s.width});
    if (file.find("output.weight") != nullptr) {  // else the embeddings serve for both
      append(scores_.weights, "output", {s.width, s.tokens});
      scores_.inputs = s.width;
    }
    for (const tensor& t : file.tensors())
      if (!used.contains(std::string(t.name)))
        throw file_error("tensor " + in_quotes(t.name) +
                         " is not supported: a model must have no biases and no scaled rotary embedding");
  }

  const model_sizes& sizes() const { return sizes_; }

  // Bytes of the matrices
  index_t bytes() const {
    index_t numbers = std::ssize(embeddings_.weights) + std::ssize(scores_.weights);
    for (const layer& l : layers_)
      for (const dense<T>* m : {&l.qkv, &l.output, &l.gate_up, &l.down}) numbers += std::ssize(m->weights);
    return numbers * static_cast<index_t>(sizeof(T));
  }

  // Runs all layers for the next tokens, whose keys and values enter the cache. Returns (tokens, width), of which each
  // row gives the scores of the token behind it. Throws std::invalid_argument where there are no tokens or others than
  // the model has, and std::length_error where the cache has no room for them.
  matrix read(std::span<const token_id> tokens, key_value_cache& cache, const heed::context& context) const {
    const auto& s = sizes_;
    const auto& executor = context.executor;
    const index_t count = std::ssize(tokens), all_heads = s.heads * s.head_dim;
    if (count == 0) throw std::invalid_argument("0 tokens to read, must be 1 or more");
    for (const token_id id : tokens)
      if (id < 0 || id >= s.tokens)
        throw std::invalid_argument("token " + std::to_string(id) + " is none, must be 0 to " +
                                    std::to_string(s.tokens - 1));
    if (count > cache.capacity() - cache.length())
      throw std::length_error(std::to_string(count) + " more tokens do not fit: " + std::to_string(cache.length()) +
                              " of " + std::to_string(cache.capacity()) + " are taken");
    matrix x(count, s.width);
    for (index_t i = 0; i < count; ++i) {
      const T* const row = embeddings_.row(tokens[static_cast<std::size_t>(i)]);
      std::copy(row, row + s.width, x.row(i).data());
    }
    const rotation turns(s, cache.length(), count);
    matrix attended(count, all_heads);
    for (index_t i = 0; i < s.layers; ++i) {
      const layer& l = layers_[static_cast<std::size_t>(i)];
      matrix qkv = multiply(norm(x, l.attention_norm), l.qkv, executor);
      turns.apply(qkv, s.heads + s.kv_heads, s.head_dim);
      const auto [q, k, v] = heed::packed_qkv(qkv.data(), 1, count, s.heads, s.kv_heads, s.head_dim);
      cache.attend(i, q, k, v, heed::split_heads(attended, s.heads), context);
      x += multiply(attended, l.output, executor);
      const matrix gate_up = multiply(norm(x, l.hidden_norm), l.gate_up, executor);
      x += multiply(gated(gate_up), l.down, executor);
    }
    return norm(x, norm_);
  }

  // Returns the score of each token as the next one. x: a row of what read returned
  std::vector<float> scores(std::span<const float> x, const heed::context& context) const {
    const dense<T>& w = scores_.weights.empty() ? embeddings_ : scores_;
    std::vector<float> y(static_cast<std::size_t>(w.outputs()));
    multiply(w, x, y.data(), context.executor);
    return y;
  }

 private:
  struct layer {
    std::vector<float> attention_norm, hidden_norm;
    dense<T> qkv, output, gate_up, down;  // q, k and v are one matrix, and so are gate and up
  };

  // The rotary embedding of `count` tokens from place `first` on: numbers 2 i and 2 i + 1 of a head turn by
  // place * base^(-2 i / rotated).
  struct rotation {
    matrix cosine, sine;  // (count, rotated / 2)

    rotation(const model_sizes& s, index_t first, index_t count)
        : cosine(count, s.rotated / 2), sine(count, s.rotated / 2) {
      for (index_t i = 0; i < s.rotated / 2; ++i) {
        const double turn = std::pow(s.rotary_base, -2.0 * static_cast<double>(i) / static_cast<double>(s.rotated));
        for (index_t t = 0; t < count; ++t) {
          cosine(t, i) = static_cast<float>(std::cos(static_cast<double>(first + t) * turn));
          sine(t, i) = static_cast<float>(std::sin(static_cast<double>(first + t) * turn));
        }
      }
    }
    // Turns the first `heads` heads of each row.
    void apply(matrix& x, index_t heads, index_t head_dim) const {
      for (index_t t = 0; t < x.rows(); ++t)
        for (index_t h = 0; h < heads; ++h) {
          float* const head = x.row(t).data() + h * head_dim;
          for (index_t i = 0; i < cosine.cols(); ++i) {
            const float a = head[2 * i], b = head[2 * i + 1], c = cosine(t, i), s = sine(t, i);
            head[2 * i] = a * c - b * s;
            head[2 * i + 1] = a * s + b * c;
          }
        }
    }
  };

  // Divides each row by its root mean square, and multiplies it with the weights.
  matrix norm(const matrix& x, const std::vector<float>& weights) const {
    const Eigen::Map<const Eigen::RowVectorXf> w(weights.data(), std::ssize(weights));
    matrix y(x.rows(), x.cols());
    for (index_t t = 0; t < x.rows(); ++t) {
      const double mean = static_cast<double>(x.row(t).squaredNorm()) / static_cast<double>(x.cols());
      y.row(t) = x.row(t).cwiseProduct(w) * static_cast<float>(1 / std::sqrt(mean + sizes_.epsilon));
    }
    return y;
  }

  // Returns silu(gate) * up. silu(z) = z / (1 + exp(-z))
  static matrix gated(const matrix& gate_up) {
    const index_t half = gate_up.cols() / 2;
    const auto gate = gate_up.leftCols(half).array();
    return (gate / (1 + (-gate).exp()) * gate_up.rightCols(half).array()).matrix();
  }

  model_sizes sizes_;
  dense<T> embeddings_, scores_;
  std::vector<layer> layers_;
  std::vector<float> norm_;
};

}  // namespace chat
