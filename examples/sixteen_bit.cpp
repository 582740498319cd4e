// SPDX-License-Identifier: BSD-3-Clause
//
// Converts float activations to bf16 and runs causal softmax attention on them; 8 query heads share 2 key/value heads.
// Then compares with float.   g++ -std=c++20 -O2 -march=native -I include sixteen_bit.cpp
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "heed/convert.hpp"
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
  const std::vector<float> q = numbers(heads * seq * dim), k = numbers(kv_heads * seq * dim),
                           v = numbers(kv_heads * seq * dim);
  std::vector<float> o(q.size());
  const auto view = [](auto& x, heed::index_t count) { return heed::bhsd(x.data(), 1, count, seq, dim); };

  // bf16_t is 2 bytes of storage. _Float16, __bf16 and Eigen::half are taken as they are.
  std::vector<heed::bf16_t> q16(q.size()), k16(k.size()), v16(v.size()), o16(o.size());
  heed::convert(view(q, heads), view(q16, heads));
  heed::convert(view(k, kv_heads), view(k16, kv_heads));
  heed::convert(view(v, kv_heads), view(v16, kv_heads));

  const heed::softmax::options<float> options{.mask = heed::causal()};  // of what is summed: float
  heed::softmax::forward(view(q, heads), view(k, kv_heads), view(v, kv_heads), view(o, heads), options);
  heed::softmax::forward(view(q16, heads), view(k16, kv_heads), view(v16, kv_heads), view(o16, heads), options);

  const heed::plan plan = heed::softmax::plan_forward(view(q16, heads), view(k16, kv_heads), view(v16, kv_heads),
                                                      view(o16, heads), options);
  std::printf("%s on %s\n", plan.path, plan.isa);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < o.size(); ++i) {
    const double exact = o[i], difference = static_cast<double>(static_cast<float>(o16[i])) - exact;
    error += difference * difference, size += exact * exact;
  }
  const double relative = std::sqrt(error / size);
  std::printf("bf16 against float: RMS error %.2f %% of the RMS of o\n", 100 * relative);
  return relative < 0.01 ? 0 : 1;
}
