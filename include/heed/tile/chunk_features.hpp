// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// phi of the queries and keys of one chunk, in blocks of features. All maps but taylor are applied where rows come in,
// and have one block. taylor: pairs are weighted by 1 + s + s^2 / 2, while the state has 1 + D + D^2 features: 1, x_a,
// and x_a x_b / sqrt 2, made for some a at a time and for all b.

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/tile/fade.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/recurrence.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

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
        q_block_(memory.take<T>(p.taylor() ? max_lanes<T> * block_ : 0)),
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
}  // namespace heed::tile
