// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The products of 8 rows with keys and values of bf16 by dot products, for calls whose cache is of bf16 and where 5 or
// more rows share a key/value head: queries and weights are rounded to bf16, sums are floats. Nothing is packed: rows
// of K are pairs of columns already, two rows of V are joined column by column in registers.

#include "heed/pairwise/few_rows_format.hpp"
#include "heed/simd/dot.hpp"
#include "heed/simd/half.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> struct few_rows_dots {
  static constexpr index_t rows = 8, columns = 32;  // of a step

  void (*round_row)(T* q, index_t dim);
  void (*pack)(const T* q, index_t dim, index_t row, T* out);  // out: [dim / 32][row][32] in bf16
  // As few_rows_format's, but q is packed so, and scores are to be multiplied with `factor`
  void (*score)(const few_row_scores<T>& x, T factor);
  // Rounds weights [key][row], and joins those of two keys, [pair][row]; zeros behind the last key. Returns their sums.
  simd::batch<T> (*round)(const T* weights, index_t keys, T* pairs);
  void (*sum)(const few_row_sums<T>& x);  // x.weights: pairs
};

#if defined(HEED_AVX512) && defined(__GNUC__)
namespace detail {

inline constexpr index_t dot_rows = few_rows_dots<float>::rows, dot_columns = few_rows_dots<float>::columns;

inline void round_query(float* q, index_t dim) {
  constexpr index_t w = simd::width<float>;
  std::array<bf16_t, std::size_t{w}> rounded;
  for (index_t c = 0; c < dim; c += w) {
    simd::store_as<bf16_t>(rounded.data(), simd::load(q + c));
    simd::store(q + c, simd::load_as<float>(rounded.data()));
  }
}

inline void pack_dots(const float* q, index_t dim, index_t row, float* out) {
  for (index_t c = 0; c < dim; c += dot_columns) {
    auto* const to = reinterpret_cast<bf16_t*>(out + (c / 2) * dot_rows + row * (dot_columns / 2));
    for (index_t i = 0; i < dot_columns; i += simd::width<float>) simd::store_as<bf16_t>(to + i, simd::load(q + c + i));
  }
}

// Scores of two keys
template <int... X>
HEED_INLINE simd::batch<float> score_two(const few_row_scores<float>& x, index_t key, index_t second,
                                         line_prefetcher& prefetch, std::integer_sequence<int, X...>) {
  const bf16_t *const a = tile::row_as<bf16_t>(x.k.row[key]), *const b = tile::row_as<bf16_t>(x.k.row[second]);
  simd::square<float> sums;
  std::array<simd::batch<float>, sizeof...(X)> even{(static_cast<void>(X), simd::batch<float>(0.0f))...}, odd = even;
  for (index_t c = 0; c < x.dim; c += dot_columns) {
    const simd::batch<float> k0 = simd::pinned(simd::load_pairs(a + c)), k1 = simd::pinned(simd::load_pairs(b + c));
    const float* const q = x.q + c / 2 * dot_rows;
    ((even[X] = simd::dot_pairs(k0, simd::load(q + X * 16), even[X]),
      odd[X] = simd::dot_pairs(k1, simd::load(q + X * 16), odd[X])),
     ...);
    prefetch.run<2>();
  }
  ((sums[X] = even[X]), ...);
  ((sums[dot_rows + X] = odd[X]), ...);
  return simd::sum_rows<float>(sums);
}
[[gnu::target("avx512bf16")]] HEED_NOINLINE inline void score_dots(const few_row_scores<float>& call, float factor) {
  const few_row_scores<float> x = call;
  line_prefetcher prefetch(x.k, x.dim * 2);
  for (index_t key = 0; key < x.k.count; key += 2) {
    const index_t second = std::min(key + 1, x.k.count - 1);
    const simd::batch<float> s =
        score_two(x, key, second, prefetch, std::make_integer_sequence<int, static_cast<int>(dot_rows)>{});
    simd::store(x.scores + key * dot_rows, s * simd::batch<float>(factor));
  }
}

inline simd::batch<float> round_weights(const float* weights, index_t keys, float* pairs) {
  simd::batch<float> sum(0.0f);
  for (index_t key = 0; key < keys; key += 2, pairs += dot_rows) {
    const simd::batch<float> p = simd::load(weights + key * dot_rows);
    const simd::batch<float> rounded = simd::cut_to_bf16(simd::round_up_bf16(p));
    const simd::batch<float> x = simd::select<float>(p == p, rounded, simd::batch<float>(NAN));
    sum += x;
    simd::store_half_pairs(pairs, x);
  }
  return sum;
}

// 32 columns from c on
template <int... X>
HEED_INLINE void sum_pairs(const few_row_sums<float>& x, index_t c, line_prefetcher& prefetch,
                           std::integer_sequence<int, X...>) {
  std::array<simd::batch<float>, sizeof...(X)> low, high;
  const auto split = [&](int row) __attribute__((always_inline)) {
    return simd::split_columns(x.sums + row * x.stride + c);
  };
  ((low[X] = split(X).low, high[X] = split(X).high), ...);
  const float* pair = x.weights;
  for (index_t j = 0; j < x.v.count; j += 2, pair += dot_rows) {
    const bf16_t* const row = tile::row_as<bf16_t>(x.v.row[j]) + c;
    const simd::column_pairs v =
        j + 1 < x.v.count ? simd::pair_columns(row, tile::row_as<bf16_t>(x.v.row[j + 1]) + c) : simd::pair_columns(row);
    const simd::batch<float> v0 = simd::pinned(v.low), v1 = simd::pinned(v.high);
    ((low[X] = simd::dot_pairs(v0, simd::batch<float>(pair[X]), low[X]),
      high[X] = simd::dot_pairs(v1, simd::batch<float>(pair[X]), high[X])),
     ...);
    prefetch.run<2>();
  }
  (simd::join_columns(x.sums + X * x.stride + c, {low[X], high[X]}), ...);
}
[[gnu::target("avx512bf16")]] HEED_NOINLINE inline void sum_dots(const few_row_sums<float>& call) {
  const few_row_sums<float> x = call;
  line_prefetcher prefetch(x.v, x.columns * 2);
  for (index_t c = 0; c < x.columns; c += dot_columns)
    sum_pairs(x, c, prefetch, std::make_integer_sequence<int, static_cast<int>(dot_rows)>{});
}

}  // namespace detail

inline constexpr few_rows_dots<float> bf16_rows_dots{&detail::round_query, &detail::pack_dots, &detail::score_dots,
                                                     &detail::round_weights, &detail::sum_dots};
#endif

// Those of a storage type, or null
template <class T, class S> constexpr const few_rows_dots<T>* few_rows_dots_of() {
#if defined(HEED_AVX512) && defined(__GNUC__)
  if constexpr (std::is_same_v<S, bf16_t>) return &bf16_rows_dots;
#endif
  return nullptr;
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
