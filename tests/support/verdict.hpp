// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "support/buffer.hpp"

namespace heed_test {

// The largest error in units of the tolerance, over all outputs: a correct kernel stays at or below 1.
struct verdict {
  double worst = 0;
  std::string where = "equal";

  void add(double got, double expected, double allowed, const char* what, index_t b, index_t h, index_t i, index_t e) {
    double ratio = 0;
    if (std::isnan(expected))
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
