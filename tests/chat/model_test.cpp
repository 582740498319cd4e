// SPDX-License-Identifier: BSD-3-Clause

// The model of examples/chat on tiny files with random weights, against a plain loop in double.

#include "../examples/chat/model.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../examples/chat/chat_template.hpp"
#include "../examples/chat/dense.hpp"
#include "../examples/chat/dequantise.hpp"
#include "../examples/chat/gguf.hpp"
#include "../examples/chat/key_value_cache.hpp"
#include "../examples/chat/sampler.hpp"
#include "../examples/chat/tokenizer.hpp"
#include "chat/gguf_file.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<double>;
using rows = std::vector<numbers>;

// The model as its equations say it, one number at a time. Returns the scores behind each token.
class plain_model {
 public:
  plain_model(const chat::gguf& file, const tiny_sizes& sizes) : file_(file), s_(sizes) {}

  rows scores(const std::vector<chat::token_id>& tokens) const {
    rows x;
    const numbers embeddings = weights("token_embd");
    for (const auto id : tokens) {
      const auto begin = embeddings.begin() + static_cast<std::ptrdiff_t>(id) * s_.width;
      x.emplace_back(begin, begin + s_.width);
    }
    for (std::uint32_t i = 0; i < s_.layers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      add(x, times(attention(norm(x, weights(block + "attn_norm")), block), weights(block + "attn_output")));
      const rows n = norm(x, weights(block + "ffn_norm"));
      rows gate = times(n, weights(block + "ffn_gate"));
      const rows up = times(n, weights(block + "ffn_up"));
      for (std::size_t t = 0; t < gate.size(); ++t)
        for (std::size_t j = 0; j < gate[t].size(); ++j) gate[t][j] *= up[t][j] / (1 + std::exp(-gate[t][j]));
      add(x, times(gate, weights(block + "ffn_down")));
    }
    return times(norm(x, weights("output_norm")), s_.own_scores ? weights("output") : embeddings);
  }

 private:
  numbers weights(const std::string& name) const {
    const auto floats = chat::dequantise<float>(*file_.find(name + ".weight"));
    return {floats.begin(), floats.end()};
  }
  static void add(rows& x, const rows& y) {
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t j = 0; j < x[t].size(); ++j) x[t][j] += y[t][j];
  }
  static rows times(const rows& x, const numbers& w) {
    rows y;
    for (const auto& row : x) {
      numbers& to = y.emplace_back(w.size() / row.size());
      for (std::size_t j = 0; j < w.size(); ++j) to[j / row.size()] += w[j] * row[j % row.size()];
    }
    return y;
  }
  static rows norm(rows x, const numbers& w) {
    for (auto& row : x) {
      double squares = 0;
      for (const double number : row) squares += number * number;
      for (std::size_t j = 0; j < row.size(); ++j)
        row[j] *= w[j] / std::sqrt(squares / static_cast<double>(row.size()) + 1e-3);
    }
    return x;
  }
  // Turns the pair i, i + 1 of every head of row t by t * 500^(-i / rotated), for even i below `rotated`.
  void rotate(rows& x) const {
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t head = 0; head < x[t].size(); head += s_.head_dim)
        for (std::size_t i = 0; i < s_.rotated; i += 2) {
          const double angle =
              static_cast<double>(t) * std::pow(500., -static_cast<double>(i) / static_cast<double>(s_.rotated));
          const double a = x[t][head + i], b = x[t][head + i + 1];
          x[t][head + i] = a * std::cos(angle) - b * std::sin(angle);
          x[t][head + i + 1] = a * std::sin(angle) + b * std::cos(angle);
        }
  }
  rows attention(const rows& n, const std::string& block) const {
    rows q = times(n, weights(block + "attn_q")), k = times(n, weights(block + "attn_k"));
    const rows v = times(n, weights(block + "attn_v"));
    rotate(q), rotate(k);
    rows o(n.size(), numbers(s_.heads * s_.head_dim));
    for (std::size_t t = 0; t < n.size(); ++t)
      for (std::size_t h = 0; h < s_.heads; ++h) {
        const std::size_t from = h * s_.head_dim, kv = h / (s_.heads / s_.kv_heads) * s_.head_dim;
        numbers weight;
        double total = 0;
        for (std::size_t j = 0; j <= t; ++j) {
          double score = 0;
          for (std::size_t d = 0; d < s_.head_dim; ++d) score += q[t][from + d] * k[j][kv + d];
          weight.push_back(std::exp(score / std::sqrt(static_cast<double>(s_.head_dim))));
          total += weight.back();
        }
        for (std::size_t j = 0; j <= t; ++j)
          for (std::size_t d = 0; d < s_.head_dim; ++d) o[t][from + d] += weight[j] / total * v[j][kv + d];
      }
    return o;
  }

  const chat::gguf& file_;
  tiny_sizes s_;
};

// Reads the tokens in pieces of these sizes, and returns the largest error of a score over the largest score.
template <class T>
double error_of(const chat::gguf& file, const tiny_sizes& sizes, const std::string& cache_type,
                const std::vector<std::size_t>& pieces, const heed::context& context = {}) {
  const chat::model<T> model(file);
  const auto& s = model.sizes();
  std::mt19937 random(7);
  std::vector<chat::token_id> tokens;
  for (const std::size_t size : pieces)
    for (std::size_t i = 0; i < size; ++i) tokens.push_back(static_cast<chat::token_id>(random() % vocabulary_size));
  const rows expected = plain_model(file, sizes).scores(tokens);
  chat::key_value_cache cache(cache_type, s.layers, s.kv_heads, s.head_dim, std::ssize(tokens));
  double error = 0, largest = 0;
  std::size_t at = 0;
  for (const std::size_t size : pieces) {
    const chat::matrix x = model.read(std::span(tokens).subspan(at, size), cache, context);
    for (heed::index_t i = 0; i < x.rows(); ++i, ++at) {
      const auto y = model.scores({x.row(i).data(), static_cast<std::size_t>(x.cols())}, context);
      for (std::size_t j = 0; j < y.size(); ++j) {
        error = std::max(error, std::abs(double{y[j]} - expected[at][j]));
        largest = std::max(largest, std::abs(expected[at][j]));
      }
    }
  }
  REQUIRE(at == tokens.size());
  CHECK(cache.length() == std::ssize(tokens));
  return error / largest;
}

const tiny_sizes shapes_of_models[] = {
    {},
    {.layers = 1, .width = 33, .hidden = 7, .heads = 3, .kv_heads = 3, .head_dim = 11, .rotated = 10},
    {.layers = 3, .width = 64, .hidden = 96, .heads = 4, .kv_heads = 1, .head_dim = 16, .rotated = 16,
     .own_scores = true}};

}  // namespace

TEST_CASE("the model equals a plain loop in double") {
  for (const auto& sizes : shapes_of_models) {
    const auto bytes = tiny_model(sizes, 11).bytes();
    const chat::gguf file(bytes);
    CHECK(error_of<float>(file, sizes, "f32", {20}) < 1e-5);
    CHECK(error_of<float>(file, sizes, "f32", {13, 1, 1, 1, 4}) < 1e-5);
    CHECK(error_of<float>(file, sizes, "f32", {1, 1, 1}) < 1e-5);
    CHECK(error_of<float>(file, sizes, "f16", {13, 1, 1, 1, 4}) < 3e-3);
    CHECK(error_of<float>(file, sizes, "bf16", {13, 1, 1, 1, 4}) < 3e-2);
    CHECK(error_of<float>(file, sizes, "int8", {13, 1, 1, 1, 4}) < 6e-2);
    CHECK(error_of<heed::bf16_t>(file, sizes, "f32", {13, 1, 1, 1, 4}) < 5e-2);
  }
}

TEST_CASE("any executor gives the same bits") {
  const tiny_sizes sizes;
  const auto bytes = tiny_model(sizes, 12).bytes();
  const chat::gguf file(bytes);
  const double alone = error_of<float>(file, sizes, "bf16", {13, 1, 1});
  test_executor three(3, order::shuffled, true), reversed(4, order::reversed);
  CHECK(error_of<float>(file, sizes, "bf16", {13, 1, 1}, {.executor = three}) == alone);
  CHECK(error_of<float>(file, sizes, "bf16", {13, 1, 1}, {.executor = reversed}) == alone);
  CHECK(!three.asked_too_much());
}

TEST_CASE("bf16 weights that are bf16 already change nothing") {
  const tiny_sizes sizes{.width = 70, .heads = 5, .kv_heads = 5, .head_dim = 14, .rotated = 14};
  const std::size_t inputs = sizes.width, outputs = 9;
  chat::dense<float> floats{sizes.width, {}};
  chat::dense<heed::bf16_t> halves{sizes.width, {}};
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  chat::matrix x(3, sizes.width);
  for (heed::index_t i = 0; i < x.size(); ++i) x.data()[i] = normal(random);
  for (std::size_t i = 0; i < inputs * outputs; ++i) {
    halves.weights.emplace_back(normal(random));
    floats.weights.push_back(halves.weights.back());
  }
  const chat::matrix many = chat::multiply(x, halves, {}), expected = chat::multiply(x, floats, {});
  CHECK((many - expected).cwiseAbs().maxCoeff() == 0);
  for (heed::index_t i = 0; i < 3; ++i) {
    const chat::matrix row = x.row(i);
    CHECK((chat::multiply(row, halves, {}) - expected.row(i)).cwiseAbs().maxCoeff() < 1e-5f);
    CHECK((chat::multiply(row, floats, {}) - expected.row(i)).cwiseAbs().maxCoeff() < 1e-5f);
  }
}

TEST_CASE("the cache is full at its capacity, and nothing is read then") {
  const auto bytes = tiny_model({}, 1).bytes();
  const chat::gguf file(bytes);
  const chat::model<float> model(file);
  const auto& s = model.sizes();
  chat::key_value_cache cache("f32", s.layers, s.kv_heads, s.head_dim, 4);
  const std::vector<chat::token_id> tokens{1, 2, 3};
  model.read(tokens, cache, {});
  CHECK(error_text([&] { model.read(tokens, cache, {}); }) == "3 more tokens do not fit: 3 of 4 are taken");
  CHECK(cache.length() == 3);
  CHECK(error_text([] { const chat::key_value_cache odd("int4", 1, 1, 1, 1); }) ==
        "the cache is int4, must be f32, bf16, f16 or int8");
}

TEST_CASE("tokens that the model does not have are refused, and so is none at all") {
  const auto bytes = tiny_model({}, 1).bytes();
  const chat::gguf file(bytes);
  const chat::model<float> model(file);
  const auto& s = model.sizes();
  chat::key_value_cache cache("f32", s.layers, s.kv_heads, s.head_dim, 4);
  const auto problem = [&](const std::vector<chat::token_id>& tokens) {
    return error_text([&] { model.read(tokens, cache, {}); });
  };
  CHECK(problem({}) == "0 tokens to read, must be 1 or more");
  CHECK(problem({1, -1}) == "token -1 is none, must be 0 to 267");
  CHECK(problem({268}) == "token 268 is none, must be 0 to 267");
  CHECK(cache.length() == 0);
}

TEST_CASE("a cache larger than the memory of the machine is refused") {
  const std::string problem =
      error_text([] { const chat::key_value_cache huge("f16", 1024, 4096, 4096, heed::index_t{1} << 24); });
  CHECK(problem.find("a cache of 16777216 tokens as f16 needs 1152921504607 MB, this machine has ") == 0);
}

TEST_CASE("what a piece of work throws reaches the caller") {
  test_executor three(3, order::shuffled, true);
  const auto run = [&](heed::index_t bad) {
    chat::for_pieces(three, 10, 1, [&](heed::index_t first, heed::index_t) {
      if (first == bad) throw std::bad_alloc();
    });
  };
  CHECK_NOTHROW(run(-1));
  CHECK_THROWS_AS(run(4), std::bad_alloc);
}

TEST_CASE("weights that are not finite give an error, not a token") {
  auto bytes = tiny_model({}, 1).bytes();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - sizeof(nan), &nan, sizeof(nan));  // the last one of output_norm
  const chat::gguf file(bytes);
  const chat::model<float> model(file);
  const auto& s = model.sizes();
  chat::key_value_cache cache("f32", s.layers, s.kv_heads, s.head_dim, 2);
  const std::vector<chat::token_id> tokens{3, 4};
  const chat::matrix x = model.read(tokens, cache, {});
  const auto scores = model.scores({x.data(), static_cast<std::size_t>(x.cols())}, {});
  CHECK_THROWS_AS(chat::sampler(0, 1).choose(scores), chat::file_error);
}

// A model whose header was changed is refused, or it runs.
TEST_CASE("no mutated model crashes") {
  const tiny_sizes sizes{.layers = 1, .width = 8, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4};
  const auto good = tiny_model(sizes, 3).bytes();
  const chat::gguf whole(good);
  const auto header = static_cast<std::size_t>(whole.tensors().front().bytes.data() - good.data());
  const std::size_t vocabulary = 3000;  // most of the header are tokens, which gguf_test.cpp changes
  REQUIRE(header > vocabulary);
  std::mt19937_64 random(5);
  int ran = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    auto bytes = good;
    for (auto changes = 1 + random() % 3; changes > 0; --changes) {
      const std::size_t size = std::size_t{1} << random() % 4;
      const std::size_t near = random() % 2 == 0 ? random() % 500 : header - 900 + random() % 900;
      const std::uint64_t x = random() % 2 == 0 ? random() % 64 : random();
      std::memcpy(&bytes[std::min(near, bytes.size() - size)], &x, size);
    }
    try {
      const chat::gguf file(bytes);
      const chat::tokenizer words(file);
      const chat::model<float> model(file);
      const auto& s = model.sizes();
      const auto tokens = chat::chat_template(file, words).question("hello", true);
      chat::key_value_cache cache("f32", s.layers, s.kv_heads, s.head_dim,
                                  std::min<heed::index_t>(s.context, std::ssize(tokens) + 1));
      model.read(tokens, cache, {});
      const chat::matrix x = model.read(std::span(tokens).first(1), cache, {});
      const auto scores = model.scores({x.data(), static_cast<std::size_t>(x.size())}, {});
      CHECK(std::ssize(scores) == s.tokens);
      words.bytes_of(chat::sampler(0, 1).choose(scores));
      ++ran;
    } catch (const chat::file_error&) {
      ++refused;
    } catch (const std::length_error&) {  // the context is shorter than the question
      ++refused;
    }
  }
  CHECK(ran > 20);
  CHECK(refused > 1000);
}
