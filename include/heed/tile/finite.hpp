// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Products of values that are not finite with the weights of the lanes that see them, apart from the sums of all
// others: a lane that does not see such a value has weight 0, and 0 * NaN is NaN. They are infinite or NaN, so what
// counts is which of the two a lane meets: a few bits for each value, whatever number of lanes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "heed/core/types.hpp"
#include "heed/simd/batch.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// out[r][c] = x[r][c] where that is finite, else 0
template <class T> HEED_NOINLINE void copy_finite(const lane_block<const T>& x, T* out, index_t out_stride) {
  for (index_t r = 0; r < x.rows; ++r)
    for (index_t c = 0; c < x.lanes; ++c) out[r * out_stride + c] = std::isfinite(x.row(r)[c]) ? x.row(r)[c] : T(0);
}

// Whether every value of count rows of dim is finite
template <class T> HEED_NOINLINE bool all_finite(const T* rows, index_t stride, index_t count, index_t dim) {
  constexpr index_t w = simd::width<T>;
  const simd::batch<T> zero = simd::rounded(simd::batch<T>(T(0)));  // no 0 that fast-math would take for the product
  simd::batch<T> a = zero, b = zero, c = zero, e = zero;  // 0 * x is NaN where x is not finite; four sums: no latency
  for (index_t j = 0; j < count; ++j, rows += stride) {
    index_t d = 0;
    for (; d + 4 * w <= dim; d += 4 * w) {
      a = simd::fma(zero, simd::load(rows + d), a), b = simd::fma(zero, simd::load(rows + d + w), b);
      c = simd::fma(zero, simd::load(rows + d + 2 * w), c), e = simd::fma(zero, simd::load(rows + d + 3 * w), e);
    }
    for (; d + w <= dim; d += w) a = simd::fma(zero, simd::load(rows + d), a);
    if (d < dim) b = simd::fma(zero, simd::load_partial(rows + d, dim - d), b);
  }
  return simd::all_equal((a + b) + (c + e), zero);
}

// Lanes [from, to), at most 64, whose sums get products: weights [key][lane], sum(column, lane) =
// sum[column * column_stride + lane * lane_stride].
template <class T> struct weighted_lanes {
  const T* weight;
  index_t weight_stride, from, to;
  T* sum;
  index_t column_stride, lane_stride = 1;
};

namespace detail {

// Lanes of one key, a bit each: they see it, weigh it with more than 0, with less than 0
struct lane_bits {
  std::uint64_t seen = 0, above = 0, below = 0;
};
template <class T> HEED_NOINLINE lane_bits weight_signs(std::uint64_t seen, const T* weight, index_t from, index_t to) {
  lane_bits out{seen};
  for (index_t lane = from; lane < to; ++lane) {
    out.above |= std::uint64_t{weight[lane] > T(0)} << lane;
    out.below |= std::uint64_t{weight[lane] < T(0)} << lane;
  }
  return out;
}

// Adds the values of a column x[key] that are not finite to the sums of the lanes that see them.
template <class T>
void add_nonfinite(const lane_block<const T>& x, const lane_bits* bits, const weighted_lanes<T>& to, T* sum) {
  std::uint64_t rising = 0, falling = 0, nan = 0;
  for (index_t j = 0; j < x.rows; ++j) {
    const T value = *x.row(j);
    if (std::isfinite(value)) continue;
    const lane_bits key = std::isnan(value) ? lane_bits{bits[j].seen} : bits[j];
    rising |= key.seen & (value > T(0) ? key.above : key.below);
    falling |= key.seen & (value > T(0) ? key.below : key.above);
    nan |= key.seen & ~(key.above | key.below);  // 0 * infinity too
  }
  constexpr T inf = std::numeric_limits<T>::infinity();
  for (index_t lane = to.from; (rising | falling | nan) != 0 && lane < to.to; ++lane) {
    if ((rising >> lane & 1) != 0) sum[lane * to.lane_stride] += inf;
    if ((falling >> lane & 1) != 0) sum[lane * to.lane_stride] -= inf;
    if ((nan >> lane & 1) != 0) sum[lane * to.lane_stride] = std::numeric_limits<T>::quiet_NaN();
  }
}

}  // namespace detail

// Adds sum over keys of weight * x[key][column] to the sums so that values of x that are not finite reach the lanes
// that see them and no other; the other lanes get the bits of the plain product. x has at most Keys rows.
//   seen(key): the lanes that see it, a bit each
//   multiply(finite, column): adds the product with `finite` [key][..], finite.lanes columns from `column` on
// scratch: room for a copy of x's rows, scratch.lanes columns at a time.
template <index_t Keys, class T, class Seen, class Multiply>
HEED_NOINLINE void add_visible(const lane_block<const T>& x, const weighted_lanes<T>& to, const lane_block<T>& scratch,
                               Seen seen, Multiply multiply) {
  lane_array<detail::lane_bits, Keys> bits;  // of the rows that are not finite
  for (index_t j = 0; j < x.rows; ++j)
    if (!all_finite(x.row(j), x.stride, 1, x.lanes))
      bits[j] = detail::weight_signs(seen(j), to.weight + j * to.weight_stride, to.from, to.to);
  for (index_t c = 0; c < x.lanes; c += scratch.lanes) {
    const lane_block<const T> slice = x.part(0, x.rows, c, std::min(scratch.lanes, x.lanes - c));
    copy_finite(slice, scratch.data, scratch.stride);
    multiply(lane_block<const T>{scratch.data, scratch.stride, x.rows, slice.lanes}, c);
    for (index_t y = c; y < c + slice.lanes; ++y)
      detail::add_nonfinite(x.part(0, x.rows, y, 1), bits.data(), to, to.sum + y * to.column_stride);
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
