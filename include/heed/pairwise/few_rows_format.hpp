// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What a few rows do with keys and values as they are stored, for each storage type. Rows of K and V may lie anywhere,
// but for a stream's.

#include "heed/pairwise/few_rows_products.hpp"
#include "heed/pairwise/few_rows_stream.hpp"

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
};

// sums[row][column] += sum over keys of weights[key][row] * v[key][column] for R rows
template <class T> struct few_row_sums {
  tile_rows v;
  index_t columns;
  const T* weights;
  T* sums;  // whole vectors
  index_t stride;
};

// Where a stream finds its keys. scattered: in memory, in pages that lie anywhere
enum where_keys_are { in_cache, in_memory, scattered };

// Of R rows, 1, 2, 4 or 8
template <class T> struct few_rows_functions {
  void (*score)(const few_row_scores<T>&);
  void (*sum)(const few_row_sums<T>&);
  void (*stream[3])(const few_row_stream<T>&);  // [where_keys_are]
};

namespace detail {

// Prefetches rows line by line, in address order, at the pace of the reads: a burst would find no room in the queues.
struct line_prefetcher {
  HEED_INLINE line_prefetcher(const tile_rows& x, index_t row_bytes)
      : next(x.next), end(x.next + x.next_count), bytes(row_bytes) {}

  HEED_INLINE bool idle() const { return next == end; }
  template <int Step, int Lines> HEED_INLINE void step(index_t) {
    if constexpr (Lines % 4 == 0)
      run<Lines / 4>();
    else if constexpr (Step == 3)
      run<Lines>();
  }
  HEED_INLINE void end_row() const {}
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

template <index_t R, int Y, class T, class S, class Prefetch>
HEED_NOINLINE void score_few(const few_row_scores<T>& call, Prefetch prefetch) {
  constexpr index_t block = simd::width<T> / R;
  const few_row_scores<T> x = call;  // in registers: stores of scores might change `call`, as far as the compiler knows
  index_t key = 0;
  const auto row = [&](index_t y) __attribute__((always_inline)) { return tile::row_as<S>(x.k.row[key + y]); };
  for (; key + block <= x.k.count; key += block)
    simd::store(x.scores + key * R, vector_of_scores<R, Y, T, S>(x.q, x.dim, row, prefetch));
  if (key == x.k.count) return;
  simd::square<T> sums;
  const index_t first = key;
  for (; key < x.k.count; ++key)
    dot_products<R, T, S>(&sums[static_cast<std::size_t>((key - first) * R)], x.q, x.dim,
                          std::array<const S*, 1>{row(0)}, prefetch, numbers_to<1>);
  std::fill(sums.begin() + (key - first) * R, sums.end(), simd::batch<T>(T(0)));
  simd::store(x.scores + first * R, simd::sum_rows<T>(sums));
}
template <index_t R, class T, class S> void score_few(const few_row_scores<T>& x) {
  constexpr int together = keys_together<R, T>();
  const line_prefetcher prefetch(x.k, x.dim * static_cast<index_t>(sizeof(S)));
  prefetch.idle() ? score_few<R, together, T, S>(x, no_prefetcher{}) : score_few<R, together, T, S>(x, prefetch);
}

template <index_t R, int NV, class T, class S>
HEED_NOINLINE void sum_vectors(const few_row_sums<T>& call, index_t c, index_t last, line_prefetcher& lines) {
  const few_row_sums<T> x = call;
  line_prefetcher prefetch = lines;
  const auto row = [&](index_t j) __attribute__((always_inline)) { return tile::row_as<S>(x.v.row[j]) + c; };
  const column_sums<T> out{x.v.count, x.weights, x.sums + c, x.stride};
  last > 0 ? add_columns<R, NV, T, S>(out, last, row, prefetch, numbers_to<R * NV>)
           : add_columns<R, NV, T, S>(out, 0, row, prefetch, numbers_to<R * NV>);
  lines = prefetch;
}
template <index_t R, class T, class S> void sum_few(const few_row_sums<T>& x) {
  line_prefetcher prefetch(x.v, x.columns * static_cast<index_t>(sizeof(S)));
  const auto block = [&](auto vectors, index_t c, index_t last) {
    sum_vectors<R, decltype(vectors)::value, T, S>(x, c, last, prefetch);
  };
  constexpr bool thirds = R == 8 && few_row_registers == 16;  // the prefetches of 3 lines would be out of step
  prefetch.idle() ? each_column_block<R, T, thirds>(x.columns, block) : each_column_block<R, T>(x.columns, block);
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

template <index_t R, class T, class S> constexpr few_rows_functions<T> functions_of() {
  few_rows_functions<T> x{score_function_of<R, T, S>(), sum_function_of<R, T, S>(), {}};
  if constexpr (R <= few_row_stream<T>::most_rows)
    x.stream[in_cache] = &stream_few<R, false, T, S>, x.stream[in_memory] = &stream_few<R, true, T, S>,
    x.stream[scattered] = stream_of_pages<R, T, S>();
  return x;
}

}  // namespace detail

// [log2 of the rows]
template <class T> using few_rows_format = std::array<few_rows_functions<T>, 4>;
template <class T, class S>
inline constexpr few_rows_format<T> few_rows_format_of{detail::functions_of<1, T, S>(), detail::functions_of<2, T, S>(),
                                                       detail::functions_of<4, T, S>(),
                                                       detail::functions_of<8, T, S>()};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
