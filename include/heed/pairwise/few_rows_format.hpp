// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The products of a few rows with keys and values as they are stored, for each storage type: what is stored in 16 bits
// is widened in registers.

#include <algorithm>
#include <cstddef>
#include <utility>

#include "heed/simd/half.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Rows of K and V as they are stored
struct stored_rows {
  const std::byte* first = nullptr;
  index_t row_bytes = 0, bytes = 0;  // bytes: of a row

  const std::byte* row(index_t j) const { return first + j * row_bytes; }
};

// Scores of rows q [row][d_stride] and the keys of a tile
template <class T> struct few_row_scores {
  stored_rows k, v;
  index_t keys = 0, dim = 0;
  const T* q = nullptr;
  index_t q_stride = 0;
  T* scores = nullptr;                // [key][row], zeros behind the last key up to a whole vector
  index_t ahead = 0, ahead_from = 0;  // rows of K and V to prefetch, and the first of them
};

// Rows of a pass over a tile, at most
template <class T> inline constexpr index_t pass_capacity = simd::width<T> < 8 ? simd::width<T> : 8;

namespace detail {

inline void prefetch_row(const stored_rows& x, index_t row) {
  for (index_t c = 0; c < x.bytes; c += 64) simd::prefetch(x.first, row * x.row_bytes + c);
}

template <index_t R, int Y, class T, int... X>
HEED_INLINE void clear_dots(simd::square<T>& sums, std::integer_sequence<int, X...>) {
  ((sums[Y * R + X] = simd::batch<T>(T(0))), ...);
}
template <index_t R, int Y, class T, class S, int... X>
HEED_INLINE void dots_of_key(simd::square<T>& sums, const S* k, const few_row_scores<T>& x,
                             std::integer_sequence<int, X...>) {
  constexpr index_t w = simd::width<T>;
  tile::lane_array<simd::batch<T>, R> sum;
  ((sum[X] = simd::batch<T>(T(0))), ...);
  index_t c = 0;
  for (; c + w <= x.dim; c += w) {
    const simd::batch<T> key = simd::pinned(simd::load_as<T>(k + c));
    ((sum[X] = simd::fma(key, simd::load(x.q + X * x.q_stride + c), sum[X])), ...);
  }
  if (c < x.dim) {
    const simd::batch<T> key = simd::load_partial_as<T>(k + c, x.dim - c);
    ((sum[X] = simd::fma(key, simd::load(x.q + X * x.q_stride + c), sum[X])), ...);
  }
  ((sums[Y * R + X] = sum[X]), ...);
}
// [key][row] of w / R keys, the first at `k`, read in the order of their addresses; zeros behind the last of `keys`
template <index_t R, class T, class S, int... Y>
HEED_INLINE simd::batch<T> dots(const few_row_scores<T>& x, const std::byte* k, index_t keys,
                                std::integer_sequence<int, Y...>) {
  constexpr auto rows = std::make_integer_sequence<int, static_cast<int>(R)>{};
  simd::square<T> sum;
  ((Y < keys ? dots_of_key<R, Y, T>(sum, tile::row_as<S>(k + Y * x.k.row_bytes), x, rows)
             : clear_dots<R, Y, T>(sum, rows)),
   ...);
  return simd::sum_rows<T>(sum);
}

// scores[key][row] = k . q for R rows
template <index_t R, class T, class S> HEED_NOINLINE void score_few(const few_row_scores<T>& call) {
  constexpr index_t block = simd::width<T> / R;
  const few_row_scores<T> x = call;  // in registers: stores of scores might change `call`, as far as the compiler knows
  const std::byte* k = x.k.first;
  for (index_t key = 0; key < x.keys; key += block, k += block * x.k.row_bytes) {
    for (index_t y = key; y < std::min(key + block, x.ahead); ++y)
      prefetch_row(x.k, x.ahead_from + y), prefetch_row(x.v, x.ahead_from + y);
    simd::store(x.scores + key * R,
                dots<R, T, S>(x, k, x.keys - key, std::make_integer_sequence<int, static_cast<int>(block)>{}));
  }
}
template <index_t R, class T, class S> constexpr auto score_function_of() -> void (*)(const few_row_scores<T>&) {
  if constexpr (R <= pass_capacity<T>)
    return &score_few<R, T, S>;
  else
    return nullptr;
}

}  // namespace detail

// p with B of type S
template <class T, class S> void multiply_stored(const tile::matrix_product<T>& p, index_t vectors) {
  tile::matrix_product<T, T, S> q{p.a, p.a_row, p.a_col, reinterpret_cast<const S*>(p.b), p.b_row, p.c, p.c_row};
  q.rows = p.rows, q.depth = p.depth, q.accumulate = p.accumulate;
  tile::multiply(q, vectors);
}

// score[log2 of the rows]; multiply: tile::multiply with rows of S as B
template <class T> struct few_rows_format {
  void (*score[4])(const few_row_scores<T>&);
  void (*multiply)(const tile::matrix_product<T>&, index_t vectors);
};
template <class T, class S>
inline constexpr few_rows_format<T> few_rows_format_of{
    {detail::score_function_of<1, T, S>(), detail::score_function_of<2, T, S>(), detail::score_function_of<4, T, S>(),
     detail::score_function_of<8, T, S>()},
    &multiply_stored<T, S>};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
