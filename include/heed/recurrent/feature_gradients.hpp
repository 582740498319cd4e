// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients through the feature maps: from the gradient of phi(x) to that of x, lanes being rows of q or k.

#include <limits>

#include "heed/core/feature_map.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/simd/math.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Whether the derivative of a map needs x; else phi(x) will do.
template <class T> bool needs_argument(const heed::detail::feature_parts<T>& map) {
  return map.map_value != nullptr || map.built_in == feature::relu_squared || map.built_in == feature::silu;
}

namespace detail {

// y where d is not 0, else 0: no gradient meets what nobody sees, be it NaN
template <class T> HEED_INLINE simd::batch<T> unless_zero(simd::batch<T> d, simd::batch<T> y) {
  const simd::batch<T> zero(T(0));
  return simd::select<T>(d == zero, zero, y);
}

// d = f(x, d) for count values in whole vectors
template <class T, class F> HEED_INLINE void chain_values(const T* x, index_t count, T* d, F f) {
  for (index_t i = 0; i < count; i += simd::width<T>) {
    const simd::batch<T> y = simd::load(d + i);
    simd::store(d + i, unless_zero<T>(y, f(simd::load(x + i), y)));
  }
}

// d = phi (d - sum of d phi) down each lane; phi = factor times what is given
template <class T>
HEED_NOINLINE void chain_softmax(const tile::lane_block<const T>& given, T factor, const tile::lane_block<T>& d) {
  using batch = simd::batch<T>;
  const batch f(factor);
  for (index_t l = 0; l < d.lanes; l += simd::width<T>) {
    batch sum(T(0));
    for (index_t i = 0; i < d.rows; ++i) {
      const batch y = simd::load(d.row(i) + l);
      sum += unless_zero<T>(y, y * (simd::load(given.row(i) + l) * f));
    }
    for (index_t i = 0; i < d.rows; ++i) {
      const batch y = simd::load(d.row(i) + l) - sum;
      simd::store(d.row(i) + l, unless_zero<T>(y, y * (simd::load(given.row(i) + l) * f)));
    }
  }
}

}  // namespace detail

// Turns the gradients d of phi(x) into those of x, for any map but taylor. phi: phi(x) / factor. x: where
// needs_argument() says so; it is overwritten. Rows of all three lie end to end.
template <class T>
HEED_NOINLINE void map_gradients(const heed::detail::feature_parts<T>& map, const tile::lane_block<T>& x,
                                 const tile::lane_block<const T>& phi, T factor, const tile::lane_block<T>& d) {
  using batch = simd::batch<T>;
  const index_t count = d.rows * d.lanes;
  const batch zero(T(0)), one(T(1)), f(factor);
  if (map.map_value != nullptr) {
    map.map_derivative(map.derivative.bytes, x.data, count);
    return detail::chain_values(x.data, count, d.data, [](batch a, batch b) { return a * b; });
  }
  switch (map.built_in) {
    case feature::elu_plus_one:  // e^x is phi below 0, where phi is at most 1
      return detail::chain_values(phi.data, count, d.data, [=](batch a, batch b) { return simd::min(one, a * f) * b; });
    case feature::relu:  // 0 at 0; NaN stays NaN
      return detail::chain_values(phi.data, count, d.data,
                                  [=](batch a, batch b) { return simd::select<T>(a > zero, b, a); });
    case feature::relu_squared:
      return detail::chain_values(x.data, count, d.data, [=](batch a, batch b) {
        return simd::select<T>(a > zero, (a + a) * b, simd::max(zero, a));
      });
    case feature::silu: {  // s + x s (1 - s), s = 1 / (1 + e^-x); one of s and 1 - s is r, the other e r
      const batch most(std::numeric_limits<T>::max());
      return detail::chain_values(x.data, count, d.data, [=](batch a, batch b) {
        const batch y = simd::max(zero - most, simd::min(most, a));
        const batch e = simd::exp(zero - simd::abs(y)), r = simd::divide<T>(one, one + e), er = e * r;
        return simd::fma(y * r, er, simd::select<T>(y < zero, er, r)) * b;
      });
    }
    case feature::exp:
      return detail::chain_values(phi.data, count, d.data, [=](batch a, batch b) { return a * f * b; });
    case feature::softmax:
      return detail::chain_softmax(phi, factor, d);
    case feature::identity:
    case feature::taylor:
      return;
  }
}

// Adds to dx what the gradients d of a block of the taylor features of x give.
template <class T>
HEED_NOINLINE void add_taylor_gradients(const feature_block& block, const tile::lane_block<const T>& d,
                                        const tile::lane_block<const T>& x, const tile::lane_block<T>& dx) {
  using batch = simd::batch<T>;
  if (block.first == 0) return;
  const batch root(static_cast<T>(root_half));
  const auto add = [](T* sum, batch y) { simd::store(sum, simd::load(sum) + y); };
  for (index_t i = 0; i < block.count; ++i)
    for (index_t l = 0; l < d.lanes; l += simd::width<T>) {
      const batch g = simd::load(d.row(i) + l);
      if (block.first == 1) {
        add(dx.row(i) + l, g);
        continue;
      }
      const index_t a = block.a + i / x.rows, b = i % x.rows;
      add(dx.row(a) + l, g * root * simd::load(x.row(b) + l));
      add(dx.row(b) + l, g * root * simd::load(x.row(a) + l));
    }
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
