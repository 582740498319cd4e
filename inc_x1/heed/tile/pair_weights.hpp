// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax weights for a matrix unit: scores to weights that are rounded to bf16, two keys of a lane in each word.
//
// l is the sum of the rounded weights, those that are multiplied: a sum of unrounded ones would leave their common
// rounding error in o.

#include <array>
#include <utility>

#include "heed/simd/half.hpp"
#include "heed/simd/math.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// pairs[j][lane] = weights 2^(factor (s - m)) of keys 2j (low half) and 2j + 1; l += their sum. m, l: one per lane.
// With an odd number of keys the last one's partner has weight 0.
struct pair_weights {
  const float* scores;
  index_t score_stride, keys;
  float factor;  // 1 to 2
  const float* m;
  float *l, *pairs;
  index_t pair_stride;
};

template <int NR> HEED_NOINLINE void make_pair_weights(const pair_weights& x) {
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    using batch = simd::batch<float>;
    constexpr index_t w = simd::width<float>;
    const simd::bf16_exp2 exp2(x.factor);
    const std::array<batch, std::size_t{NR}> m{simd::load(x.m + N * w)...};
    std::array<batch, std::size_t{NR}> sum{simd::load(x.l + N * w)...};
    const float* s = x.scores;
    float* out = x.pairs;
    const index_t next = x.score_stride;
    index_t keys = x.keys;
    for (; keys > 1; keys -= 2, s += 2 * next, out += x.pair_stride) {
      const auto pair = [&](auto n) __attribute__((always_inline)) {
        const batch even = simd::round_up_bf16(exp2(simd::load(s + n * w) - m[n]));
        const batch odd = simd::round_up_bf16(exp2(simd::load(s + next + n * w) - m[n]));
        sum[n] += simd::cut_to_bf16(even) + simd::cut_to_bf16(odd);
        simd::store(out + n * w, simd::pair_bf16(even, odd));
      };
      (pair(std::integral_constant<int, N>{}), ...);
    }
    if (keys > 0) {
      const auto single = [&](auto n) __attribute__((always_inline)) {
        const batch even = simd::round_up_bf16(exp2(simd::load(s + n * w) - m[n]));
        sum[n] += simd::cut_to_bf16(even);
        simd::store(out + n * w, simd::pair_bf16(even, batch(0.0f)));
      };
      (single(std::integral_constant<int, N>{}), ...);
    }
    (simd::store(x.l + N * w, sum[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}

// vectors: of lanes, 1 to 4
inline void make_pair_weights(const pair_weights& x, index_t vectors) {
  switch (vectors) {
    case 1:
      return make_pair_weights<1>(x);
    case 2:
      return make_pair_weights<2>(x);
    case 3:
      return make_pair_weights<3>(x);
    default:
      return make_pair_weights<4>(x);
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
