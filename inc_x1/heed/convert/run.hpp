// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Elements of one stride, converted. All of it runs while flush_to_zero lives.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"
#include "heed/simd/half.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

// Rounds to a float with an odd last bit where x is not exact: rounded again to fewer bits, that is x rounded once.
HEED_INLINE float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  const double got = std::fabs(static_cast<double>(nearest)), size = std::fabs(x);
  if ((bits & 1u) != 0 || !(got < size || got > size)) return nearest;
  return std::bit_cast<float>(got < size ? bits + 1u : bits - 1u);
}

template <class T> HEED_INLINE T without_subnormal(T x) {
  return std::fabs(x) < std::numeric_limits<T>::min() ? std::copysign(T(0), x) : x;
}

// Returns x as a To, rounded once. A number that is subnormal in float, or in double where both are, is 0 of its sign.
template <class To, class From> HEED_INLINE To converted(From x) {
  if constexpr (!std::is_same_v<From, double>) {
    const float value = without_subnormal(static_cast<float>(x));
    return static_cast<To>(value);
  } else if constexpr (sizeof(To) > 2) {
    return without_subnormal(static_cast<To>(x));
  } else {
    return To(without_subnormal(round_to_odd(x)));
  }
}

// Converts n elements at `from`, from_stride apart, to `to`. The two may be the same elements.
template <class From, class To>
void convert_run(const From* from, index_t from_stride, To* to, index_t to_stride, index_t n) {
  index_t i = 0;
  constexpr bool wide = std::is_same_v<From, double>, same = std::is_same_v<From, To>;
  if constexpr (same || !(wide || std::is_same_v<To, double>)) {
    using T = acc_t<From>;
    constexpr index_t w = simd::width<T>;
    const auto kept = [](simd::batch<T> x) {
      return std::is_same_v<From, f16_t> ? x : simd::without_subnormals<T>(x);  // these are normal floats
    };
    if (from_stride == 1 && to_stride == 1) {
      for (; i + w <= n; i += w) simd::store_as(to + i, kept(simd::load_as<T>(from + i)));
      if (i < n) simd::store_partial_as(to + i, kept(simd::load_partial_as<T>(from + i, n - i)), n - i);
      return;
    }
  }
  for (; i < n; ++i) to[i * to_stride] = converted<To>(from[i * from_stride]);
}

}  // namespace HEED_ISA
}  // namespace heed::detail
