// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Results beside what is expected, and beside each other.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "support/buffer.hpp"

namespace heed_test {

// The largest error in units of the tolerance, over all outputs: a correct kernel stays at or below 1.
struct verdict {
  static inline bool kinds_differ = true;  // false: a NaN will do where an infinity is expected, and the other way
  double worst = 0;
  std::string where = "equal";

  void add(double got, double expected, double allowed, const char* what, index_t b, index_t h, index_t i, index_t e) {
    double ratio = 0;
    if (!kinds_differ && !std::isfinite(expected) && !std::isfinite(got))
      ratio = 0;
    else if (std::isnan(expected))
      ratio = std::isnan(got) ? 0 : HUGE_VAL;
    else if (std::isinf(expected))
      ratio = got == expected ? 0 : HUGE_VAL;
    else if (!std::isfinite(got))
      ratio = HUGE_VAL;
    else if (got != expected)
      ratio = std::abs(got - expected) / allowed;
    if (!(ratio > worst)) return;
    worst = ratio;
    char text[200];
    std::snprintf(text, sizeof text, "%s(%td, %td, %td, %td) is %.9g, expected %.9g: %.3g of the tolerance %.3g", what,
                  b, h, i, e, got, expected, ratio, allowed);
    where = text;
  }
};

// Between results of two calls; equal infinities are 0 apart, a NaN is infinitely far from anything.
template <class T> double largest_difference(const buffer<T>& a, const buffer<T>& b) {
  double worst = 0;
  for (index_t i = 0; i < a.size()[0]; ++i)
    for (index_t h = 0; h < a.size()[1]; ++h)
      for (index_t n = 0; n < a.size()[2]; ++n)
        for (index_t e = 0; e < a.size()[3]; ++e) {
          const auto x = static_cast<double>(a(i, h, n, e)), y = static_cast<double>(b(i, h, n, e));
          if (std::isnan(x) || std::isnan(y)) return HUGE_VAL;
          if (x != y) worst = std::max(worst, std::abs(x - y));
        }
  return worst;
}

template <class T> bool all_written(const buffer<T>& x) {
  bool all = true;
  x.each([&](const T& element) {
    T poison;
    std::memset(&poison, 0xff, sizeof(T));
    all = all && std::memcmp(&element, &poison, sizeof(T)) != 0;
  });
  return all;
}

}  // namespace heed_test
