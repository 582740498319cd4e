// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Feature maps over rows and over lanes. All but softmax and taylor work element by element, where the two are the
// same; taylor features are made where they are used (tile/chunk_features.hpp).

#include <algorithm>
#include <limits>

#include "heed/core/feature_map.hpp"
#include "heed/simd/math.hpp"

namespace heed::tile {
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

}  // namespace HEED_ISA
}  // namespace heed::tile
