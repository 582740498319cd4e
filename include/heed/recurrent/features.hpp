// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Feature maps over rows and over lanes. All but softmax and taylor work element by element, where the two are the
// same; taylor features are made where they are used (tile/chunk_features.hpp).
//
// phi of the queries and keys of one chunk, in blocks of features. All maps but taylor are applied where rows come in,
// and have one block. taylor: pairs are weighted by 1 + s + s^2 / 2, while the state has 1 + D + D^2 features: 1, x_a,
// and x_a x_b / sqrt 2, made for some a at a time and for all b.

#include <algorithm>
#include <limits>

#include "heed/core/context.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/simd/math.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

namespace detail {

// x = f(x) over count values in a row
template <class T, class F> HEED_INLINE void map_values(T* x, index_t count, F f) {
  constexpr index_t w = simd::width<T>;
  index_t i = 0;
  for (; i + w <= count; i += w) simd::store(x + i, f(simd::load(x + i)));
  if (i < count) simd::store_partial(x + i, f(simd::load_partial(x + i, count - i)), count - i);
}

// e^x / sum of e^x, down the columns of one vector of lanes
template <class T> HEED_NOINLINE void softmax_lanes(T* x, index_t count, index_t step) {
  using batch = simd::batch<T>;
  batch top(-std::numeric_limits<T>::infinity()), sum(T(0));
  for (index_t i = 0; i < count; ++i) top = simd::max(top, simd::load(x + i * step));
  for (index_t i = 0; i < count; ++i) {
    const batch e = simd::exp(simd::load(x + i * step) - top);
    simd::store(x + i * step, e);
    sum += e;
  }
  const batch gain = batch(T(1)) / sum;
  for (index_t i = 0; i < count; ++i) simd::store(x + i * step, simd::load(x + i * step) * gain);
}

template <class T> HEED_NOINLINE void softmax_row(T* x, index_t count) {
  T top = -std::numeric_limits<T>::infinity();
  for (index_t i = 0; i < count; ++i) top = top < x[i] ? x[i] : top;
  const simd::batch<T> most(top);
  map_values(x, count, [most](simd::batch<T> a) { return simd::exp(a - most); });
  T sum = 0;
  for (index_t i = 0; i < count; ++i) sum += x[i];
  const simd::batch<T> gain(T(1) / sum);
  map_values(x, count, [gain](simd::batch<T> a) { return a * gain; });
}

// Element by element, count values in a row
template <class T> HEED_NOINLINE void map_elements(const heed::detail::feature_parts<T>& map, T* x, index_t count) {
  using batch = simd::batch<T>;
  if (map.map_value != nullptr) return map.map_value(map.value.bytes, x, count);
  const batch zero(T(0)), one(T(1));
  switch (map.built_in) {
    case feature::elu_plus_one:
      return map_values(x, count,
                        [=](batch a) { return simd::select<T>(a > zero, a + one, simd::exp(simd::min(zero, a))); });
    case feature::relu:
      return map_values(x, count, [=](batch a) { return simd::max(zero, a); });
    case feature::relu_squared:
      return map_values(x, count, [=](batch a) {
        const batch b = simd::max(zero, a);
        return b * b;
      });
    case feature::silu:  // e^-a is +inf far below 0, where a / inf = -0; -inf itself would be NaN
      return map_values(x, count, [=](batch a) {
        const batch b = simd::max(batch(std::numeric_limits<T>::lowest()), a);
        return b / (one + simd::exp(zero - b));
      });
    case feature::exp:
      return map_values(x, count, [](batch a) { return simd::exp(a); });
    case feature::identity:
    case feature::softmax:
    case feature::taylor:
      return;
  }
}

}  // namespace detail

// x *= factor, count values in a row
template <class T> void scale_values(T* x, index_t count, T factor) {
  if (heed::detail::equals(factor, T(1))) return;
  const simd::batch<T> f(factor);
  detail::map_values(x, count, [f](simd::batch<T> a) { return a * f; });
}

// rows of d values end to end
template <class T> void map_rows(const heed::detail::feature_parts<T>& map, T* x, index_t rows, index_t d) {
  if (map.map_value == nullptr && map.built_in == feature::softmax)
    for (index_t i = 0; i < rows; ++i) detail::softmax_row(x + i * d, d);
  else
    detail::map_elements(map, x, rows * d);
}

// x: [d][lane], `lanes` a multiple of the vector width
template <class T> void map_lanes(const heed::detail::feature_parts<T>& map, T* x, index_t d, index_t lanes) {
  if (map.map_value == nullptr && map.built_in == feature::softmax)
    for (index_t l = 0; l < lanes; l += simd::width<T>) detail::softmax_lanes(x + l, d, lanes);
  else
    detail::map_elements(map, x, d * lanes);
}

inline constexpr double root_half = 0.70710678118654752440;  // of the squares among the taylor features

// Elements from one row to the next where columns are walked down: an odd number of lines, so that they spread over
// all sets of a cache.
template <class T> constexpr index_t odd_lines(index_t count) {
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
  return ((count + line - 1) / line | 1) * line;
}

// scores = 1 + s + s^2 / 2
template <class T> HEED_NOINLINE void taylor_weights(T* scores, index_t row, index_t keys, index_t lanes) {
  const simd::batch<T> one(T(1)), half(T(0.5));
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < lanes; l += simd::width<T>) {
      const simd::batch<T> s = simd::load(scores + j * row + l);
      simd::store(scores + j * row + l, simd::fma(simd::fma(s, half, one), s, one));
    }
}

// Keys, through the feature map unless it is taylor, and values of a chunk of n tokens
template <class T> struct chunk_tokens {
  const T* keys = nullptr;
  index_t key_row = 0;
  const T* values = nullptr;
  index_t value_row = 0, n = 0;
};

template <class T> class chunk_features {
 public:
  static constexpr index_t w = simd::width<T>;

  chunk_features(const recurrence<T>& p, index_t chunk, heed::detail::arena& memory)
      : p_(p),
        block_(p.taylor() ? std::max<index_t>(1, 64 / p.d) * p.d : p.features),
        q_block_(memory.take<T>(p.taylor() ? tile::max_lanes<T> * block_ : 0)),
        k_block_(memory.take<T>(p.taylor() || p.decay != nullptr ? chunk * odd_lines<T>(block_) : 0)) {}

  // f(first feature, how many, a)
  template <class F> void each_block(F f) const {
    if (!p_.taylor()) return f(0, p_.features, 0);
    f(0, 1, 0);
    f(1, p_.d, 0);
    const index_t some = block_ / p_.d;
    for (index_t a = 0; a < p_.d; a += some) f(1 + p_.d + a * p_.d, std::min(some, p_.d - a) * p_.d, a);
  }

  // [feature][lane] from q [dim][lane], rows of `row` lanes
  const T* of_queries(const T* q, index_t row, index_t f, index_t count, index_t a) const {
    if (!p_.taylor() || f == 1) return q;
    if (f == 0) return std::fill(q_block_, q_block_ + row, T(1)), q_block_;
    for (index_t i = 0; i < count; ++i) {
      const T *const x = q + (a + i / p_.d) * row, *const y = q + i % p_.d * row;
      for (index_t l = 0; l < row; l += w)
        simd::store(q_block_ + i * row + l,
                    simd::load(x + l) * simd::load(y + l) * simd::batch<T>(static_cast<T>(root_half)));
    }
    return q_block_;
  }

  // [token][feature], rows `row` apart, faded to the end of the chunk
  const T* of_keys(const chunk_tokens<T>& x, const fade<T>& fade, index_t f, index_t count, index_t a,
                   index_t& row) const {
    if (p_.taylor() ? f == 1 : !fade.fades()) return row = x.key_row, x.keys;
    row = odd_lines<T>(count);
    for (index_t j = fade.first_written(); j < x.n; ++j) {
      const T* const key = x.keys + j * x.key_row;
      T* const out = k_block_ + j * row;
      if (!p_.taylor())
        scale_row(key, count, fade.write()[j], out);
      else if (f == 0)
        out[0] = T(1);
      else
        for (index_t i = 0; i < count; i += p_.d)
          scale_row(key, p_.d, key[a + i / p_.d] * static_cast<T>(root_half), out + i);
    }
    return k_block_;
  }

 private:
  static void scale_row(const T* x, index_t count, T factor, T* out) {
    const simd::batch<T> f(factor);
    index_t i = 0;
    for (; i + w <= count; i += w) simd::store(out + i, simd::load(x + i) * f);
    if (i < count) simd::store_partial(out + i, simd::load_partial(x + i, count - i) * f, count - i);
  }

  const recurrence<T>& p_;
  index_t block_;
  T *q_block_, *k_block_;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
