// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// From scores to weights and the gradients of scores, for backward: elementwise over [key][lane].

#include <limits>

#include "heed/simd/math.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

namespace detail {

template <bool Gradients, int NR, class T>
HEED_NOINLINE void weigh(const lane_block<T>& s, T* dp, const T* lse, const T* delta) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const batch zero(T(0)), hidden(-std::numeric_limits<T>::infinity());
    const std::array<batch, std::size_t{NR}> m{simd::load(lse + N * w)...};
    std::array<batch, std::size_t{NR}> d;
    if constexpr (Gradients) ((d[N] = simd::load(delta + N * w)), ...);
    T* x = s.data;
    for (index_t j = s.rows; j > 0; --j, x += s.stride) {
      const std::array<batch, std::size_t{NR}> score{simd::load(x + N * w)...};
      const std::array<batch, std::size_t{NR}> p{
          simd::select<T>(score[N] == hidden, zero, simd::exp2_nonpositive(score[N] - m[N]))...};
      (simd::store(x + N * w, p[N]), ...);
      if constexpr (Gradients) {
        (simd::store(dp + N * w, simd::select<T>(score[N] == hidden, zero, p[N] * (simd::load(dp + N * w) - d[N]))),
         ...);
        dp += s.stride;
      }
    }
  }
  (std::make_integer_sequence<int, NR>{});
}

}  // namespace detail

// s = p = 2^(s - lse), and dp = p (dp - delta), with one lse and delta per lane. A pair whose score is -inf is hidden:
// both are 0, whatever dp and lse are. dp: [key][lane] in the same stride; null: not wanted
template <class T> void weigh(const lane_block<T>& s, T* dp, const T* lse, const T* delta) {
  with_vectors(s.lanes / simd::width<T>, [&](auto n) {
    dp != nullptr ? detail::weigh<true, n>(s, dp, lse, delta) : detail::weigh<false, n>(s, dp, lse, delta);
  });
}

// x *= slope, but for 0 times anything, which is 0: a hidden pair's slope may be of any size
template <class T> HEED_NOINLINE void multiply_slopes(const lane_block<T>& x, const T* slope) {
  const simd::batch<T> zero(T(0));
  for (index_t j = 0; j < x.rows; ++j, slope += x.stride)
    for (index_t l = 0; l < x.lanes; l += simd::width<T>) {
      const simd::batch<T> a = simd::load(x.row(j) + l);
      simd::store(x.row(j) + l, simd::select<T>(a == zero, zero, a * simd::load(slope + l)));
    }
}

// sum[lane] += sum over rows of x
template <class T> HEED_NOINLINE void sum_rows(const lane_block<const T>& x, T* sum) {
  for (index_t l = 0; l < x.lanes; l += simd::width<T>) {
    simd::batch<T> total = simd::load(sum + l);
    for (index_t j = 0; j < x.rows; ++j) total = total + simd::load(x.row(j) + l);
    simd::store(sum + l, total);
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
