// SPDX-License-Identifier: BSD-3-Clause
//
// Runs a causal attention layer with the head counts of choose_heads. Prints for each variant the score FLOPs and the
// cached numbers, beside multi-head and grouped-query attention, and the time of a forward pass of the whole layer.

// The reference and Eigen come after heed: heed/softmax.hpp keeps g++ 12 from warning about its own AVX-512 intrinsics.
#include "heed/sparse_query.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "heed/reference/sparse_query.hpp"

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using heed::sparse_query::variant;

struct attention_layer {
  heed::sparse_query::layout heads;
  matrix wq, wk, wv, wo;  // (width, query_heads * dim), (width, kv_heads * dim) twice, (out_heads * dim, width)

  explicit attention_layer(const heed::sparse_query::model& m) : heads(heed::sparse_query::choose_heads(m)) {
    const float size = 1.7f / std::sqrt(static_cast<float>(m.width));  // keeps the variance of unit inputs
    wq = size * matrix::Random(m.width, heads.query_heads * heads.head_dim);
    wk = size * matrix::Random(m.width, heads.kv_heads * heads.head_dim);
    wv = size * matrix::Random(m.width, heads.kv_heads * heads.head_dim);
    wo = size * matrix::Random(heads.out_heads * heads.head_dim, m.width);
  }

  // Runs the layer; forward(q, k, v, o) is the attention.
  template <class Forward> matrix operator()(const matrix& x, Forward forward) const {
    const matrix q = x * wq, k = x * wk, v = x * wv;
    matrix o(x.rows(), wo.rows());
    forward(heed::split_heads(q, heads.query_heads), heed::split_heads(k, heads.kv_heads),
            heed::split_heads(v, heads.kv_heads), heed::split_heads(o, heads.out_heads));
    return o * wo;
  }
};

template <class F> double milliseconds(F f) {  // the best of three runs
  double best = 1e300;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

int main() {
  constexpr heed::index_t width = 512, heads = 16, tokens = 1024;
  const matrix x = matrix::Random(tokens, width) * 1.7f;
  constexpr struct {
    const char* name;
    variant kind;
  } variants[] = {{"MHA", variant::mha},   {"GQA", variant::gqa},   {"MQA", variant::mqa},
                  {"lSQA", variant::lsqa}, {"SQA", variant::sqa},   {"sSQA", variant::ssqa},
                  {"rSQA", variant::rsqa}, {"xSQA", variant::xsqa}, {"xSMQA", variant::xsmqa}};

  std::printf("width %td, %td heads, %td tokens, causal\n", width, heads, tokens);
  std::printf("%-6s %6s %6s %6s %12s %14s %13s %10s %11s\n", "", "query", "k/v", "out", "score FLOPs", "k/v per token",
              "attention ms", "layer ms", "difference");
  double multi_head = 0, cache = 0, worst = 0;
  for (const auto& v : variants) {
    const attention_layer layer({.width = width, .heads = heads, .variant = v.kind});
    const heed::sparse_query::layout& h = layer.heads;
    double attention_ms = 1e300;
    const auto attend = [&](auto q, auto k, auto values, auto o) {
      const double ms = milliseconds([&] { heed::sparse_query::forward(q, k, values, o, {.mask = heed::causal()}); });
      attention_ms = std::min(attention_ms, ms);
    };
    const matrix y = layer(x, attend);
    const double layer_ms = milliseconds([&] {
      layer(x, [](auto q, auto k, auto values, auto o) {
        heed::sparse_query::forward(q, k, values, o, {.mask = heed::causal()});
      });
    });

    // The first tokens again in double: under a causal mask they do not see the others.
    const matrix start = x.topRows(64);
    const matrix exact = layer(start, [](auto q, auto k, auto values, auto o) {
      heed::reference::sparse_query::forward(q, k, values, o, {.mask = heed::causal()});
    });
    const double difference = static_cast<double>((y.topRows(64) - exact).cwiseAbs().maxCoeff());
    worst = std::max(worst, difference);
    if (v.kind == variant::mha) multi_head = attention_ms, cache = h.kv_floats_per_token;
    std::printf("%-6s %6td %6td %6td %12.2f %7.0f (%.2f) %6.1f (%.2f) %10.1f %11.0e\n", v.name, h.query_heads,
                h.kv_heads, h.out_heads, h.score_flops_ratio, h.kv_floats_per_token, h.kv_floats_per_token / cache,
                attention_ms, attention_ms / multi_head, layer_ms, difference);
  }
  std::printf(
      "score FLOPs: of multi-head attention. k/v per token: numbers in a cache, and their share of MHA's, which\n"
      "is what decoding reads: it falls with the k/v heads, not with the query heads.\n");
  return worst < 1e-4 ? 0 : 1;
}
