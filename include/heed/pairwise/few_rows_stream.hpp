// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Attention of up to 4 rows over runs of keys: scores, weights and sums of 16 keys at a time in one loop. The same
// steps split into calls read K and V from memory at two thirds of the rate: their next reads wait for the softmax.

#include "heed/pairwise/few_rows_products.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Keys in tiles, and the states of the rows over the keys before them
template <class T> struct few_row_stream {
  static constexpr index_t tile_keys = 16, most_rows = pass_capacity<T> < 4 ? pass_capacity<T> : 4;
  // Keys whose scores, weights and sums follow each other. bench/decode_bench.cpp
  static constexpr index_t part_keys(index_t rows) { return rows == 2 ? 8 : tile_keys; }

  const std::byte *const *k, *const *v;  // the first rows of each tile, and of what is read next: tiles + 1
  index_t tiles, k_row, v_row;           // k_row, v_row: bytes from row to row
  index_t dim, columns;
  const T* q;  // [dim / width][row][width], zeros behind the last
  T* scores;   // of a tile
  tile::lane_states<T> state;
  T* sums;  // [row][column], whole vectors
  index_t stride;
  const float *const *k_scale, *const *v_scale;  // of std::int8_t: the first of each tile
  index_t k_scale_row, v_scale_row;
  // Changes the scores [key][row] of some keys from `key` on, counted from the first of the stream; or null
  void (*finish_scores)(void* self, index_t key, index_t keys);
  void* self;
};

namespace detail {

// Multiplies each row of sums, `stride` apart, with its factor; columns: up to whole vectors.
template <index_t R, class T>
HEED_NOINLINE void rescale_rows(T* sums, index_t stride, index_t columns, const simd::batch<T>& factor) {
  tile::lane_array<T, simd::width<T>> each;
  simd::store(each.data(), factor);
  for (index_t r = 0; r < R; ++r, sums += stride)
    for (index_t c = 0; c < columns && !heed::detail::equals(each[r], T(1)); c += simd::width<T>)
      simd::store(sums + c, simd::load(sums + c) * simd::batch<T>(each[r]));
}

// Multiplies scores or weights [key][row] with one number per key, scale(key); what is behind them, up to a whole
// vector, stays. At most 128 keys
template <index_t R, class T, class Scale> HEED_INLINE void scale_keys(T* x, index_t keys, Scale scale) {
  constexpr index_t w = simd::width<T>;
  tile::lane_array<T, 128 * R + w> each;
  for (index_t j = 0; j < keys; ++j)
    for (index_t r = 0; r < R; ++r) each[j * R + r] = static_cast<T>(scale(j));
  for (index_t i = keys * R; i % w != 0; ++i) each[i] = T(1);
  for (index_t i = 0; i < keys * R; i += w) simd::store(x + i, simd::load(x + i) * simd::load(&each[i]));
}
template <index_t R, index_t keys, class T> HEED_INLINE void scale_part(T* x, const float* scale, index_t row) {
  constexpr index_t w = simd::width<T>;
  if (R > 1 || row != 1) return scale_keys<R>(x, keys, [=](index_t j) { return scale[j * row]; });
  for (index_t i = 0; i < keys; i += w) simd::store(x + i, simd::load(x + i) * simd::load_as<T>(scale + i));
}

// sums += weights times the rows of V, row(j) of key j
template <index_t R, index_t keys, class S, class T, class Prefetch, class Row>
HEED_INLINE void add_values(const few_row_stream<T>& x, Prefetch& prefetch, Row row) {
  each_column_block<R, T>(
      x.columns, [&](auto vectors, index_t c, index_t last) __attribute__((always_inline)) {
        const auto part = [&](index_t j) __attribute__((always_inline)) { return tile::row_as<S>(row(j)) + c; };
        constexpr int n = decltype(vectors)::value;
        const column_sums<T> out{keys, x.scores, x.sums + c, x.stride};
        last > 0 ? add_columns<R, n, T, S>(out, last, part, prefetch, numbers_to<R * n>)
                 : add_columns<R, n, T, S>(out, 0, part, prefetch, numbers_to<R * n>);
      });
}

// K and V of a part, and of what comes next
struct part_rows {
  const std::byte *k, *v, *next_k, *next_v;
};

template <index_t R, bool Ahead, class T, class S>
HEED_INLINE void stream_part(const few_row_stream<T>& x, index_t key, const part_rows& rows) {
  constexpr index_t w = simd::width<T>, keys = few_row_stream<T>::part_keys(R), block = w / R;
  // From memory row by row, but for 4 rows of few bits, which compute longer than they read
  constexpr int together = !Ahead ? keys_together<R, T>() : R == 4 && block > 1 && sizeof(S) < sizeof(float) ? 2 : 1;
  // Up to 2 rows read some of K and of V in turn, as if they were one run of memory. More rows compute longer: K and V
  // have their next part prefetched each.
  constexpr bool in_turn = R <= 2;
  const auto prefetcher = [](const std::byte* row, index_t stride, index_t numbers) __attribute__((always_inline)) {
    if constexpr (Ahead)
      return rows_ahead<together>{row, stride, numbers * static_cast<index_t>(sizeof(S))};
    else
      return no_prefetcher{};
  };
  auto ahead = in_turn ? prefetcher(rows.v, x.v_row, x.columns) : prefetcher(rows.next_k, x.k_row, x.dim);
  for (index_t first = 0; first < keys; first += block) {
    const auto row = [&](index_t y) __attribute__((always_inline)) {
      return tile::row_as<S>(rows.k + (first + y) * x.k_row);
    };
    simd::store(x.scores + first * R, vector_of_scores<R, together, T, S>(x.q, x.dim, row, ahead));
  }
  const index_t tile = key / few_row_stream<T>::tile_keys, in_tile = key % few_row_stream<T>::tile_keys;
  if constexpr (sizeof(S) == 1) scale_part<R, keys>(x.scores, x.k_scale[tile] + in_tile * x.k_scale_row, x.k_scale_row);
  if (x.finish_scores != nullptr) x.finish_scores(x.self, key, keys);
  const simd::batch<T> factor = x.state.template update_rows<R>(x.scores, keys * R / w, 0);
  if (simd::any_below(factor, simd::batch<T>(T(1)))) rescale_rows<R>(x.sums, x.stride, x.columns, factor);
  if constexpr (sizeof(S) == 1) scale_part<R, keys>(x.scores, x.v_scale[tile] + in_tile * x.v_scale_row, x.v_scale_row);
  auto next = in_turn ? prefetcher(rows.next_k, x.k_row, x.dim) : prefetcher(rows.next_v, x.v_row, x.columns);
  add_values<R, keys, S>(x, next, [&](index_t j) __attribute__((always_inline)) { return rows.v + j * x.v_row; });
}

template <index_t R, bool Ahead, class T, class S> HEED_NOINLINE void stream_few(const few_row_stream<T>& call) {
  constexpr index_t keys = few_row_stream<T>::tile_keys, part = few_row_stream<T>::part_keys(R);
  const few_row_stream<T> x = call;  // in registers: stores might change `call`, as far as the compiler knows
  for (index_t t = 0; t < x.tiles; ++t)
    for (index_t j = 0; j < keys; j += part) {
      const std::byte *const k = x.k[t] + j * x.k_row, *const v = x.v[t] + j * x.v_row;
      const bool last = j + part == keys;
      stream_part<R, Ahead, T, S>(
          x, t * keys + j, {k, v, last ? x.k[t + 1] : k + part * x.k_row, last ? x.v[t + 1] : v + part * x.v_row});
    }
}

// Pages that are read side by side
inline constexpr index_t pages_together = 8;

// Beside rows of K one of each page, the rows half a page further on; those of V behind the last
struct pages_prefetcher {
  tile::lane_array<const std::byte*, pages_together> row;
  index_t count = 0;

  template <int Step, int Lines> HEED_INLINE void step(index_t offset) const {
    if constexpr (Step < (Lines > pages_together ? Lines / pages_together : 1))
      for (index_t p = 0; p < count; ++p) simd::prefetch(row[p], offset + Step * 64);
  }
  HEED_INLINE void end_row() const {}
};
// The same beside rows of V, one page after the other; those of K of the next pages behind the last
template <class T> struct page_values_prefetcher {
  const few_row_stream<T>& x;
  index_t first, row = 0, page = 0, column = 0;  // column: in bytes

  template <int Lines> HEED_INLINE void run() {
    constexpr index_t rows = few_row_stream<T>::tile_keys, half = rows / 2;
    const index_t next = std::min(first + pages_together + page, x.tiles);
    const bool of_v = row < half;
    const std::byte* const at = of_v ? x.v[first + page] : x.k[next];
    const index_t offset = column + (of_v ? (row + half) * x.v_row : (row - half) * x.k_row);
    [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
      (simd::prefetch(at, offset + N * 64), ...);
    }
    (numbers_to<Lines>);
    if (++page < pages_together) return;
    page = 0;
    if (++row == rows) row = 0, column += Lines * 64;  // the next block of columns
  }
};

// Tiles [first, first + 8), in pages that lie anywhere: a row of each in turn. Memory is faster where it is read in
// several places at once, if none of them is long enough for the processor to run ahead.
template <index_t R, class T, class S> HEED_NOINLINE void stream_pages(const few_row_stream<T>& call, index_t first) {
  constexpr index_t w = simd::width<T>, rows = few_row_stream<T>::tile_keys, pages = pages_together;
  constexpr index_t keys = rows * pages, block = w / R, half = rows / 2;
  constexpr int together = static_cast<int>(std::min({block, pages, 16 / R}));
  const few_row_stream<T> x = call;
  for (index_t j = 0; j < keys; j += block) {  // key j: row j / pages of page j % pages
    simd::square<T> sums;
    for (index_t y = 0; y < block; y += together) {
      const index_t row = (j + y) / pages, page = first + (j + y) % pages;
      std::array<const S*, std::size_t{together}> k;
      pages_prefetcher ahead;
      ahead.count = together;
      for (index_t p = 0; p < together; ++p) {
        k[static_cast<std::size_t>(p)] = tile::row_as<S>(x.k[page + p] + row * x.k_row);
        ahead.row[p] = row < half ? x.k[page + p] + (row + half) * x.k_row : x.v[page + p] + (row - half) * x.v_row;
      }
      dot_products<R, T, S>(&sums[static_cast<std::size_t>(y * R)], x.q, x.dim, k, ahead, numbers_to<together>);
    }
    simd::store(x.scores + j * R, simd::sum_rows<T>(sums));
  }
  const auto scales = [&](const float* const* scale, index_t row) __attribute__((always_inline)) {
    if constexpr (sizeof(S) == 1)
      scale_keys<R>(x.scores, keys, [&](index_t j) { return scale[first + j % pages][j / pages * row]; });
  };
  scales(x.k_scale, x.k_scale_row);
  const simd::batch<T> factor = x.state.template update_rows<R>(x.scores, keys * R / w, 0);
  if (simd::any_below(factor, simd::batch<T>(T(1)))) rescale_rows<R>(x.sums, x.stride, x.columns, factor);
  scales(x.v_scale, x.v_scale_row);
  page_values_prefetcher<T> ahead{x, first};
  add_values<R, keys, S>(
      x, ahead, [&](index_t j) __attribute__((always_inline)) { return x.v[first + j % pages] + j / pages * x.v_row; });
}
template <index_t R, class T, class S> void stream_scattered(const few_row_stream<T>& x) {
  index_t t = 0;
  for (; t + pages_together <= x.tiles; t += pages_together) stream_pages<R, T, S>(x, t);
  if (t == x.tiles) return;
  few_row_stream<T> rest = x;
  rest.k += t, rest.v += t, rest.k_scale += t, rest.v_scale += t, rest.tiles -= t;
  stream_few<R, true, T, S>(rest);
}
// 4 rows compute as long as it takes to read a page.
template <index_t R, class T, class S> constexpr auto stream_of_pages() -> void (*)(const few_row_stream<T>&) {
  if constexpr (R <= 2)
    return &stream_scattered<R, T, S>;
  else
    return &stream_few<R, true, T, S>;
}

}  // namespace detail
}  // namespace HEED_ISA
}  // namespace heed::pairwise
