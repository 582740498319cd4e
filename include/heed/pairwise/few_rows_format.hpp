// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The products of a few rows with keys and values as they are stored, for each storage type: 16-bit and 8-bit numbers
// are widened in registers. Rows of K and V may lie anywhere. While one tile is computed the rows of the next are
// prefetched, a cache line per step.

#include <algorithm>
#include <cstddef>
#include <utility>

#include "heed/simd/half.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/pack.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Rows of a tile, and those of the next one, which are prefetched meanwhile
struct tile_rows {
  const std::byte* const* row;
  index_t count;
  const std::byte* const* next = nullptr;
  index_t next_count = 0;
};

// scores[key][row] = q[row] . k[key] for R rows; zeros behind the last key up to a whole vector
template <class T> struct few_row_scores {
  tile_rows k;
  index_t dim;
  const T* q;  // [d / width][row][width], zeros behind the last
  T* scores;
  bool in_order;  // up to 2 rows: K is read one row after the other, as memory has it
};

// sums[row][column] += sum over keys of weights[key][row] * v[key][column] for R rows
template <class T> struct few_row_sums {
  tile_rows v;
  index_t columns;
  const T* weights;
  T* sums;  // whole vectors
  index_t stride;
};

// Rows of a pass over a tile, at most
template <class T> inline constexpr index_t pass_capacity = simd::width<T> < 8 ? simd::width<T> : 8;

namespace detail {

// Sums that are in registers at once, beside the vectors that they are made of
#if defined(HEED_AVX512)
inline constexpr index_t few_row_registers = 16;
#else
inline constexpr index_t few_row_registers = 8;
#endif

// Prefetches rows line by line, in address order, at the pace of the reads: a burst would find no room in the queues.
struct line_prefetcher {
  HEED_INLINE line_prefetcher(const tile_rows& x, index_t row_bytes)
      : next(x.next), end(x.next + x.next_count), bytes(row_bytes) {}

  HEED_INLINE bool idle() const { return next == end; }
  // The next few lines; those that a row does not have are none of it, and need not exist
  template <int Lines> HEED_INLINE void run() {
    if (idle()) return;
    const std::byte* const row = *next;
    for (int i = 0; i < Lines; ++i) simd::prefetch(row, at + i * 64);
    at += Lines * 64;
    if (at >= bytes) at = 0, ++next;
  }

  const std::byte *const *next, *const *end;
  index_t bytes, at = 0;
};
// Lines that so many vectors of S are, at least 1
template <class S, class T> constexpr int lines_of(int vectors) {
  const int bytes = vectors * static_cast<int>(simd::width<T>) * static_cast<int>(sizeof(S));
  return bytes < 64 ? 1 : bytes / 64;
}

// sum[y * R + r] += a vector of the products of Y keys with R rows. load(p): a vector of numbers
template <index_t R, class T, class S, class Load, int... Y>
HEED_INLINE void add_products(std::array<simd::batch<T>, std::size_t{R} * sizeof...(Y)>& sum,
                              const few_row_scores<T>& x, index_t key, index_t c, Load load,
                              std::integer_sequence<int, Y...>) {
  constexpr index_t w = simd::width<T>;
  const std::array<simd::batch<T>, sizeof...(Y)> k{simd::pinned(load(tile::row_as<S>(x.k.row[key + Y]) + c))...};
  const T* const q = x.q + c * R;
  [&]<int... X>(std::integer_sequence<int, X...>) __attribute__((always_inline)) {
    const auto with_row = [&](auto row, simd::batch<T> q_row) __attribute__((always_inline)) {
      constexpr int r = decltype(row)::value;
      ((sum[Y * R + r] = simd::fma(k[Y], q_row, sum[Y * R + r])), ...);
    };
    (with_row(std::integral_constant<int, X>{}, simd::pinned(simd::load(q + X * w))), ...);
  }
  (std::make_integer_sequence<int, static_cast<int>(R)>{});
}
template <index_t R, class T, class S, int... Y>
HEED_INLINE void dots_of_keys(simd::batch<T>* sums, const few_row_scores<T>& x, index_t key, line_prefetcher& prefetch,
                              std::integer_sequence<int, Y...> keys) {
  constexpr index_t w = simd::width<T>;
  constexpr auto all = std::make_integer_sequence<int, static_cast<int>(R * sizeof...(Y))>{};
  std::array<simd::batch<T>, std::size_t{R} * sizeof...(Y)> sum;
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    ((sum[I] = simd::batch<T>(T(0))), ...);
  }
  (all);
  index_t c = 0;
  const auto add = [&](index_t column) __attribute__((always_inline)) {
    add_products<R, T, S>(sum, x, key, column, [](const S* p) { return simd::load_as<T>(p); }, keys);
  };
  constexpr int vectors = static_cast<int>(sizeof...(Y));
  for (; R < 8 && prefetch.idle() && c + 4 * w <= x.dim; c += 4 * w) add(c), add(c + w), add(c + 2 * w), add(c + 3 * w);
  for (; R == 8 && c + 4 * w <= x.dim; c += 4 * w) {
    add(c), add(c + w), add(c + 2 * w), add(c + 3 * w);
    prefetch.template run<lines_of<S, T>(4 * vectors)>();
  }
  for (; R < 8 && c + 2 * w <= x.dim; c += 2 * w) {
    add(c);
    prefetch.template run<lines_of<S, T>(vectors)>();
    add(c + w);
    prefetch.template run<lines_of<S, T>(vectors)>();
  }
  for (; c + w <= x.dim; c += w) {
    add(c);
    prefetch.template run<lines_of<S, T>(vectors)>();
  }
  if (c < x.dim)
    add_products<R, T, S>(sum, x, key, c, [n = x.dim - c](const S* p) { return simd::load_partial_as<T>(p, n); }, keys);
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { ((sums[I] = sum[I]), ...); }
  (all);
}
template <int Y> using keys_together = std::make_integer_sequence<int, Y>;

// [key][row] of a vector of scores: groups of Y keys side by side
template <index_t R, int Y, class T, class S, int... Group>
HEED_INLINE simd::batch<T> block_scores(const few_row_scores<T>& x, index_t first, line_prefetcher& prefetch,
                                        std::integer_sequence<int, Group...>) {
  simd::square<T> sums;
  (dots_of_keys<R, T, S>(&sums[Group * Y * R], x, first + Group * Y, prefetch, keys_together<Y>{}), ...);
  return simd::sum_rows<T>(sums);
}
// The same for the first `keys` of them, one key after the other
template <index_t R, class T, class S>
HEED_NOINLINE void scores_in_order(const few_row_scores<T>& x, index_t first, index_t keys, line_prefetcher& prefetch) {
  simd::square<T> sums;
  for (index_t y = 0; y < keys; ++y)
    dots_of_keys<R, T, S>(&sums[static_cast<std::size_t>(y * R)], x, first + y, prefetch, keys_together<1>{});
  std::fill(sums.begin() + keys * R, sums.end(), simd::batch<T>(T(0)));
  simd::store(x.scores + first * R, simd::sum_rows<T>(sums));
}
template <index_t R, class T, class S> HEED_NOINLINE void score_few(const few_row_scores<T>& call) {
  constexpr index_t w = simd::width<T>, block = w / R, registers = few_row_registers < w ? few_row_registers : w;
  constexpr index_t together = registers / R < 1 ? 1 : registers / R < 4 ? registers / R : block < 4 ? block : 4;
  constexpr auto groups = std::make_integer_sequence<int, static_cast<int>(block / together)>{};
  const few_row_scores<T> x = call;  // in registers: stores of scores might change `call`, as far as the compiler knows
  line_prefetcher prefetch(x.k, x.dim * static_cast<index_t>(sizeof(S)));
  for (index_t first = 0; first < x.k.count; first += block)
    if (const index_t left = x.k.count - first; left < block || (R <= 2 && x.in_order))
      scores_in_order<R, T, S>(x, first, std::min(left, block), prefetch);
    else
      simd::store(x.scores + first * R, block_scores<R, static_cast<int>(together), T, S>(x, first, prefetch, groups));
}

// NV vectors of columns from c on; last: of the last one only so many columns exist, 0: all
template <index_t R, int NV, class T, class S, int... I>
HEED_INLINE void sum_columns(const few_row_sums<T>& x, index_t c, index_t last, line_prefetcher& prefetch,
                             std::integer_sequence<int, I...>) {
  constexpr index_t w = simd::width<T>;
  std::array<simd::batch<T>, sizeof...(I)> sum{simd::load(x.sums + I / NV * x.stride + c + I % NV * w)...};
  const T* weight = x.weights;
  HEED_UNROLL_2
  for (index_t j = 0; j < x.v.count; ++j, weight += R) {
    const S* const row = tile::row_as<S>(x.v.row[j]) + c;
    [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
      std::array<simd::batch<T>, std::size_t{NV}> v{(N == NV - 1 && last > 0
                                                         ? simd::load_partial_as<T>(row + N * w, last)
                                                         : simd::pinned(simd::load_as<T>(row + N * w)))...};
      ((sum[I] = simd::fma(simd::batch<T>(weight[I / NV]), v[I % NV], sum[I])), ...);
    }
    (std::make_integer_sequence<int, NV>{});
    prefetch.template run<lines_of<S, T>(NV)>();
  }
  (simd::store(x.sums + I / NV * x.stride + c + I % NV * w, sum[I]), ...);
}
template <index_t R, int NV, class T, class S>
HEED_NOINLINE void sum_vectors(const few_row_sums<T>& call, index_t c, index_t last, line_prefetcher& lines) {
  const few_row_sums<T> x = call;
  line_prefetcher prefetch = lines;
  constexpr auto all = std::make_integer_sequence<int, static_cast<int>(R) * NV>{};
  last > 0 ? sum_columns<R, NV, T, S>(x, c, last, prefetch, all) : sum_columns<R, NV, T, S>(x, c, 0, prefetch, all);
  lines = prefetch;
}

template <index_t R, class T, class S> void sum_few(const few_row_sums<T>& x) {
  constexpr index_t w = simd::width<T>, most = std::clamp<index_t>(few_row_registers / R, 1, 8);
  line_prefetcher prefetch(x.v, x.columns * static_cast<index_t>(sizeof(S)));
  for (index_t c = 0; c < x.columns;) {
    const index_t vectors = (x.columns - c + w - 1) / w;
    const auto run = [&](auto count) {
      constexpr int n = decltype(count)::value;
      const index_t whole = (x.columns - c) / w;
      sum_vectors<R, n, T, S>(x, c, whole >= n ? 0 : x.columns - c - (n - 1) * w, prefetch);
      c += n * w;
    };
    if (most >= 8 && vectors >= 8)
      run(std::integral_constant < int, most >= 8 ? 8 : 1 > {});
    else if (most >= 4 && vectors >= 4)
      run(std::integral_constant < int, most >= 4 ? 4 : 1 > {});
    else if (most >= 2 && vectors >= 2)
      run(std::integral_constant < int, most >= 2 ? 2 : 1 > {});
    else
      run(std::integral_constant<int, 1>{});
  }
}

template <index_t R, class T, class S> constexpr auto score_function_of() -> void (*)(const few_row_scores<T>&) {
  if constexpr (R <= pass_capacity<T>)
    return &score_few<R, T, S>;
  else
    return nullptr;
}
template <index_t R, class T, class S> constexpr auto sum_function_of() -> void (*)(const few_row_sums<T>&) {
  if constexpr (R <= pass_capacity<T>)
    return &sum_few<R, T, S>;
  else
    return nullptr;
}

}  // namespace detail

// score, sum: [log2 of the rows]
template <class T> struct few_rows_format {
  void (*score[4])(const few_row_scores<T>&);
  void (*sum[4])(const few_row_sums<T>&);
};
template <class T, class S>
inline constexpr few_rows_format<T> few_rows_format_of{
    {detail::score_function_of<1, T, S>(), detail::score_function_of<2, T, S>(), detail::score_function_of<4, T, S>(),
     detail::score_function_of<8, T, S>()},
    {detail::sum_function_of<1, T, S>(), detail::sum_function_of<2, T, S>(), detail::sum_function_of<4, T, S>(),
     detail::sum_function_of<8, T, S>()}};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
