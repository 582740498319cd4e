// SPDX-License-Identifier: BSD-3-Clause

// The model of examples/sentence_encoder, on random weights: against plain loops in double, and packed against alone.

#include "../examples/sentence_encoder/encoder.hpp"

#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/safetensors_file.hpp"

using namespace heed_test;
using minilm::index_t;

namespace {

using numbers = std::vector<double>;

const std::string config_text = R"({"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
  "intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 20, "type_vocab_size": 2,
  "layer_norm_eps": 0.03, "hidden_act": "gelu", "position_embedding_type": "absolute"})";

minilm::config config_of(const std::string& text) {
  std::istringstream file(text);
  return minilm::config::read(file, "c");
}

// Random weights with the names of BERT, as a file and in double.
struct tiny_model {
  std::map<std::string, numbers> weights;
  safetensors_writer writer;

  explicit tiny_model(const minilm::config& c) {
    const index_t width = c.hidden_size;
    add("embeddings.word_embeddings.weight", c.vocab_size, width, 1);
    add("embeddings.position_embeddings.weight", c.max_position_embeddings, width, 0.5);
    add("embeddings.token_type_embeddings.weight", c.type_vocab_size, width, 0.5);
    add_norm("embeddings.LayerNorm", width);
    for (index_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string name = "encoder.layer." + std::to_string(i) + ".";
      for (const char* part : {"self.query", "self.key", "self.value", "output.dense"})
        add_dense(name + "attention." + part, width, width);
      add_norm(name + "attention.output.LayerNorm", width);
      add_dense(name + "intermediate.dense", c.intermediate_size, width);
      add_dense(name + "output.dense", width, c.intermediate_size);
      add_norm(name + "output.LayerNorm", width);
    }
  }

  minilm::encoder encoder(const minilm::config& c) const {
    std::istringstream stream(writer.file());
    minilm::safetensors file(stream, "f");
    return minilm::encoder(c, file);
  }

 private:
  random_numbers random_{5};

  void add(const std::string& name, index_t rows, index_t columns, double size, double mean = 0) {
    std::vector<float> x(static_cast<std::size_t>(rows * columns));
    for (float& each : x) each = static_cast<float>(mean + size * random_.normal());
    writer.add(name, rows == 1 ? std::to_string(columns) : std::to_string(rows) + "," + std::to_string(columns), x);
    weights[name] = numbers(x.begin(), x.end());
  }
  void add_norm(const std::string& name, index_t width) {
    add(name + ".weight", 1, width, 0.2, 1);
    add(name + ".bias", 1, width, 0.3);
  }
  void add_dense(const std::string& name, index_t outputs, index_t inputs) {
    add(name + ".weight", outputs, inputs, 1.5 / std::sqrt(static_cast<double>(inputs)));
    add(name + ".bias", 1, outputs, 0.3);
  }
};

// The same model as loops over numbers, in double; rows of `width` numbers, one after the other.
struct plain_model {
  const minilm::config& c;
  const std::map<std::string, numbers>& weights;

  std::size_t width() const { return static_cast<std::size_t>(c.hidden_size); }

  numbers dense(const numbers& x, std::size_t inputs, const std::string& name) const {
    const numbers &w = weights.at(name + ".weight"), &b = weights.at(name + ".bias");
    numbers y;
    for (std::size_t i = 0; i < x.size() / inputs; ++i)
      for (std::size_t out = 0; out < b.size(); ++out) {
        double sum = b[out];
        for (std::size_t in = 0; in < inputs; ++in) sum += w[out * inputs + in] * x[i * inputs + in];
        y.push_back(sum);
      }
    return y;
  }
  void norm(numbers& x, const std::string& name) const {
    const numbers &w = weights.at(name + ".weight"), &b = weights.at(name + ".bias");
    const double n = static_cast<double>(width());
    for (std::size_t row = 0; row < x.size(); row += width()) {
      double mean = 0, variance = 0;
      for (std::size_t d = 0; d < width(); ++d) mean += x[row + d] / n;
      for (std::size_t d = 0; d < width(); ++d) variance += (x[row + d] - mean) * (x[row + d] - mean) / n;
      for (std::size_t d = 0; d < width(); ++d)
        x[row + d] = (x[row + d] - mean) / std::sqrt(variance + static_cast<double>(c.layer_norm_eps)) * w[d] + b[d];
    }
  }
  numbers attention(const numbers& q, const numbers& k, const numbers& v) const {
    const std::size_t n = q.size() / width(), heads = static_cast<std::size_t>(c.num_attention_heads),
                      dims = width() / heads;
    numbers o(q.size());
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t i = 0; i < n; ++i) {
        numbers p(n);
        double sum = 0;
        for (std::size_t j = 0; j < n; ++j) {
          double score = 0;
          for (std::size_t d = head * dims; d < (head + 1) * dims; ++d)
            score += q[i * width() + d] * k[j * width() + d];
          sum += p[j] = std::exp(score / std::sqrt(static_cast<double>(dims)));
        }
        for (std::size_t j = 0; j < n; ++j)
          for (std::size_t d = head * dims; d < (head + 1) * dims; ++d)
            o[i * width() + d] += p[j] / sum * v[j * width() + d];
      }
    return o;
  }
  static void add(numbers& x, const numbers& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  numbers operator()(const std::vector<int>& ids) const {
    numbers x;
    for (std::size_t i = 0; i < ids.size(); ++i)
      for (std::size_t d = 0; d < width(); ++d)
        x.push_back(weights.at("embeddings.word_embeddings.weight")[static_cast<std::size_t>(ids[i]) * width() + d] +
                    weights.at("embeddings.position_embeddings.weight")[i * width() + d] +
                    weights.at("embeddings.token_type_embeddings.weight")[d]);
    norm(x, "embeddings.LayerNorm");
    for (index_t layer = 0; layer < c.num_hidden_layers; ++layer) {
      const std::string name = "encoder.layer." + std::to_string(layer) + ".", self = name + "attention.self.";
      const numbers o = attention(dense(x, width(), self + "query"), dense(x, width(), self + "key"),
                                  dense(x, width(), self + "value"));
      add(x, dense(o, width(), name + "attention.output.dense"));
      norm(x, name + "attention.output.LayerNorm");
      numbers hidden = dense(x, width(), name + "intermediate.dense");
      for (double& h : hidden) h *= 0.5 * std::erfc(-h / std::sqrt(2.0));
      add(x, dense(hidden, static_cast<std::size_t>(c.intermediate_size), name + "output.dense"));
      norm(x, name + "output.LayerNorm");
    }
    numbers mean(width());
    double square = 0;
    for (std::size_t i = 0; i < x.size(); ++i) mean[i % width()] += x[i] / static_cast<double>(ids.size());
    for (const double m : mean) square += m * m;
    for (double& m : mean) m /= std::sqrt(square);
    return mean;
  }
};

// Sentences of these lengths, with random tokens.
std::vector<std::vector<int>> sentences_of(const std::vector<std::size_t>& lengths) {
  random_numbers random(9);
  std::vector<std::vector<int>> all;
  for (const std::size_t length : lengths) {
    all.emplace_back(length);
    for (int& id : all.back()) id = random.below(50);
  }
  return all;
}

}  // namespace

TEST_CASE("the encoder equals plain loops in double, and packed sentences equal single ones") {
  const minilm::config c = config_of(config_text);
  const tiny_model model(c);
  const minilm::encoder encoder = model.encoder(c);
  const auto sentences = sentences_of({7, 1, 20, 3, 3, 12, 1, 16, 2});
  double seconds = 0;
  const minilm::matrix packed = encoder(sentences, &seconds);
  CHECK(seconds > 0);
  CHECK(packed.rows() == 9);
  double to_plain = 0, to_alone = 0;
  for (std::size_t s = 0; s < sentences.size(); ++s) {
    const minilm::matrix alone = encoder(std::span(sentences).subspan(s, 1), &seconds);
    const numbers plain = plain_model{c, model.weights}(sentences[s]);
    for (std::size_t d = 0; d < plain.size(); ++d) {
      const auto at = static_cast<double>(packed(static_cast<index_t>(s), static_cast<index_t>(d)));
      to_plain = std::max(to_plain, std::abs(at - plain[d]));
      to_alone = std::max(to_alone, std::abs(at - static_cast<double>(alone(0, static_cast<index_t>(d)))));
    }
  }
  CAPTURE(to_plain, to_alone);
  CHECK(to_plain < 2e-6);  // a dozen of roundings of 6e-8, of numbers below 1
  CHECK(to_alone < 1e-6);
  CHECK(encoder({}, &seconds).rows() == 0);
}

TEST_CASE("the encoder refuses tokens and lengths that it does not know") {
  const minilm::config c = config_of(config_text);
  const minilm::encoder encoder = tiny_model(c).encoder(c);
  double seconds = 0;
  const auto said = [&](const std::vector<int>& ids) {
    const std::vector<std::vector<int>> one = {ids};
    return text_thrown_by<std::invalid_argument>([&] { encoder(one, &seconds); });
  };
  CHECK(said(std::vector<int>(20, 49)).empty());
  CHECK(said(std::vector<int>(21, 0)) == "a sentence has 21 tokens, and the model takes 1 to 20");
  CHECK(said({}) == "a sentence has 0 tokens, and the model takes 1 to 20");
  CHECK(said({3, 50}) == "there is a token 50, and the model knows 50");
  CHECK(said({-1}) == "there is a token -1, and the model knows 50");
}

TEST_CASE("the encoder refuses weights that are not finite, or are missing from a wide model") {
  const minilm::config c = config_of(config_text);
  std::string bytes = tiny_model(c).writer.file();
  bytes.replace(bytes.size() - 4, 4, bytes_of(std::numeric_limits<float>::quiet_NaN()));
  std::istringstream with_nan(bytes);
  minilm::safetensors nan_file(with_nan, "f");
  const minilm::encoder encoder(c, nan_file);
  double seconds = 0;
  CHECK(text_thrown_by([&] { encoder(sentences_of({2, 3}), &seconds); }) ==
        "the weights give embeddings that are not finite");

  // A layer of 2^20 x 2^20 numbers, of which the file holds none: no memory may be taken for it.
  safetensors_writer wide;
  const std::string width = "1048576";
  const std::vector<float> row(1 << 20);
  for (const char* name : {"word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"})
    wide.add(std::string("embeddings.") + name, "1," + width, row);
  for (const char* name : {"weight", "bias"}) wide.add(std::string("embeddings.LayerNorm.") + name, width, row);
  std::istringstream stream(wide.file());
  minilm::safetensors file(stream, "f");
  CHECK(text_thrown_by([&] { minilm::encoder({1 << 20, 1, 1, 1, 1, 1, 1, 1e-12f}, file); }) ==
        "f has no tensor encoder.layer.0.attention.self.query.weight");
}

TEST_CASE("a configuration that does not fit is refused, and so are its mutations") {
  const auto with = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  const auto said = [](const std::string& text) { return text_thrown_by([&] { config_of(text); }); };
  CHECK(said(config_text).empty());
  CHECK(said(with(config_text, "24", "25")) == "c has a hidden_size of 25, which 3 heads do not divide");
  CHECK(said(with(config_text, ": 3", ": 0")) == "c has 0 as num_attention_heads, and a size is 1 to 16777216");
  CHECK(said(with(config_text, "50", "4000000000000")) ==
        "c has 4000000000000 as vocab_size, and a size is 1 to 16777216");
  CHECK(said(with(config_text, "\"gelu\"", "\"relu\"")) == "c has \"relu\" as hidden_act, and this program knows gelu");
  CHECK(said(with(config_text, "absolute", "relative_key")) ==
        "c has \"relative_key\" as position_embedding_type, and this program knows absolute");
  for (const char* eps : {"-1", "1"})
    CHECK(said(with(config_text, "0.03", eps)).ends_with(" as layer_norm_eps, and it is 0 to 1"));
  const std::string nested = std::string(1000000, '[') + std::string(1000000, ']');
  CHECK(said(with(config_text, "24", nested)) == "c has an array as hidden_size, and a size is 1 to 16777216");
  for (const char* bad : {"", "[]", "{}", "{\"hidden_size\": 24", "7", "\"gelu\""}) CHECK(said(bad).starts_with("c "));

  const minilm::config c = config_of(config_text);
  const tiny_model model(c);
  CHECK(text_thrown_by([&] { model.encoder(config_of(with(config_text, "50", "51"))); }) ==
        "f has embeddings.word_embeddings.weight as (50, 24), and the configuration asks for (51, 24)");
  CHECK(text_thrown_by([&] { model.encoder(config_of(with(config_text, ": 2,", ": 16777216,"))); }) ==
        "f has no tensor encoder.layer.2.attention.self.query.weight");
  random_numbers random(11);
  int good = 0;
  for (int i = 0; i < 10000; ++i)
    if (said(mutated(config_text, random)).empty()) ++good;
  CHECK(good > 100);
}
