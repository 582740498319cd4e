// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The inner loops of products of a few rows with keys and values as they are stored; 16-bit and 8-bit numbers are
// widened in registers. While some rows are read others are prefetched, a cache line per step.

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "heed/simd/half.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/pack.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Rows of a pass over a tile, at most
template <class T> inline constexpr index_t pass_capacity = simd::width<T> < 8 ? simd::width<T> : 8;

namespace detail {

// Sums that are in registers at once, beside the vectors that they are made of
#if defined(HEED_AVX512) || defined(HEED_NEON)
inline constexpr index_t few_row_registers = 16;
#else
inline constexpr index_t few_row_registers = 8;
#endif

// Lines that so many vectors of S are, at least 1
template <class S, class T> constexpr int lines_of(int vectors) {
  const int bytes = vectors * static_cast<int>(simd::width<T>) * static_cast<int>(sizeof(S));
  return bytes < 64 ? 1 : bytes / 64;
}
template <index_t N> inline constexpr auto numbers_to = std::make_integer_sequence<int, static_cast<int>(N)>{};

// A vector that several instructions use is loaded once.
template <bool Several, class T> HEED_INLINE simd::batch<T> pinned_if(simd::batch<T> x) {
  if constexpr (Several)
    return simd::pinned(x);
  else
    return x;
}

// What is prefetched while rows are read. step<i, lines>(offset): after vector i of 4 of K; `lines` are due in all 4,
// which begin `offset` bytes behind the start of their row. run<lines>(): so many lines are due.
struct no_prefetcher {
  template <int Step, int Lines> HEED_INLINE void step(index_t) const {}
  template <int Lines> HEED_INLINE void run() const {}
  HEED_INLINE void end_row() const {}
};
// Rows at equal distances: beside `Rows` rows of K as many of them, beside columns of V line by line in the order of
// memory
template <int Rows> struct rows_ahead {
  const std::byte* first;
  index_t stride, bytes, row = 0, at = 0;  // row, at: offsets of the row, and in it; what is there need not exist

  template <int Step, int Lines> HEED_INLINE void step(index_t offset) const {
    if constexpr (Step < Lines / Rows)
      for (int r = 0; r < Rows; ++r) simd::prefetch(first, row + r * stride + offset + Step * 64);
  }
  template <int Lines> HEED_INLINE void run() {
    [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
      (simd::prefetch(first, row + at + N * 64), ...);
    }
    (numbers_to<Lines>);
    at += Lines * 64;
    if (at >= bytes) at = 0, row += stride;
  }
  HEED_INLINE void end_row() { row += Rows * stride; }
};

// sum[y * R + r] += a vector of the products of Y keys with R rows. q: [row][width]; load(y): a vector of key y
template <index_t R, class T, class Load, int... Y>
HEED_INLINE void add_products(std::array<simd::batch<T>, std::size_t{R} * sizeof...(Y)>& sum, const T* q, Load load,
                              std::integer_sequence<int, Y...>) {
  const std::array<simd::batch<T>, sizeof...(Y)> k{pinned_if<(R > 1)>(load(Y))...};
  [&]<int... X>(std::integer_sequence<int, X...>) __attribute__((always_inline)) {
    const auto with_row = [&](auto row, simd::batch<T> q_row) __attribute__((always_inline)) {
      constexpr int r = decltype(row)::value;
      ((sum[Y * R + r] = simd::fma(k[Y], q_row, sum[Y * R + r])), ...);
    };
    (with_row(std::integral_constant<int, X>{}, pinned_if<(sizeof...(Y) > 1)>(simd::load<T>(q + X * simd::width<T>))),
     ...);
  }
  (numbers_to<R>);
}

// sums[y * R + r] = vectors that add up to the dot product of row[y], of Y rows side by side, with row r of q, which is
// [dim / width][row][width]
template <index_t R, class T, class S, class Prefetch, int... Y>
HEED_INLINE void dot_products(simd::batch<T>* sums, const T* q, index_t dim,
                              const std::array<const S*, sizeof...(Y)>& row, Prefetch& prefetch,
                              std::integer_sequence<int, Y...> keys) {
  constexpr index_t w = simd::width<T>, all = R * sizeof...(Y);
  std::array<simd::batch<T>, std::size_t{all}> sum;
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    ((sum[I] = simd::batch<T>(T(0))), ...);
  }
  (numbers_to<all>);
  const auto add = [&](index_t c) __attribute__((always_inline)) {
    add_products<R, T>(
        sum, q + c * R, [&](int y) { return simd::load_as<T>(row[static_cast<std::size_t>(y)] + c); }, keys);
  };
  const index_t fours = dim & -(4 * w);
  for (index_t c = 0; c != fours; c += 4 * w)
    [&]<int... Step>(std::integer_sequence<int, Step...>) __attribute__((always_inline)) {
      constexpr int lines = lines_of<S, T>(4 * static_cast<int>(sizeof...(Y)));
      ((add(c + Step * w), prefetch.template step<Step, lines>(c * static_cast<index_t>(sizeof(S)))), ...);
    }
  (numbers_to<4>);
  prefetch.end_row();
  if (fours != dim) {
    index_t c = fours;
    for (; c + w <= dim; c += w) add(c);
    if (c < dim)
      add_products<R, T>(
          sum, q + c * R,
          [&](int y) { return simd::load_partial_as<T>(row[static_cast<std::size_t>(y)] + c, dim - c); }, keys);
  }
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { ((sums[I] = sum[I]), ...); }
  (numbers_to<all>);
}

// A vector of scores [key][row]: row(0), row(1) ... are its keys, Y of them side by side
template <index_t R, int Y, class T, class S, class Row, class Prefetch>
HEED_INLINE simd::batch<T> vector_of_scores(const T* q, index_t dim, Row row, Prefetch& prefetch) {
  simd::square<T> sums;
  const auto add = [&](index_t y) __attribute__((always_inline)) {
    const auto rows = [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
      return std::array<const S*, std::size_t{Y}>{row(y + N)...};
    }
    (numbers_to<Y>);
    dot_products<R, T, S>(&sums[static_cast<std::size_t>(y * R)], q, dim, rows, prefetch, numbers_to<Y>);
  };
  constexpr index_t block = simd::width<T> / R;
  if constexpr (Y == 1) {
    for (index_t y = 0; y < block; ++y) add(y);
  } else {
    [&]<int... Group>(std::integer_sequence<int, Group...>) __attribute__((always_inline)) { (add(Group * Y), ...); }
    (numbers_to<block / Y>);
  }
  return simd::sum_rows<T>(sums);
}
// Keys side by side in cache, where they share the loads of q
template <index_t R, class T> constexpr int keys_together() {
  constexpr index_t w = simd::width<T>, block = w / R, registers = few_row_registers < w ? few_row_registers : w;
  return static_cast<int>(registers / R < 1 ? 1 : registers / R < 4 ? registers / R : block < 4 ? block : 4);
}

// Keys whose weighted values are summed in registers before they join the sums of other keys
inline constexpr index_t summed_keys = 32;

// sums[row][column] += weights[key][row] * row(key)[column] over some keys, for R rows and NV vectors of columns. What
// is there joins the sum of each summed_keys keys, as in tile/multiply.hpp. last: of the last vector only so
// many columns exist, 0: all
template <class T> struct column_sums {
  index_t keys;
  const T* weights;
  T* sums;
  index_t stride;
};
template <index_t R, int NV, class T, class S, class Row, class Prefetch, int... I>
HEED_INLINE void add_columns(const column_sums<T>& x, index_t last, Row row_of, Prefetch& prefetch,
                             std::integer_sequence<int, I...>) {
  constexpr index_t w = simd::width<T>;
  const auto at = [&](int i) __attribute__((always_inline)) { return x.sums + i / NV * x.stride + i % NV * w; };
  const T* weight = x.weights;
  for (index_t j = 0; j < x.keys;) {
    const index_t end = x.keys - j < summed_keys ? x.keys : j + summed_keys;
    std::array<simd::batch<T>, sizeof...(I)> sum{(static_cast<void>(I), simd::batch<T>(T(0)))...};
    HEED_UNROLL_2
    for (; j < end; ++j, weight += R) {
      const S* const row = row_of(j);
      [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
        std::array<simd::batch<T>, std::size_t{NV}> v{(N == NV - 1 && last > 0
                                                           ? simd::load_partial_as<T>(row + N * w, last)
                                                           : pinned_if<(R > 1)>(simd::load_as<T>(row + N * w)))...};
        ((sum[I] = simd::fma(simd::batch<T>(weight[I / NV]), v[I % NV], sum[I])), ...);
      }
      (std::make_integer_sequence<int, NV>{});
      prefetch.template run<lines_of<S, T>(NV)>();
    }
    (simd::store(at(I), simd::load(at(I)) + sum[I]), ...);
  }
}

// f(std::integral_constant<int, vectors>, first column, columns of the last vector or 0) for blocks of columns that fit
// in registers. Thirds: 3 vectors at a time are better than 2
template <index_t R, class T, bool Thirds = false, class F> HEED_INLINE void each_column_block(index_t columns, F f) {
  constexpr index_t w = simd::width<T>, most = std::clamp<index_t>(few_row_registers / R, 1, 8);
  index_t c = 0;
  while (c < columns) {
    const index_t vectors = (columns - c + w - 1) / w, whole = (columns - c) / w;
    const auto run = [&](auto count) __attribute__((always_inline)) {
      constexpr int n = decltype(count)::value;
      f(count, c, whole >= n ? 0 : columns - c - (n - 1) * w);
      c += n * w;
    };
    if (most >= 8 && vectors >= 8)
      run(std::integral_constant < int, most >= 8 ? 8 : 1 > {});
    else if (most >= 4 && vectors >= 4)
      run(std::integral_constant < int, most >= 4 ? 4 : 1 > {});
    else if (Thirds && vectors >= 3 && vectors != 4)
      run(std::integral_constant < int, Thirds ? 3 : 1 > {});
    else if (most >= 2 && vectors >= 2)
      run(std::integral_constant < int, most >= 2 ? 2 : 1 > {});
    else
      run(std::integral_constant<int, 1>{});
  }
}

}  // namespace detail
}  // namespace HEED_ISA
}  // namespace heed::pairwise
