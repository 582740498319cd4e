// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Between the caller's rows and lanes: gather (rows -> columns of lanes) and scatter (back), each lane with its own
// row, so that a tile may hold any choice of rows.

#include <algorithm>
#include <cstddef>
#include <utility>

#include "heed/simd/half.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// A row of the caller's whose elements are of type S
template <class S> HEED_INLINE const S* row_as(const std::byte* row) { return reinterpret_cast<const S*>(row); }
template <class S> HEED_INLINE S* row_as(std::byte* row) { return reinterpret_cast<S*>(row); }

namespace detail {

// One square of gather: out[d][lane] of rows[0 .. lanes) (zeros behind), columns from d on. Unrolled: in loops the
// registers of the square would live in memory.
template <class T, class S, int... I>
HEED_INLINE void gather_square(const std::byte* const* rows, index_t lanes, index_t d, T factor,
                               const lane_block<T>& out, std::integer_sequence<int, I...>) {
  const simd::batch<T> f(factor), zero(T(0));
  simd::square<T> r;
  if (lanes >= simd::width<T> && out.rows == simd::width<T>) {
    ((r[I] = simd::load_as<T>(row_as<S>(rows[I]) + d) * f), ...);
    simd::transpose<T>(r);
    (simd::store(out.row(I), r[I]), ...);
  } else {
    ((r[I] = I < lanes ? simd::load_partial_as<T>(row_as<S>(rows[I]) + d, out.rows) * f : zero), ...);
    simd::transpose<T>(r);
    ((I < out.rows ? simd::store(out.row(I), r[I]) : void()), ...);
  }
}

template <class T, class S, int... I>
HEED_INLINE void scatter_square(const lane_block<const T>& in, simd::batch<T> factor, std::byte* const* rows,
                                index_t lanes, index_t d, std::integer_sequence<int, I...>) {
  const simd::batch<T> zero(T(0));
  simd::square<T> r;
  if (lanes >= simd::width<T> && in.rows == simd::width<T>) {
    ((r[I] = simd::load(in.row(I)) * factor), ...);
    simd::transpose<T>(r);
    (simd::store_as<S>(row_as<S>(rows[I]) + d, r[I]), ...);
  } else {
    ((r[I] = I < in.rows ? simd::load(in.row(I)) * factor : zero), ...);
    simd::transpose<T>(r);
    ((I < lanes ? simd::store_partial_as<S>(row_as<S>(rows[I]) + d, r[I], in.rows) : void()), ...);
  }
}

// The same, added to what the rows hold
template <class T, int... I>
HEED_INLINE void add_square(const lane_block<const T>& in, simd::batch<T> factor, T* const* rows, index_t lanes,
                            index_t d, std::integer_sequence<int, I...>) {
  const simd::batch<T> zero(T(0));
  simd::square<T> r;
  if (lanes >= simd::width<T> && in.rows == simd::width<T>) {
    ((r[I] = simd::load(in.row(I))), ...);
    simd::transpose<T>(r);
    (simd::store(rows[I] + d, simd::fma(r[I], factor, simd::load(rows[I] + d))), ...);
  } else {
    ((r[I] = I < in.rows ? simd::load(in.row(I)) : zero), ...);
    simd::transpose<T>(r);
    ((I < lanes
          ? simd::store_partial(rows[I] + d, simd::fma(r[I], factor, simd::load_partial(rows[I] + d, in.rows)), in.rows)
          : void()),
     ...);
  }
}

template <class T> using lanes_of_vector = std::make_integer_sequence<int, static_cast<int>(simd::width<T>)>;

}  // namespace detail

// Rows hold elements of type S.
// out[d][lane] = factor * rows[lane][d] for d < dim, lane < lanes; zeros for the lanes up to out_stride, a multiple of
// the vector width.
template <class T, class S = T>
HEED_NOINLINE void gather(const std::byte* const* rows, index_t lanes, index_t dim, T factor, T* out,
                          index_t out_stride) {
  constexpr index_t w = simd::width<T>;
  for (index_t lane = 0; lane < out_stride; lane += w)
    for (index_t d = 0; d < dim; d += w)
      detail::gather_square<T, S>(rows + lane, lanes - lane, d, factor,
                                  {out + d * out_stride + lane, out_stride, std::min(w, dim - d), w},
                                  detail::lanes_of_vector<T>{});
}

// out[y] lane i = rows[i][first + y] for y < count; count <= width
template <class T>
HEED_INLINE void read_square(const T* const* rows, index_t first, index_t count, simd::square<T>& out) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    if (count == simd::width<T>)
      ((out[I] = simd::load(rows[I] + first)), ...);
    else
      ((out[I] = simd::load_partial(rows[I] + first, count)), ...);
  }
  (detail::lanes_of_vector<T>{});
  simd::transpose<T>(out);
}

// rows[lane][d] = factor[lane] * in[d][lane] for d < dim, lane < lanes
template <class T, class S = T>
HEED_NOINLINE void scatter(const T* in, index_t in_stride, const T* factor, std::byte* const* rows, index_t lanes,
                           index_t dim) {
  constexpr index_t w = simd::width<T>;
  for (index_t lane = 0; lane < lanes; lane += w) {
    const simd::batch<T> f = simd::load(factor + lane);
    for (index_t d = 0; d < dim; d += w)
      detail::scatter_square<T, S>({in + d * in_stride + lane, in_stride, std::min(w, dim - d), w}, f, rows + lane,
                                   lanes - lane, d, detail::lanes_of_vector<T>{});
  }
}

// rows[lane][d] += factor * in[d][lane] for d < dim, lane < lanes
template <class T>
HEED_NOINLINE void scatter_add(const lane_block<const T>& in, T factor, T* const* rows, index_t lanes) {
  constexpr index_t w = simd::width<T>;
  for (index_t lane = 0; lane < lanes; lane += w)
    for (index_t d = 0; d < in.rows; d += w)
      detail::add_square<T>(in.part(d, std::min(w, in.rows - d), lane, w), simd::batch<T>(factor), rows + lane,
                            lanes - lane, d, detail::lanes_of_vector<T>{});
}

// out[r][c] = rows[r][c] for r < count, c < dim
template <class T, class S = T>
HEED_NOINLINE void copy_rows(const S* rows, index_t stride, index_t count, index_t dim, T* out, index_t out_stride) {
  constexpr index_t w = simd::width<T>;
  for (index_t r = 0; r < count; ++r) {
    const S* const from = rows + r * stride;
    T* const to = out + r * out_stride;
    index_t c = 0;
    for (; c + w <= dim; c += w) simd::store(to + c, simd::load_as<T>(from + c));
    if (c < dim) simd::store_partial(to + c, simd::load_partial_as<T>(from + c, dim - c), dim - c);
  }
}

template <class T> HEED_NOINLINE void fill(T* c, index_t stride, index_t rows, index_t lanes, T value) {
  for (index_t j = 0; j < rows; ++j)
    for (index_t l = 0; l < lanes; l += simd::width<T>) simd::store(c + j * stride + l, simd::batch<T>(value));
}

}  // namespace HEED_ISA
}  // namespace heed::tile
