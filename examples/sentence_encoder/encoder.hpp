// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A BERT encoder (Devlin et al., arXiv 1810.04805) with mean pooling, as sentence models use it (Reimers and Gurevych,
// arXiv 1908.10084). A batch of sentences is one matrix with a row per token, without padding: dense layers take all
// rows at once, and attention keeps sentences apart by the offsets at which they begin. Include it before Eigen.
#include "heed/softmax.hpp"

#include <unsupported/Eigen/SpecialFunctions>

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <istream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "safetensors.hpp"

namespace minilm {

using heed::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row_vector = Eigen::RowVectorXf;

// Sizes of a model, as its config.json names them.
struct config {
  index_t hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size, max_position_embeddings,
      type_vocab_size;
  float layer_norm_eps;

  // Reads a file. Throws if it is not such a configuration, or is one of another architecture.
  static config read(std::istream& file, const std::string& name) try {
    const nlohmann::json json = nlohmann::json::parse(file);
    const auto size = [&](const char* key) {
      const nlohmann::json& value = json.at(key);
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() < 1 || value.get<std::uint64_t>() > 1 << 24)
        throw std::runtime_error(name + " has " + shown(value) + " as " + key + ", and a size is 1 to 16777216");
      return value.get<index_t>();
    };
    for (const auto& [key, expected] : {std::pair("hidden_act", "gelu"), {"position_embedding_type", "absolute"}})
      if (json.value(key, expected) != expected)
        throw std::runtime_error(name + " has " + shown(json.at(key)) + " as " + key + ", and this program knows " +
                                 expected);
    const double eps = json.at("layer_norm_eps").get<double>();
    if (!(eps >= 0 && eps < 1))
      throw std::runtime_error(name + " has " + std::to_string(eps) + " as layer_norm_eps, and it is 0 to 1");
    const config c{size("hidden_size"),       size("num_hidden_layers"), size("num_attention_heads"),
                   size("intermediate_size"), size("vocab_size"),        size("max_position_embeddings"),
                   size("type_vocab_size"),   static_cast<float>(eps)};
    if (c.hidden_size % c.num_attention_heads != 0)
      throw std::runtime_error(name + " has a hidden_size of " + std::to_string(c.hidden_size) + ", which " +
                               std::to_string(c.num_attention_heads) + " heads do not divide");
    return c;
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(name + " cannot be read: " + error.what());
  }
};

// y = x weight^T + bias, of the rows of x; the weight is (outputs, inputs).
struct dense_layer {
  matrix weight;
  row_vector bias;
};

struct layer_norm {
  row_vector weight, bias;
  float eps;

  void operator()(matrix& x) const {
    for (auto row : x.rowwise()) {
      row.array() -= row.mean();
      const float deviation = std::sqrt(row.squaredNorm() / static_cast<float>(x.cols()) + eps);
      row = (row.array() / deviation * weight.array() + bias.array()).matrix();
    }
  }
};

class encoder {
 public:
  // Reads the weights out of a model of these sizes.
  encoder(const config& sizes, safetensors& file) : sizes_(sizes) {
    const index_t width = sizes.hidden_size;
    words_ = read(file, "embeddings.word_embeddings.weight", sizes.vocab_size, width);
    // Every token has type 0, so the vector of that type is added to the positions once.
    positions_ = read(file, "embeddings.position_embeddings.weight", sizes.max_position_embeddings, width);
    positions_.rowwise() += read(file, "embeddings.token_type_embeddings.weight", sizes.type_vocab_size, width).row(0);
    norm_ = read_norm(file, "embeddings.LayerNorm");
    for (index_t i = 0; i < sizes.num_hidden_layers; ++i) {
      const std::string name = "encoder.layer." + std::to_string(i) + ".";
      layer& l = layers_.emplace_back();
      const dense_layer q = read_dense(file, name + "attention.self.query", width, width);
      const dense_layer k = read_dense(file, name + "attention.self.key", width, width);
      const dense_layer v = read_dense(file, name + "attention.self.value", width, width);
      l.qkv = {matrix(3 * width, width), row_vector(3 * width)};  // one product in place of three
      l.qkv.weight << q.weight, k.weight, v.weight;
      l.qkv.bias << q.bias, k.bias, v.bias;
      l.out = read_dense(file, name + "attention.output.dense", width, width);
      l.out_norm = read_norm(file, name + "attention.output.LayerNorm");
      l.up = read_dense(file, name + "intermediate.dense", sizes.intermediate_size, width);
      l.down = read_dense(file, name + "output.dense", width, sizes.intermediate_size);
      l.down_norm = read_norm(file, name + "output.LayerNorm");
    }
  }

  const config& sizes() const { return sizes_; }

  // Returns a row of norm 1 for each sentence, which is given as its tokens. Sentences may have any lengths from 1 to
  // max_position_embeddings. Adds the time in attention to *attention_seconds. Throws if a row is not finite.
  matrix operator()(std::span<const std::vector<int>> sentences, double* attention_seconds) const {
    std::vector<std::int32_t> offsets = {0};
    for (const auto& ids : sentences) {
      if (ids.empty() || std::ssize(ids) > sizes_.max_position_embeddings)
        throw std::invalid_argument("a sentence has " + std::to_string(ids.size()) +
                                    " tokens, and the model takes 1 to " +
                                    std::to_string(sizes_.max_position_embeddings));
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(ids.size()));
    }
    const index_t tokens = offsets.back(), width = sizes_.hidden_size, heads = sizes_.num_attention_heads;

    matrix x(tokens, width);
    for (index_t s = 0; s < std::ssize(sentences); ++s)
      for (index_t i = 0; i < length(offsets, s); ++i) x.row(first(offsets, s) + i) = embedding(sentences, s, i);
    norm_(x);

    matrix qkv, o(tokens, width), y, hidden;
    for (const layer& l : layers_) {
      multiply(x, l.qkv, qkv);
      qkv.rowwise() += l.qkv.bias;
      const auto begin = std::chrono::steady_clock::now();
      const auto [q, k, v] = heed::packed_qkv(qkv.data(), 1, tokens, heads, heads, width / heads);
      heed::softmax::forward(q, k, v, heed::split_heads(o, heads), {.mask = heed::packed(offsets, offsets)});
      *attention_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

      multiply(o, l.out, y);
      x += y, x.rowwise() += l.out.bias;
      l.out_norm(x);

      multiply(x, l.up, hidden);
      add_bias_and_gelu(hidden, l.up.bias);
      multiply(hidden, l.down, y);
      x += y, x.rowwise() += l.down.bias;
      l.down_norm(x);
    }

    matrix embeddings(std::ssize(sentences), width);
    for (index_t s = 0; s < std::ssize(sentences); ++s) {
      const row_vector mean = x.middleRows(first(offsets, s), length(offsets, s)).colwise().mean();
      embeddings.row(s) = mean / std::max(mean.norm(), 1e-12f);
    }
    if (!embeddings.allFinite()) throw std::runtime_error("the weights give embeddings that are not finite");
    return embeddings;
  }

 private:
  struct layer {
    dense_layer qkv, out, up, down;
    layer_norm out_norm, down_norm;
  };

  static index_t first(const std::vector<std::int32_t>& offsets, index_t s) {
    return offsets[static_cast<std::size_t>(s)];
  }
  static index_t length(const std::vector<std::int32_t>& offsets, index_t s) {
    return first(offsets, s + 1) - first(offsets, s);
  }

  row_vector embedding(std::span<const std::vector<int>> sentences, index_t s, index_t i) const {
    const int id = sentences[static_cast<std::size_t>(s)][static_cast<std::size_t>(i)];
    if (id < 0 || id >= sizes_.vocab_size)
      throw std::invalid_argument("there is a token " + std::to_string(id) + ", and the model knows " +
                                  std::to_string(sizes_.vocab_size));
    return words_.row(id) + positions_.row(i);
  }

  static void multiply(const matrix& x, const dense_layer& d, matrix& y) {
    y.resize(x.rows(), d.weight.rows());
    y.noalias() = x * d.weight.transpose();
  }

  // gelu(x) = x P(z <= x) of a normal z, by rows, which stay in cache.
  static void add_bias_and_gelu(matrix& x, const row_vector& bias) {
    for (auto row : x.rowwise()) {
      row += bias;
      row = (row.array() * (0.5f + 0.5f * (row.array() * 0.70710678f).erf())).matrix();
    }
  }

  static std::uint64_t extent(index_t size) { return static_cast<std::uint64_t>(size); }

  static matrix read(safetensors& file, const std::string& name, index_t rows, index_t columns) {
    matrix m;
    file.read_floats(name, {extent(rows), extent(columns)}, [&] { return m.resize(rows, columns), m.data(); });
    return m;
  }
  static row_vector read(safetensors& file, const std::string& name, index_t size) {
    row_vector v;
    file.read_floats(name, {extent(size)}, [&] { return v.resize(size), v.data(); });
    return v;
  }
  static dense_layer read_dense(safetensors& file, const std::string& name, index_t outputs, index_t inputs) {
    return {read(file, name + ".weight", outputs, inputs), read(file, name + ".bias", outputs)};
  }
  layer_norm read_norm(safetensors& file, const std::string& name) const {
    return {read(file, name + ".weight", sizes_.hidden_size), read(file, name + ".bias", sizes_.hidden_size),
            sizes_.layer_norm_eps};
  }

  config sizes_;
  matrix words_, positions_;
  layer_norm norm_;
  std::vector<layer> layers_;
};

}  // namespace minilm
