// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Feature maps phi. All maps but softmax and taylor work element by element, on rows of values or on lanes alike.
//
// Taylor features are never stored: pairs are weighted by 1 + s + s^2 / 2, and the 1 + D + D^2 features 1, x_a and
// x_a x_b / sqrt 2, which the state needs, are made in blocks where they are used, for some a at a time and all b. The
// other maps are applied where rows come in, and have one block.

#include <algorithm>
#include <limits>

#include "heed/core/context.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/simd/math.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

namespace detail {

// out = f(x) for count values in a row; out may be x.
template <class T, class F> HEED_INLINE void map_values(const T* x, index_t count, T* out, F f) {
  constexpr index_t w = simd::width<T>;
  index_t i = 0;
  for (; i + w <= count; i += w) simd::store(out + i, f(simd::load(x + i)));
  if (i < count) simd::store_partial(out + i, f(simd::load_partial(x + i, count - i)), count - i);
}

// Replaces each lane's values by e^x / sum of e^x; x: one vector of lanes.
template <class T> HEED_NOINLINE void softmax_lanes(tile::lane_block<T> x) {
  using batch = simd::batch<T>;
  batch row_max(-std::numeric_limits<T>::infinity()), sum(T(0));
  for (index_t i = 0; i < x.rows; ++i) row_max = simd::max(row_max, simd::load(x.row(i)));
  for (index_t i = 0; i < x.rows; ++i) {
    const batch e = simd::exp(simd::load(x.row(i)) - row_max);
    simd::store(x.row(i), e);
    sum += e;
  }
  const batch inv_sum = simd::divide<T>(batch(T(1)), sum);
  for (index_t i = 0; i < x.rows; ++i) simd::store(x.row(i), simd::load(x.row(i)) * inv_sum);
}

template <class T> HEED_NOINLINE void softmax_row(T* x, index_t count) {
  T row_max = -std::numeric_limits<T>::infinity(), sum = 0;
  for (index_t i = 0; i < count; ++i) row_max = row_max < x[i] ? x[i] : row_max;
  const simd::batch<T> most(row_max);
  map_values(x, count, x, [most](simd::batch<T> a) { return simd::exp(a - most); });
  for (index_t i = 0; i < count; ++i) sum += x[i];
  const simd::batch<T> inv_sum(T(1) / sum);
  map_values(x, count, x, [inv_sum](simd::batch<T> a) { return a * inv_sum; });
}

// Applies an elementwise map to count values in a row.
template <class T> HEED_NOINLINE void map_elements(const heed::detail::feature_parts<T>& map, T* x, index_t count) {
  using batch = simd::batch<T>;
  if (map.map_value != nullptr) return map.map_value(map.value.bytes, x, count);
  const batch zero(T(0)), one(T(1));
  switch (map.built_in) {
    case feature::elu_plus_one:
      return map_values(x, count, x,
                        [=](batch a) { return simd::select<T>(a > zero, a + one, simd::exp(simd::min(zero, a))); });
    case feature::relu:
      return map_values(x, count, x, [=](batch a) { return simd::max(zero, a); });
    case feature::relu_squared:
      return map_values(x, count, x, [=](batch a) {
        const batch b = simd::max(zero, a);
        return b * b;
      });
    case feature::silu:  // e^-a is +inf far below 0, where a / inf = -0; -inf itself would be NaN
      return map_values(x, count, x, [=](batch a) {
        const batch b = simd::max(batch(std::numeric_limits<T>::lowest()), a);
        return simd::divide<T>(b, one + simd::exp(zero - b));
      });
    case feature::exp:
      return map_values(x, count, x, [](batch a) { return simd::exp(a); });
    case feature::identity:
    case feature::softmax:
    case feature::taylor:
      return;
  }
}

}  // namespace detail

template <class T> void scale_values(const T* x, index_t count, T factor, T* out) {
  const simd::batch<T> f(factor);
  detail::map_values(x, count, out, [f](simd::batch<T> a) { return a * f; });
}

// Maps rows of d values end to end.
template <class T> void map_rows(const heed::detail::feature_parts<T>& map, T* x, index_t rows, index_t d) {
  if (map.map_value == nullptr && map.built_in == feature::softmax)
    for (index_t i = 0; i < rows; ++i) detail::softmax_row(x + i * d, d);
  else
    detail::map_elements(map, x, rows * d);
}

// Maps x [d][lane], whose rows lie end to end.
template <class T> void map_lanes(const heed::detail::feature_parts<T>& map, tile::lane_block<T> x) {
  if (map.map_value == nullptr && map.built_in == feature::softmax)
    for (index_t l = 0; l < x.lanes; l += simd::width<T>) detail::softmax_lanes(x.part(0, x.rows, l, simd::width<T>));
  else
    detail::map_elements(map, x.data, x.rows * x.lanes);
}

inline constexpr double root_half = 0.70710678118654752440;  // factor of the squares among the taylor features

// Returns a stride for rows of `count` elements whose columns are walked down: an odd number of cache lines, so that
// the rows spread over all sets of a cache.
template <class T> constexpr index_t odd_lines(index_t count) {
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
  return ((count + line - 1) / line | 1) * line;
}

// Turns scores s into 1 + s + s^2 / 2.
template <class T> HEED_NOINLINE void taylor_weights(tile::lane_block<T> s) {
  const simd::batch<T> one(T(1)), half(T(0.5));
  for (index_t j = 0; j < s.rows; ++j)
    for (index_t l = 0; l < s.lanes; l += simd::width<T>) {
      const simd::batch<T> x = simd::load(s.row(j) + l);
      simd::store(s.row(j) + l, simd::fma(simd::fma(x, half, one), x, one));
    }
}

// The tokens of a chunk: keys [token][dim], through the feature map unless it is taylor, and values [token][column].
// z_weight: by token, what its features are multiplied with on their way into z; null: 1
template <class T> struct chunk_tokens {
  tile::lane_block<const T> keys, values;
  const T* z_weight = nullptr;
};

// Features [first, first + count); of the squares among the taylor features: those of x_a and on
struct feature_block {
  index_t first = 0, count = 0, a = 0;
};

// Features of the queries and keys of a chunk, block by block.
template <class T> class chunk_features {
 public:
  static constexpr index_t w = simd::width<T>;

  // Takes scratch for chunks of up to `chunk` tokens.
  chunk_features(const recurrence<T>& p, index_t chunk, heed::detail::arena& memory)
      : p_(p),
        capacity_(p.taylor() ? std::max<index_t>(1, 64 / p.d) * p.d : p.features),
        q_block_(memory.take<T>(p.taylor() ? tile::max_lanes<T> * capacity_ : 0)),
        k_block_(memory.take<T>(p.taylor() || p.decay != nullptr ? chunk * odd_lines<T>(capacity_) : 0)) {}

  index_t capacity() const { return capacity_; }

  // Calls f for every feature_block, in ascending order.
  template <class F> void each_block(F f) const {
    if (!p_.taylor()) return f(feature_block{0, p_.features});
    f(feature_block{0, 1}), f(feature_block{1, p_.d});
    const index_t some = capacity_ / p_.d;
    for (index_t a = 0; a < p_.d; a += some) f(feature_block{1 + p_.d + a * p_.d, std::min(some, p_.d - a) * p_.d, a});
  }

  // Returns the block's features [feature][lane] of queries [dim][lane], with the same stride. q: through the map
  const T* of_queries(tile::lane_block<T> q, const feature_block& block) const {
    if (!p_.taylor() || block.first == 1) return q.data;
    if (block.first == 0) return std::fill(q_block_, q_block_ + q.stride, T(1)), q_block_;
    for (index_t i = 0; i < block.count; ++i) {
      const T *const x = q.row(block.a + i / p_.d), *const y = q.row(i % p_.d);
      for (index_t l = 0; l < q.lanes; l += w)
        simd::store(q_block_ + i * q.stride + l,
                    simd::load(x + l) * simd::load(y + l) * simd::batch<T>(static_cast<T>(root_half)));
    }
    return q_block_;
  }

  // Returns the block's features [token][feature] of the keys, each with its k_decay; tokens that leave nothing are
  // not written.
  tile::lane_block<const T> of_keys(const tile::lane_block<const T>& keys, const chunk_decay<T>& decay,
                                    const feature_block& block) const {
    if (p_.taylor() ? block.first == 1 : !decay.decays()) return keys;
    const index_t stride = odd_lines<T>(block.count);
    for (index_t j = decay.first_kept(); j < keys.rows; ++j) {
      const T* const key = keys.row(j);
      T* const out = k_block_ + j * stride;
      if (!p_.taylor())
        scale_values(key, block.count, decay.k_decay()[j], out);
      else if (block.first == 0)
        out[0] = T(1);
      else
        for (index_t i = 0; i < block.count; i += p_.d)
          scale_values(key, p_.d, key[block.a + i / p_.d] * static_cast<T>(root_half), out + i);
    }
    return {k_block_, stride, keys.rows, block.count};
  }

 private:
  const recurrence<T>& p_;
  index_t capacity_;  // features of a block, at most
  T *q_block_, *k_block_;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
