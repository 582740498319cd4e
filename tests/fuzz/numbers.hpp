// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Numbers of a call's tensors that are large, small, or none.

#include <cmath>
#include <limits>

#include "fuzz/bytes.hpp"
#include "support/buffer.hpp"

namespace heed_test {

enum class hostility { gentle, any };  // gentle: sums of products stay far from the ends of the range of float
inline constexpr hostility gentle = hostility::gentle, any_numbers = hostility::any;

// Multiplies all numbers, and puts others in the place of a few. Most inputs leave them as they are.
template <class T> void spoil(bytes& in, const char* name, const buffer<T>& x, hostility how) {
  using limits = std::numeric_limits<T>;
  const double size = how == gentle ? in.of({1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-3, 7.0, 0.0})
                                    : in.of({1.0, 1.0, 1.0, 1.0, 1.0, 1e-3, 30.0, 1e-19, 1e-40, 1e19, 1e36, 0.0});
  if (size < 1 || size > 1) {
    tell(name, " times ", size);
    x.each([&](T& a) { a = static_cast<T>(size * static_cast<double>(a)); });
  }
  const index_t count = in.of({0, 0, 0, 0, 0, 1, 1, 2, 7});
  const auto [b, h, n, d] = x.size();
  for (index_t i = 0; i < count && b * h * n * d > 0; ++i) {
    const T nan = limits::quiet_NaN(), inf = limits::infinity(), tiny = limits::denorm_min();
    const T bad = how == gentle ? in.of({nan, inf, T(-inf), T(-0.0), tiny})
                                : in.of({nan, inf, T(-inf), T(-0.0), limits::max(), limits::lowest(), tiny});
    const index_t ib = in.below(b), ih = in.below(h), in_row = in.below(n), id = in.below(d);
    tell(name, "(", ib, ", ", ih, ", ", in_row, ", ", id, ") = ", bad);
    x(ib, ih, in_row, id) = bad;
  }
}

// Whether sums of products of such numbers, in float, neither leave its range nor get lost in subnormal numbers.
inline bool ordinary(double x) { return std::isfinite(x) && std::abs(x) < 1e30; }

}  // namespace heed_test
