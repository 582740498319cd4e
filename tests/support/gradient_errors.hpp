// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How far off a kernel may be with the score of a pair and with what takes a gradient from the score to q.k, by the
// names of gradient_rounding in tolerance.hpp.

#include <algorithm>
#include <cmath>

#include "heed/reference/rules.hpp"
#include "support/tolerance.hpp"

namespace heed_test {

struct score_errors {
  double score;               // e_ij
  double slope, slope_error;  // |f'_ij|, and the error of f'_ij times the slope of the soft-cap
  double term_error;          // the error of f'_ij alone
};

// at, dot: a pair that its row sees and its q.k; products: A_ij; score: s_ij
template <class T, class Options>
score_errors errors_of_score(const gradient_rounding& unit,
                             const heed::reference::detail::pair_rules<T, Options>& rules,
                             const heed::reference::detail::sequence& s, const heed::position& at, double dot,
                             double products, double score) {
  const Options& options = rules.options;
  double added = 0;
  if (options.alibi_slopes.set())
    added += std::abs(options.alibi_slopes.at(at.head) * (static_cast<double>(at.place) - at.key));
  if (options.bias.data() != nullptr)
    added += std::abs(heed::reference::detail::number(heed::reference::detail::broadcast_element(
        options.bias, s.batch, at.head, s.first_query + at.query, s.first_key + at.key)));
  const double of_products = unit.dot(rules.head_dim) * products;
  const double f = std::abs(rules.derivatives_of(s, at, dot).by_terms);
  score_errors x{f * (of_products + unit.eps * added) + unit.eps * std::abs(score), f, 0, 0};
  if (heed::detail::parts(options.score).map_value != nullptr)
    x.term_error = std::max(1.0, f) * x.score + 8 * unit.eps * f;
  x.slope_error = x.term_error;
  if (options.softcap > 0 && std::isfinite(options.softcap))
    x.slope_error += f * (8 * unit.eps + 2 * of_products / options.softcap);
  return x;
}

}  // namespace heed_test
