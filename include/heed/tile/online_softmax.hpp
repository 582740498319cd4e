// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The online softmax: a tile of scores, keys down and lanes across, becomes a tile of weights.

#include <cmath>
#include <limits>
#include <numbers>

#include "heed/simd/math.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// top = max(m, s) over the given keys. multiply does this on the way where nothing changes the scores after it.
template <int NR, class T> HEED_NOINLINE void raise(const T* scores, index_t row, index_t keys, const T* m, T* top) {
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    constexpr index_t w = simd::width<T>;
    std::array<simd::batch<T>, std::size_t{NR}> most{simd::load(m + N * w)...};
    for (; keys > 0; --keys, scores += row) ((most[N] = simd::max(most[N], simd::load(scores + N * w))), ...);
    (simd::store(top + N * w, most[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}

// online_softmax: scores are in units of log 2. Per lane, over the given keys, with top = max(m, max s) in `factor`:
//   p = 2^(s - top);  factor = 2^(m - top);  l <- factor l + sum p;  m <- top
// m starts as the lowest finite number, not -inf: then (-inf) - top is -inf and never NaN, and a tile whose keys are
// all hidden leaves l = 0. NaN scores reach l: a maximum may drop them, 2^(NaN - top) does not.
template <int NR, class T>
HEED_NOINLINE void online_softmax(T* scores, index_t row, index_t keys, T* m, T* l, T* factor) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const std::array<batch, std::size_t{NR}> most{simd::load(factor + N * w)...};
    std::array<batch, std::size_t{NR}> sum;
    ((sum[N] = batch(T(0))), ...);
    T* p = scores;
    for (index_t j = 0; j < keys; ++j, p += row) {
      std::array<batch, std::size_t{NR}> x{simd::exp2_nonpositive(simd::load(p + N * w) - most[N])...};
      ((sum[N] += x[N]), ...);
      (simd::store(p + N * w, x[N]), ...);
    }
    std::array<batch, std::size_t{NR}> f{simd::exp2_nonpositive(simd::load(m + N * w) - most[N])...};
    (simd::store(l + N * w, simd::fma(f[N], simd::load(l + N * w), sum[N])), ...);
    (simd::store(factor + N * w, f[N]), ...);
    (simd::store(m + N * w, most[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}

template <class T> void raise(const T* scores, index_t row, index_t keys, index_t vectors, const T* m, T* top) {
  with_vectors(vectors, [&](auto n) { raise<n>(scores, row, keys, m, top); });
}
template <class T> void online_softmax(T* scores, index_t row, index_t keys, index_t vectors, T* m, T* l, T* factor) {
  with_vectors(vectors, [&](auto n) { online_softmax<n>(scores, row, keys, m, l, factor); });
}

// The lse of a row from its m (units of log 2) and l; -inf where no key was seen
template <class T> T natural_lse(T m, T l) {
  if (heed::detail::equals(l, T(0))) return -std::numeric_limits<T>::infinity();
  return static_cast<T>(static_cast<double>(m) * std::numbers::ln2 + std::log(static_cast<double>(l)));
}

// out = 1 / l per lane, 0 where l is 0
template <class T> HEED_NOINLINE void reciprocals(const T* l, index_t lanes, T* out) {
  const simd::batch<T> zero(T(0)), one(T(1));
  for (index_t lane = 0; lane < lanes; lane += simd::width<T>) {
    const simd::batch<T> x = simd::load(l + lane);
    simd::store(out + lane, simd::select<T>(x == zero, zero, one / x));
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
