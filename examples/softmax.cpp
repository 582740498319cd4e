// SPDX-License-Identifier: BSD-3-Clause
//
// Runs causal softmax attention on raw memory, with lse; 8 query heads share 2 key/value heads. Then computes the same
// result from two halves of the keys and merges them.   g++ -std=c++20 -O2 -march=native -I include softmax.cpp
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "heed/softmax.hpp"

int main() {
  constexpr heed::index_t heads = 8, kv_heads = 2, seq = 256, dim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto numbers = [&](heed::index_t count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    return x;
  };
  const std::vector<float> q_data = numbers(heads * seq * dim), k_data = numbers(kv_heads * seq * dim),
                           v_data = numbers(kv_heads * seq * dim);
  std::vector<float> o_data(q_data.size()), lse(heads * seq);

  // Views describe the layout of memory: here (batch, head, seq, dim). bshd, packed_qkv and any strides work as well.
  const auto q = heed::bhsd(q_data.data(), 1, heads, seq, dim);
  const auto k = heed::bhsd(k_data.data(), 1, kv_heads, seq, dim);
  const auto v = heed::bhsd(v_data.data(), 1, kv_heads, seq, dim);
  const auto o = heed::bhsd(o_data.data(), 1, heads, seq, dim);
  const auto lse_of = [&](std::vector<float>& x) {
    return heed::tensor_view<float, 3>(x.data(), {1, heads, seq}, {0, seq, 1});
  };
  heed::softmax::forward(q, k, v, o, {.mask = heed::causal(), .lse = lse_of(lse)});

  const heed::plan plan = heed::softmax::plan_forward(q, k, v, o, {.mask = heed::causal()});
  std::printf("%s on %s, %td queries x %td keys a tile, %zu bytes of scratch\n", plan.path, plan.isa, plan.query_tile,
              plan.key_tile, plan.workspace_bytes);

  // Attention over some of the keys gives a partial result, and merge joins two of them. Query i is at place i of the
  // whole, which is place i of the first half and place i - seq / 2 of the second.
  std::vector<float> a_data(o_data.size()), b_data(o_data.size()), a_lse(lse.size()), b_lse(lse.size());
  const auto a = heed::bhsd(a_data.data(), 1, heads, seq, dim), b = heed::bhsd(b_data.data(), 1, heads, seq, dim);
  const std::vector<std::int32_t> first{-seq / 2};
  heed::softmax::forward(q, heed::slice(k, 2, 0, seq / 2), heed::slice(v, 2, 0, seq / 2), a,
                         {.mask = heed::causal(), .align = heed::top_left, .lse = lse_of(a_lse)});
  heed::softmax::forward(q, heed::slice(k, 2, seq / 2, seq / 2), heed::slice(v, 2, seq / 2, seq / 2), b,
                         {.mask = heed::causal(), .align = heed::first_place(first), .lse = lse_of(b_lse)});
  heed::softmax::merge(a, lse_of(a_lse), b, lse_of(b_lse));

  float difference = 0;
  for (std::size_t i = 0; i < o_data.size(); ++i) difference = std::max(difference, std::abs(o_data[i] - a_data[i]));
  std::printf("whole against two merged halves: largest difference %.1e\n", static_cast<double>(difference));
  return difference < 1e-5f ? 0 : 1;
}
