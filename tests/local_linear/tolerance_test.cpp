// SPDX-License-Identifier: BSD-3-Clause

// The tolerance is tight enough: a result that is right for a slightly different question fails it.

#include <vector>

#include "support/catch.hpp"
#include "heed/reference/local_linear.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

template <class T> using how = heed::local_linear::options<T>;
constexpr shape shapes[] = {{1, 2, 1, 37, 53, 16, 16}, {2, 2, 2, 2, 500, 32, 8}, {1, 1, 1, 20, 120, 64, 8}};

// How far a call with `did` is from the reference with `meant`, in units of the tolerance.
template <class T>
double distance(const shape& s, solver with, double ridge, how<T> did, double meant_ridge, const how<T>& meant) {
  did.solver = with;
  local_linear_case<T> x(s, ridge, did);
  x.forward();
  return compare(x, fitted<T>(x, meant_ridge, meant)).worst;
}

template <class T> void wrong_answers_fail() {
  for (const shape& s : shapes)
    for (const solver with : solvers) {
      INFO(to_string(s) << ", " << name_of(with));
      const how<T> causal{.mask = heed::causal()};
      CHECK(distance<T>(s, with, 0.5, causal, 0.5, causal) <= 1);
      CHECK(distance<T>(s, with, 0.5, causal, 1.0, causal) > 10);
      CHECK(distance<T>(s, with, 0.5, causal, 0.505, causal) > 3);
      CHECK(distance<T>(s, with, 0.5, causal, 0.5, {.mask = heed::causal(), .align = heed::top_left}) > 10);
      CHECK(distance<T>(s, with, 0.5, causal, 0.5, {}) > 10);
      CHECK(distance<T>(s, with, 0.5, {.mask = heed::window(20)}, 0.5, {.mask = heed::window(21)}) > 10);
      CHECK(distance<T>(s, with, 0.5, {.scale = 0.125}, 0.5, {.scale = 0.1255}) > 3);
    }
}

// Without the mean key: (sum_j p_j k_j k_j^T + ridge) y = q, o = sum_j p_j (1 + k_j . y) v_j, and with the right y but
// weights about the query instead of the mean.
template <class T> void uncentred_fails(bool right_slope) {
  for (const shape& s : shapes) {
    namespace reference = heed::reference::local_linear::detail;
    local_linear_case<T> x(s);
    const std::vector<fitted_row> rows = fitted(x, x.ridge, x.options);
    x.forward();
    REQUIRE(compare(x, rows).worst <= 1);
    reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), x.options, [&](const reference::row& row) {
      reference::vector y = reference::slope_of(row, 0.5).y, weight = row.p;
      if (!right_slope) {
        const reference::matrix c = row.k.transpose() * row.p.asDiagonal() * row.k +
                                    0.5L * reference::matrix::Identity(row.k.cols(), row.k.cols());
        y = c.ldlt().solve(row.q);
        weight += row.p.cwiseProduct(row.k * y);
      } else {
        weight += row.p.cwiseProduct((row.k.rowwise() - row.q.transpose()) * y);
      }
      const reference::vector o = row.v.transpose() * weight;
      for (index_t e = 0; e < o.size(); ++e) x.o(row.batch, row.head, row.query, e) = static_cast<T>(o(e));
    });
    CHECK(compare(x, rows).worst > 10);
  }
}

}  // namespace

TEST_CASE("a wrong ridge, alignment, mask or scale fails the tolerance of float") { wrong_answers_fail<float>(); }
TEST_CASE("a wrong ridge, alignment, mask or scale fails the tolerance of double") { wrong_answers_fail<double>(); }
TEST_CASE("a wrong mean fails the tolerance") {
  uncentred_fails<float>(false), uncentred_fails<float>(true);
  uncentred_fails<double>(false), uncentred_fails<double>(true);
}
