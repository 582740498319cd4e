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
  double weights = 0;  // what rounded weights add, see rounded_weights

  double of_output(const row_size& row) const { return of_lse(row) * row.max_value; }
  double of_lse(const row_size& row) const { return eps * (c0 + c1 * row.max_score) + weights; }
};

// What rounding the weights to bf16 adds where a driver does so. Then p~ = p (1 + r), |r| <= x: 2^-8, half a unit of 8
// binary digits, and 2e-4 of an exp2 of 13 binary digits, in p and in what a maximum that rises multiplies sums with.
// The sum l~ is of the same p~, so that
//
//   |o~ - o| = |sum p r (v - o)| / sum p (1 + r) <= x / (1 - x) * mean |v - o| <= x / (1 - x) * max |v|
//
// (the mean of |v - o| about the mean o is at most max |v|), and |lse~ - lse| <= -log(1 - x) <= x / (1 - x).
inline constexpr double rounded_weight = 0x1p-8 + 2e-4;
inline constexpr double rounded_weights = rounded_weight / (1 - rounded_weight);

// Half a unit in the last place of a number as it is stored: 8 binary digits in bf16, below 2^-126 0; 11 in f16, below
// 2^-14 in units of 2^-24. 0 digits: stored as it was computed.
struct storage_rounding {
  int digits = 0;
  double least = 0;

  double at(double x) const {
    if (digits == 0) return 0;
    return x == 0 || !std::isfinite(x) ? least : std::max(std::ldexp(1.0, std::ilogb(x) - digits), least);
  }
  // What a result may be off that was expected as x and computed with an error of at most `error`
  double around(double x, double error) const { return error + at(std::abs(x) + error); }
};
inline constexpr storage_rounding bf16_rounding{8, 0x1p-126}, f16_rounding{11, 0x1p-25};

template <class Acc> tolerance tolerance_of(heed::index_t keys, heed::index_t head_dim) {
  const double m = static_cast<double>(keys < 1 ? 1 : keys), d = static_cast<double>(head_dim);
  return {static_cast<double>(std::numeric_limits<Acc>::epsilon()), 16 + std::log2(m), 2 * std::sqrt(d)};
}

// Of sums over tokens, in units of the sum of the magnitudes of their terms: products of depth dim, chunk after chunk.
template <class Acc> double recurrent_tolerance(heed::index_t tokens, heed::index_t dim) {
  const double n = static_cast<double>(tokens < 1 ? 1 : tokens), d = static_cast<double>(dim);
  return static_cast<double>(std::numeric_limits<Acc>::epsilon()) * (8 + std::log2(n) + std::sqrt(d));
}

// Of their gradients, in the same units. A term of such a sum is a product with a number that is a sum itself: a score
// (depth dim) or a state (over tokens) beside a product with dout (depth value_dim). The errors of both add up.
template <class Acc> double gradient_tolerance(heed::index_t tokens, heed::index_t dim, heed::index_t value_dim) {
  return recurrent_tolerance<Acc>(tokens, dim) + recurrent_tolerance<Acc>(tokens, value_dim);
}

// Of gradients with softmax weights, element by element. Backward takes lse and o as forward left them, and every
// number in it is a sum of products, so that the first-order errors are, with A_ij = sum_d |scale q_id k_jd| and
// B_ij = sum_e |dout_ie v_je|:
//
//   score      e_ij  = f'_ij (dot(D) A_ij + eps (|ALiBi| + |bias|)) + eps |s_ij|     f': slope of the score function
//   weight     r_ij  = e_ij + sum_j p_ij e_ij + exponent                      relative; the sum: error of lse
//   delta      d_i   = sum_j p_ij (r_ij + dot(E)) B_ij + eps |dlse_i|               and what storing o has changed
//   ds         u_ij  = p_ij (r_ij |b_ij - delta_i| + dot(E) B_ij + d_i)
//   dx, dy     u_ij f'_ij, and |ds_ij| times the error of f'_ij, of the slope of the soft-cap
//   a gradient: the sum of errors of its terms times what they are multiplied with, plus sum(terms) of their magnitudes
//
// No constant depends on the call; a wrong term shows (softmax/backward_tolerance_test.cpp).
struct gradient_rounding {
  double eps, exponent;  // exponent: exp2, and the sum of the weights
  double least;          // what is flushed to 0

  double dot(heed::index_t depth) const { return eps * (4 + std::sqrt(static_cast<double>(depth))); }
  double sum(double terms) const { return eps * (4 + std::sqrt(terms)); }  // one by one: a random walk
};
template <class Acc> gradient_rounding gradient_rounding_of(heed::index_t keys) {
  const double eps = static_cast<double>(std::numeric_limits<Acc>::epsilon());
  return {eps, eps * (16 + std::log2(static_cast<double>(keys < 1 ? 1 : keys))),
          static_cast<double>(std::numeric_limits<Acc>::min())};
}

}  // namespace heed_test
