// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Between the caller's rows and lanes: gather (rows -> columns of lanes) and scatter (back), each lane with its own row,
// so that a tile may hold any choice of rows.

#include <bit>

#include "heed/simd/transpose.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// out[d][lane] = factor * rows[lane][d] for d < dim, lane < lanes; zeros for the lanes up to out_row.
// out_row: a multiple of the vector width.
template <class T>
HEED_NOINLINE void gather(const T* const* rows, index_t lanes, index_t dim, T factor, T* out, index_t out_row) {
  constexpr index_t w = simd::width<T>;
  for (index_t lane = 0; lane < out_row; lane += w) {
    for (index_t d = 0; d < dim; d += w) {
      simd::square<T> r;
      const index_t there = std::min(w, dim - d);
      for (index_t i = 0; i < w; ++i) {
        simd::batch<T> x(T(0));
        if (lane + i < lanes) x = there == w ? simd::load(rows[lane + i] + d) : simd::load_partial(rows[lane + i] + d, there);
        r[static_cast<std::size_t>(i)] = x * simd::batch<T>(factor);
      }
      simd::transpose<T>(r);
      for (index_t i = 0; i < there; ++i) simd::store(out + (d + i) * out_row + lane, r[static_cast<std::size_t>(i)]);
    }
  }
}

// rows[lane][d] = factor[lane] * in[d][lane] for d < dim, lane < lanes
template <class T>
HEED_NOINLINE void scatter(const T* in, index_t in_row, const T* factor, T* const* rows, index_t lanes, index_t dim) {
  constexpr index_t w = simd::width<T>;
  for (index_t lane = 0; lane < lanes; lane += w) {
    const index_t rows_there = std::min(w, lanes - lane);
    const simd::batch<T> f = simd::load(factor + lane);
    for (index_t d = 0; d < dim; d += w) {
      simd::square<T> r;
      const index_t there = std::min(w, dim - d);
      for (index_t i = 0; i < w; ++i)
        r[static_cast<std::size_t>(i)] = i < there ? simd::load(in + (d + i) * in_row + lane) * f : simd::batch<T>(T(0));
      simd::transpose<T>(r);
      for (index_t i = 0; i < rows_there; ++i) {
        if (there == w)
          simd::store(rows[lane + i] + d, r[static_cast<std::size_t>(i)]);
        else
          simd::store_partial(rows[lane + i] + d, r[static_cast<std::size_t>(i)], there);
      }
    }
  }
}

// Whether every value of count rows of dim is finite
template <class T> HEED_NOINLINE bool all_finite(const T* rows, index_t row_stride, index_t count, index_t dim) {
  constexpr index_t w = simd::width<T>;
  const simd::batch<T> zero(T(0));
  simd::batch<T> sum = zero;  // 0 * x is NaN where x is not finite
  for (index_t j = 0; j < count; ++j, rows += row_stride) {
    index_t d = 0;
    for (; d + w <= dim; d += w) sum = simd::fma(zero, simd::load(rows + d), sum);
    if (d < dim) sum = simd::fma(zero, simd::load_partial(rows + d, dim - d), sum);
  }
  T lanes[w];
  simd::store(lanes, sum);
  for (const T x : lanes)
    if (!(x == T(0))) return false;
  return true;
}

}  // namespace HEED_ISA
}  // namespace heed::tile
