// SPDX-License-Identifier: BSD-3-Clause

// What the reference of local linear attention says of every row: Eigen's templates take longer to compile than a test.

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "support/local_linear_case.hpp"

namespace heed_test {

template <class T>
std::vector<fitted_row> fitted(const local_linear_case<T>& x, const heed::per_head& ridge,
                               const heed::local_linear::options<T>& options,
                               const heed::tensor_view<const T, 4>* given) {
  namespace reference = heed::reference::local_linear::detail;
  std::vector<fitted_row> rows;
  reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), options, [&](const reference::row& row) {
    const double penalty = given != nullptr ? 1 : ridge.at(row.head);
    fitted_row f{row.batch, row.head, row.query, {}, {}, row.mean, row.lse, penalty, {}};
    f.y = given == nullptr ? reference::slope_of(row, penalty).y
                           : reference::row_of<reference::real>(*given, row.batch, row.head, row.query);
    f.o = reference::output_of(row, f.y);
    const auto number = [](reference::real a) { return static_cast<double>(a); };
    for (const reference::real score : row.scores) f.size.see_score(number(score));
    for (index_t j = 0; j < row.p.size(); ++j) {
      for (index_t e = 0; e < row.v.cols(); ++e) f.size.see_value(number(row.v(j, e)));
      f.key = std::max(f.key, number(row.k.row(j).norm()));
    }
    if (row.p.size() > 0) {
      const reference::vector weight = (row.x * f.y).array() + 1;
      f.distance = number((row.q - row.mean).norm());
      f.spread = number(std::sqrt(row.p.dot(row.x.rowwise().squaredNorm())));
      f.gain = number(std::sqrt(row.p.dot(weight.cwiseAbs2())));
      const reference::vector centre = row.v.transpose() * row.p;
      for (index_t e = 0; e < row.v.cols(); ++e) {
        const double variance = number(row.p.dot((row.v.col(e).array() - centre(e)).matrix().cwiseAbs2()));
        if (std::isfinite(variance)) f.sigma = std::max(f.sigma, std::sqrt(variance));
      }
    }
    rows.push_back(std::move(f));
  });
  return rows;
}

#define INSTANTIATE(T)                                                                            \
  template std::vector<fitted_row> fitted<T>(const local_linear_case<T>&, const heed::per_head&,  \
                                             const heed::local_linear::options<T>&,               \
                                             const heed::tensor_view<const T, 4>*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace heed_test
