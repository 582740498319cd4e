// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Weight steps: what turns a tile of scores, keys down and lanes across, into a tile of weights.

#include "heed/simd/math.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {

inline namespace HEED_ISA {

// online_softmax: scores are in units of log 2. Per lane, over the given keys:
//   m' = max(m, max s);  factor = 2^(m - m');  p = 2^(s - m');  l <- factor l + sum p
// m starts as the lowest finite number, not -inf: then (-inf) - m is -inf and never NaN, and a tile whose keys are all
// hidden leaves l = 0. NaN scores reach l: max may drop them, 2^(NaN - m') does not.
namespace detail {
template <int NR, class T, int... N>
HEED_INLINE void online_softmax(T* scores, index_t row, index_t keys, T* m, T* l, T* factor, std::integer_sequence<int, N...>) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  std::array<batch, NR> top{simd::load(m + N * w)...};
  const T* s = scores;
  for (index_t j = 0; j < keys; ++j, s += row) ((top[N] = simd::max(top[N], simd::load(s + N * w))), ...);
  std::array<batch, NR> sum{};
  ((sum[N] = batch(T(0))), ...);
  T* p = scores;
  for (index_t j = 0; j < keys; ++j, p += row) {
    std::array<batch, NR> x{simd::exp2_nonpositive(simd::load(p + N * w) - top[N])...};
    ((sum[N] += x[N]), ...);
    (simd::store(p + N * w, x[N]), ...);
  }
  std::array<batch, NR> f{simd::exp2_nonpositive(simd::load(m + N * w) - top[N])...};
  (simd::store(l + N * w, simd::fma(f[N], simd::load(l + N * w), sum[N])), ...);
  (simd::store(factor + N * w, f[N]), ...);
  (simd::store(m + N * w, top[N]), ...);
}
}  // namespace detail

template <int NR, class T> HEED_NOINLINE void online_softmax(T* scores, index_t row, index_t keys, T* m, T* l, T* factor) {
  detail::online_softmax<NR>(scores, row, keys, m, l, factor, std::make_integer_sequence<int, NR>{});
}

}  // namespace HEED_ISA
}  // namespace heed::tile
