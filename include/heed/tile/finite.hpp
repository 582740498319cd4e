// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Products of values that are not finite with the weights of the lanes that see them, apart from the sums of all
// others: a lane that does not see such a value has weight 0, and 0 * NaN is NaN. They are infinite or NaN, so what
// counts is which of the two a lane meets: a few bits for each value, whatever number of lanes.

#include <cmath>
#include <cstdint>
#include <limits>

#include "heed/core/types.hpp"
#include "heed/simd/batch.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// out[j][c] = rows[j][c] where that is finite, else 0
template <class T>
HEED_NOINLINE void copy_finite(const T* rows, index_t row_stride, index_t count, index_t columns, T* out,
                               index_t out_row) {
  for (index_t j = 0; j < count; ++j)
    for (index_t c = 0; c < columns; ++c) {
      const T x = rows[j * row_stride + c];
      out[j * out_row + c] = std::isfinite(x) ? x : T(0);
    }
}

// Whether every value of count rows of dim is finite
template <class T> HEED_NOINLINE bool all_finite(const T* rows, index_t row_stride, index_t count, index_t dim) {
  constexpr index_t w = simd::width<T>;
  const simd::batch<T> zero(T(0));
  simd::batch<T> a = zero, b = zero, c = zero, e = zero;  // 0 * x is NaN where x is not finite; four sums: no latency
  for (index_t j = 0; j < count; ++j, rows += row_stride) {
    index_t d = 0;
    for (; d + 4 * w <= dim; d += 4 * w) {
      a = simd::fma(zero, simd::load(rows + d), a), b = simd::fma(zero, simd::load(rows + d + w), b);
      c = simd::fma(zero, simd::load(rows + d + 2 * w), c), e = simd::fma(zero, simd::load(rows + d + 3 * w), e);
    }
    for (; d + w <= dim; d += w) a = simd::fma(zero, simd::load(rows + d), a);
    if (d < dim) b = simd::fma(zero, simd::load_partial(rows + d, dim - d), b);
  }
  T lanes[std::size_t{w}];
  simd::store(lanes, (a + b) + (c + e));
  for (const T x : lanes)
    if (!heed::detail::equals(x, T(0))) return false;
  return true;
}

// Of one key; bit l stands for lane l: it sees the key, weighs it with more than 0, with less than 0
struct lane_bits {
  std::uint64_t seen = 0, above = 0, below = 0;
};

// weight: of lane 0; lanes [from, to), at most 64
template <class T> HEED_NOINLINE lane_bits weight_signs(std::uint64_t seen, const T* weight, index_t from, index_t to) {
  lane_bits out{seen};
  for (index_t lane = from; lane < to; ++lane) {
    const std::uint64_t bit = std::uint64_t{1} << lane;
    if (weight[lane] > T(0)) out.above |= bit;
    if (weight[lane] < T(0)) out.below |= bit;
  }
  return out;
}

// Of one column: the sum over keys of such products, for up to 64 lanes.
class nonfinite_products {
 public:
  // x: not finite, of a key
  template <class T> HEED_INLINE void add(T x, const lane_bits& key) {
    if (std::isnan(x)) {
      nan_ |= key.seen;
    } else {
      rising_ |= key.seen & (x > T(0) ? key.above : key.below);
      falling_ |= key.seen & (x > T(0) ? key.below : key.above);
      nan_ |= key.seen & ~(key.above | key.below);  // 0 * infinity
    }
  }

  // sum[lane * step] += what lane meets, for lanes [from, to)
  template <class T> HEED_INLINE void add_to(T* sum, index_t step, index_t from, index_t to) const {
    if ((rising_ | falling_ | nan_) == 0) return;
    constexpr T inf = std::numeric_limits<T>::infinity();
    for (index_t lane = from; lane < to; ++lane) {
      if ((rising_ >> lane & 1) != 0) sum[lane * step] += inf;
      if ((falling_ >> lane & 1) != 0) sum[lane * step] -= inf;
      if ((nan_ >> lane & 1) != 0) sum[lane * step] = std::numeric_limits<T>::quiet_NaN();
    }
  }

 private:
  std::uint64_t rising_ = 0, falling_ = 0, nan_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::tile
