// SPDX-License-Identifier: BSD-3-Clause

// What the reference of local linear attention says of every row: Eigen's templates take longer to compile than a test.

#include <algorithm>
#include <cmath>
#include <variant>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "support/local_linear_case.hpp"
#include "support/local_linear_decode.hpp"

namespace heed_test {

namespace reference = heed::reference::local_linear::detail;

// A row of the reference with its slope, found under `penalty` or given
static fitted_row fitted_row_of(const reference::row& row, double penalty, const reference::vector& slope) {
  fitted_row f{row.batch, row.head, row.query, {}, slope, row.mean, row.lse, penalty, {}};
  f.o = reference::output_of(row, f.y);
  const auto number = [](reference::real a) { return static_cast<double>(a); };
  for (const reference::real score : row.scores) f.size.see_score(number(score));
  for (index_t j = 0; j < row.p.size(); ++j) {
    for (index_t e = 0; e < row.v.cols(); ++e) f.size.see_value(number(row.v(j, e)));
    f.key = std::max(f.key, number(row.k.row(j).norm()));
  }
  if (row.p.size() == 0) return f;
  const reference::vector weight = (row.x * f.y).array() + 1;
  f.distance = number((row.q - row.mean).norm());
  f.spread = number(std::sqrt(row.p.dot(row.x.rowwise().squaredNorm())));
  f.gain = number(std::sqrt(row.p.dot(weight.cwiseAbs2())));
  const reference::vector centre = row.v.transpose() * row.p;
  for (index_t e = 0; e < row.v.cols(); ++e) {
    const double variance = number(row.p.dot((row.v.col(e).array() - centre(e)).matrix().cwiseAbs2()));
    if (std::isfinite(variance)) f.sigma = std::max(f.sigma, std::sqrt(variance));
  }
  return f;
}

template <class T>
std::vector<fitted_row> fitted(const local_linear_case<T>& x, const heed::per_head& ridge,
                               const heed::local_linear::options<T>& options,
                               const heed::tensor_view<const T, 4>* given) {
  std::vector<fitted_row> rows;
  reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), options, [&](const reference::row& row) {
    const double penalty = given != nullptr ? 1 : ridge.at(row.head);
    rows.push_back(fitted_row_of(row, penalty,
                                 given == nullptr
                                     ? reference::slope_of(row, penalty).y
                                     : reference::row_of<reference::real>(*given, row.batch, row.head, row.query)));
  });
  return rows;
}

template <class T> std::vector<fitted_row> fitted(const local_linear_decode<T>& x) {
  std::vector<fitted_row> rows;
  const auto add = [&](const reference::row& row) {
    const double penalty = x.fit.ridge.at(row.head);
    rows.push_back(fitted_row_of(row, penalty, reference::slope_of(row, penalty).y));
  };
  std::visit([&](const auto& cache) { reference::each_row(x.tokens.q.cview(), cache, x.fit.options, add); },
             x.tokens.cache());
  return rows;
}

#define INSTANTIATE(T)                                                                            \
  template std::vector<fitted_row> fitted<T>(const local_linear_case<T>&, const heed::per_head&,  \
                                             const heed::local_linear::options<T>&,               \
                                             const heed::tensor_view<const T, 4>*);               \
  template std::vector<fitted_row> fitted<T>(const local_linear_decode<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace heed_test
