// SPDX-License-Identifier: BSD-3-Clause
//
// Runs causal linear attention on raw memory, with 4 query heads on 2 key/value heads. One call gives the same result
// as two calls that carry the state over, and the same as token by token.
//   g++ -std=c++20 -O2 -march=native -I include linear.cpp
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "heed/linear.hpp"

int main() {
  constexpr heed::index_t heads = 4, kv_heads = 2, seq = 300, dim = 32, cut = 130;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto numbers = [&](heed::index_t count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    return x;
  };
  const std::vector<float> q_data = numbers(heads * seq * dim), k_data = numbers(kv_heads * seq * dim),
                           v_data = numbers(kv_heads * seq * dim);
  std::vector<float> whole(q_data.size()), halves(q_data.size()), single(q_data.size());
  const auto q = heed::bhsd(q_data.data(), 1, heads, seq, dim);
  const auto k = heed::bhsd(k_data.data(), 1, kv_heads, seq, dim), v = heed::bhsd(v_data.data(), 1, kv_heads, seq, dim);
  const auto view = [&](std::vector<float>& x) { return heed::bhsd(x.data(), 1, heads, seq, dim); };

  // The default feature map of queries and keys is elu(x) + 1, with a normaliser.
  heed::linear::forward(q, k, v, view(whole), {.mask = heed::causal()});

  // The state of any number of tokens: the sums of phi(k) v^T and of phi(k), for each key/value head.
  heed::state<float> memory(1, kv_heads, dim, dim);
  for (const auto& [first, count] : {std::pair{heed::index_t{0}, cut}, std::pair{cut, seq - cut}})
    heed::linear::forward(heed::slice(q, 2, first, count), heed::slice(k, 2, first, count),
                          heed::slice(v, 2, first, count), heed::slice(view(halves), 2, first, count),
                          {.mask = heed::causal(), .initial_state = memory, .final_state = memory});

  memory.reset();
  for (heed::index_t t = 0; t < seq; ++t)
    heed::linear::decode(heed::slice(q, 2, t, 1), heed::slice(k, 2, t, 1), heed::slice(v, 2, t, 1), memory,
                         heed::slice(view(single), 2, t, 1));

  float two_calls = 0, tokens = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    two_calls = std::max(two_calls, std::abs(whole[i] - halves[i]));
    tokens = std::max(tokens, std::abs(whole[i] - single[i]));
  }
  std::printf("one call against two: %.1e; against token by token: %.1e\n", static_cast<double>(two_calls),
              static_cast<double>(tokens));
  return two_calls < 1e-4f && tokens < 1e-4f ? 0 : 1;
}
