// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/core/types.hpp"

namespace heed_test {

// The largest error that a correct kernel may show in one row. A relative error of a score is an absolute error of its
// exponent, so it becomes a relative error of the weight: |err| <= eps * (c0 + c1 * max|s|) * max|v|. All constants of
// all differential tests are here.
struct row_size {
  double max_score = 0;  // max |s| over the visible keys, of the finite ones
  double max_value = 0;  // max |v| likewise

  void see_score(double s) { max_score = std::isfinite(s) ? std::max(max_score, std::abs(s)) : max_score; }
  void see_value(double v) { max_value = std::isfinite(v) ? std::max(max_value, std::abs(v)) : max_value; }
};

struct tolerance {
  double eps, c0, c1;

  double of_output(const row_size& row) const { return eps * (c0 + c1 * row.max_score) * row.max_value; }
  double of_lse(const row_size& row) const { return eps * (c0 + c1 * row.max_score); }
};

template <class Acc> tolerance tolerance_of(heed::index_t keys, heed::index_t head_dim) {
  const double m = static_cast<double>(keys < 1 ? 1 : keys), d = static_cast<double>(head_dim);
  return {static_cast<double>(std::numeric_limits<Acc>::epsilon()), 16 + std::log2(m), 2 * std::sqrt(d)};
}

// Of sums over tokens, in units of the sum of the magnitudes of their terms: products of depth dim, chunk after chunk.
template <class Acc> double recurrent_tolerance(heed::index_t tokens, heed::index_t dim) {
  const double n = static_cast<double>(tokens < 1 ? 1 : tokens), d = static_cast<double>(dim);
  return static_cast<double>(std::numeric_limits<Acc>::epsilon()) * (8 + std::log2(n) + std::sqrt(d));
}

}  // namespace heed_test
