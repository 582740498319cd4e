// SPDX-License-Identifier: BSD-3-Clause

// Two references on closed forms, and beside each other: the centred formula solved directly, and a ridge regression
// per query as one stacked system.

#include "heed/reference/local_linear.hpp"
#include "heed/core/factories.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/least_squares.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using options = heed::local_linear::options<double>;
constexpr double inf = std::numeric_limits<double>::infinity();

matrix random_matrix(index_t rows, index_t cols, std::uint32_t seed) {
  heed_test::random_numbers random(seed);
  matrix m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = random.normal();
  return m;
}
double distance(const matrix& a, const matrix& b) { return a.size() == 0 ? 0 : (a - b).cwiseAbs().maxCoeff(); }

struct answer {
  matrix o, slope, mean;
  Eigen::VectorXd lse;
  heed::local_linear::report report;
};

answer centred(const matrix& q, const matrix& k, const matrix& v, const heed::per_head& ridge, options how = {}) {
  answer a{matrix::Constant(q.rows(), v.cols(), 77),
           matrix::Constant(q.rows(), q.cols(), 77),
           matrix::Constant(q.rows(), q.cols(), 77),
           Eigen::VectorXd::Constant(q.rows(), 77),
           {}};
  how.lse = a.lse, how.slope = a.slope, how.mean_key = a.mean, how.report = &a.report;
  heed::reference::local_linear::forward(q, k, v, ridge, a.o, how);
  return a;
}
matrix stacked(const matrix& q, const matrix& k, const matrix& v, const heed::per_head& ridge,
               const options& how = {}) {
  matrix o = matrix::Constant(q.rows(), v.cols(), 77);
  heed_test::least_squares<double>(heed::view(q), heed::view(k), heed::view(v), ridge, heed::view(o), how);
  return o;
}
// The first, once the second agrees
answer both(const matrix& q, const matrix& k, const matrix& v, const heed::per_head& ridge, const options& how = {},
            double tolerance = 1e-12) {
  answer a = centred(q, k, v, ridge, how);
  CHECK(distance(a.o, stacked(q, k, v, ridge, how)) <= tolerance);
  const double rounding = 1e-14 + 1e-18 / ridge.at(0);  // of x . y in long double: y is as long as r / ridge
  CHECK((a.report.unconverged == 0 && a.report.max_residual < rounding));
  return a;
}
matrix softmax(const matrix& q, const matrix& k, const matrix& v, const options& how = {}) {
  matrix o(q.rows(), v.cols());
  heed::reference::softmax::forward(q, k, v, o, heed_test::softmax_options(how));
  return o;
}

const matrix queries = random_matrix(6, 4, 1), keys = random_matrix(23, 4, 2), values = random_matrix(23, 3, 3);

}  // namespace

TEST_CASE("one key: its value for any ridge") {
  const matrix k = keys.topRows(1), v = values.topRows(1);
  for (const double ridge : {1e-4, 1.0, 1e4}) {
    const answer a = both(queries, k, v, ridge, {.scale = 0.3});
    CHECK(distance(a.o, v.replicate(6, 1)) == 0);
    CHECK(distance(a.mean, k.replicate(6, 1)) == 0);
    CHECK(distance(ridge * a.slope, queries.rowwise() - k.row(0)) < 1e-14);
    CHECK((a.lse - 0.3 * queries * k.transpose()).cwiseAbs().maxCoeff() < 1e-15);
  }
}

TEST_CASE("local_linear: equal keys, the mean of the values") {
  const answer a = both(queries, keys.topRows(1).replicate(23, 1), values, 0.1);
  CHECK(distance(a.o, values.colwise().mean().replicate(6, 1)) < 1e-14);
  CHECK(distance(0.1 * a.slope, queries.rowwise() - keys.row(0)) < 1e-14);
}

TEST_CASE("local_linear: two keys by hand") {
  const matrix q{{2.0}}, k{{1.0}, {-1.0}}, v{{10.0}, {20.0}};
  const answer a = both(q, k, v, 0.25, {.scale = 0.5});  // scores 1 and -1
  const double p = 1 / (1 + std::exp(-2.0)), mean = 2 * p - 1, variance = 4 * p * (1 - p);
  const double y = (2 - mean) / (variance + 0.25);
  CHECK(a.mean(0, 0) == Approx(mean).epsilon(1e-14));
  CHECK(a.slope(0, 0) == Approx(y).epsilon(1e-14));
  CHECK(a.o(0, 0) == Approx(10 * p * (1 + (1 - mean) * y) + 20 * (1 - p) * (1 + (-1 - mean) * y)).epsilon(1e-13));
  CHECK(a.lse(0) == Approx(std::log(std::exp(1.0) + std::exp(-1.0))).epsilon(1e-14));
}

TEST_CASE("a large ridge: softmax attention, from which it departs as 1 / ridge") {
  const matrix expected = softmax(queries, keys, values);
  CHECK(distance(both(queries, keys, values, inf).o, expected) < 1e-14);
  CHECK(centred(queries, keys, values, inf).slope.cwiseAbs().maxCoeff() == 0);
  CHECK(distance(both(queries, keys, values, 1e15).o, expected) < 1e-13);
  const matrix first = 1e5 * (both(queries, keys, values, 1e5).o - expected);
  for (index_t i = 0; i < 6; ++i) {  // Cov(v, k) (q - mean)
    const Eigen::RowVectorXd scores = queries.row(i) * keys.transpose() / 2;
    const Eigen::VectorXd p =
        (scores.array() - scores.maxCoeff()).exp() / (scores.array() - scores.maxCoeff()).exp().sum();
    const Eigen::RowVectorXd mean = p.transpose() * keys;
    const matrix covariance = values.transpose() * p.asDiagonal() * (keys.rowwise() - mean);
    CHECK((first.row(i).transpose() - covariance * (queries.row(i) - mean).transpose()).cwiseAbs().maxCoeff() < 1e-3);
  }
}

TEST_CASE("affine values and a small ridge: the affine function of the query, inside the keys and outside") {
  const matrix a = random_matrix(4, 3, 4), b = random_matrix(1, 3, 5);
  for (const double far : {1.0, 5.0}) {
    const matrix q = far * queries, v = (keys * a).rowwise() + b.row(0), expected = (q * a).rowwise() + b.row(0);
    CHECK(distance(both(q, keys, v, 1e-9, {.scale = 0.1}, 1e-9).o, expected) < 1e-6);
    CHECK(distance(softmax(q, keys, v), expected) > 0.5);
  }
}

TEST_CASE("fewer keys than dims and a small ridge: the pseudo-inverse") {
  const matrix k = keys.topRows(3), v = values.topRows(3);
  const answer a = both(queries, k, v, 1e-9, {.scale = 0}, 1e-6);
  const matrix x = k.rowwise() - k.colwise().mean();
  const matrix slope = x.completeOrthogonalDecomposition().pseudoInverse() * v;
  CHECK(distance(a.o, ((queries.rowwise() - k.colwise().mean()) * slope).rowwise() + v.colwise().mean()) < 1e-7);
}

TEST_CASE("scale 0: ridge regression with an intercept") {
  const answer a = both(queries, keys, values, 0.7, {.scale = 0});
  const Eigen::RowVectorXd mean = keys.colwise().mean();
  const matrix x = keys.rowwise() - mean, c = x.transpose() * x / 23 + 0.7 * matrix::Identity(4, 4);
  const matrix slope = c.ldlt().solve(x.transpose() * values) / 23;
  CHECK(distance(a.o, ((queries.rowwise() - mean) * slope).rowwise() + values.colwise().mean()) < 1e-13);
  CHECK(distance(a.mean, mean.replicate(6, 1)) < 1e-15);
}

TEST_CASE("the weights sum to 1, and move the mean key to q - ridge y") {
  for (const double ridge : {1e-4, 0.1, 10.0}) {
    const answer a = both(queries, keys, keys, ridge, {.scale = 1.3}, 1e-10);
    CHECK(distance(a.o, queries - ridge * a.slope) < 1e-12);
    CHECK(distance(both(queries, keys, matrix::Ones(23, 1), ridge, {}, 1e-10).o, matrix::Ones(6, 1)) < 1e-12);
  }
}

TEST_CASE("what leaves the result alone, and what it follows") {
  const answer a = both(queries, keys, values, 0.3);
  matrix twice_k(46, 4), twice_v(46, 3);
  twice_k << keys, keys;
  twice_v << values, values;
  CHECK(distance(both(queries, twice_k, twice_v, 0.3).o, a.o) < 1e-12);
  CHECK(distance(both(queries, keys, values, 0.3, {.score = [](double s, const heed::position&) { return s + 40; }}).o,
                 a.o) < 1e-12);
  CHECK(distance(both(queries, keys.colwise().reverse(), values.colwise().reverse(), 0.3).o, a.o) < 1e-13);
  CHECK(distance(both(queries.colwise().reverse(), keys, values, 0.3).o.colwise().reverse(), a.o) == 0);
  const matrix turn = random_matrix(4, 4, 8).householderQr().householderQ();
  CHECK(distance(both(queries * turn, keys * turn, values, 0.3).o, a.o) < 1e-12);
  CHECK(distance(both(3 * queries, 3 * keys, values, 9 * 0.3, {.scale = 0.5 / 9}).o, a.o) < 1e-12);
  const matrix offset = random_matrix(1, 3, 9);
  CHECK(distance(both(queries, keys, (-2.5 * values).rowwise() + offset.row(0), 0.3).o,
                 (-2.5 * a.o).rowwise() + offset.row(0)) < 1e-12);
  CHECK(distance(both(queries, keys, values, 0.3, {.mask = heed::causal(), .align = heed::top_left}).o.row(0),
                 values.row(0)) == 0);
}

// The ridge counts relative to the sum of the weights; taken as it is, it would depend on the largest score.
TEST_CASE("other ridges and other centres are another answer") {
  const matrix right = both(queries, keys, values, 0.3).o;
  CHECK(distance(right, stacked(queries, keys, values, 0.6)) > 1e-2);
  for (index_t i = 0; i < 6; ++i) {
    const Eigen::VectorXd scores = keys * queries.row(i).transpose() / 2;
    const Eigen::VectorXd w = (scores.array() - scores.maxCoeff()).exp();
    const matrix z = keys.rowwise() - queries.row(i);
    const auto off = [&](const Eigen::VectorXd& weights, double penalty) {
      return (heed_test::intercept(z, values, weights, penalty) - right.row(i).transpose()).cwiseAbs().maxCoeff();
    };
    CHECK(off(w, 0.3 * w.sum()) < 1e-12);
    CHECK(off(w, 0.3) > 1e-3);
    CHECK(off(scores.array().exp(), 0.3 * scores.array().exp().sum()) < 1e-12);
    CHECK(off(scores.array().exp(), 0.3) > 1e-3);
  }
}

TEST_CASE("apply: 0 is softmax, the slopes of forward give its o, minus a probe is Parallax") {
  const options how{.mask = heed::causal()};
  const answer a = both(queries, keys, values, 0.3, how);
  answer b = a;
  options again = how;
  again.lse = b.lse, again.mean_key = b.mean;
  b.lse.setZero(), b.mean.setZero();
  heed::reference::local_linear::apply(queries, keys, values, a.slope, b.o, again);
  CHECK(distance(a.o, b.o) < 1e-13);
  CHECK((a.lse == b.lse && a.mean == b.mean));
  const matrix zero = matrix::Zero(6, 4), probe = random_matrix(6, 4, 7), minus = -probe;
  heed::reference::local_linear::apply(queries, keys, values, zero, b.o, how);
  CHECK(distance(b.o, softmax(queries, keys, values, how)) < 1e-14);
  heed::reference::local_linear::apply(queries, keys, values, minus, b.o, how);
  const matrix weighted = softmax(queries, keys, values, how);
  for (index_t i = 0; i < 6; ++i) {  // v-bar (1 + r . k-bar) - sum_j p_j (r . k_j) v_j
    const matrix scaled = (keys * probe.row(i).transpose()).asDiagonal() * values;
    const matrix product = softmax(queries, keys, scaled, how);
    CHECK(distance(b.o.row(i), weighted.row(i) * (1 + probe.row(i).dot(a.mean.row(i))) - product.row(i)) < 1e-13);
  }
}

TEST_CASE("rows that see no key: 0, -inf, no slope") {
  const answer a = both(queries, keys.topRows(3), values.topRows(3), 0.5, {.mask = heed::causal()});  // places -3 .. 2
  CHECK((a.o.topRows(3).cwiseAbs().maxCoeff() == 0 && a.slope.topRows(3).cwiseAbs().maxCoeff() == 0));
  CHECK((a.mean.topRows(3).cwiseAbs().maxCoeff() == 0 && a.lse.head(3).maxCoeff() == -inf));
  CHECK((a.lse(3) > -inf && a.report.direct_rows == 3));
  const answer none = both(queries, keys.topRows(0), values.topRows(0), 0.5);
  CHECK((none.o.cwiseAbs().maxCoeff() == 0 && none.lse.maxCoeff() == -inf && none.report.direct_rows == 0));
}

TEST_CASE("hidden keys are not read into anything, visible NaN reaches its rows") {
  matrix bad_k = keys, bad_v = values;
  bad_k.bottomRows(9).setConstant(std::nan("")), bad_v.bottomRows(9).setConstant(inf);
  const std::vector<std::int32_t> seen{14};
  const answer a = both(queries, keys.topRows(14), values.topRows(14), 0.2);
  CHECK(distance(both(queries, bad_k, bad_v, 0.2, {.mask = heed::key_lengths(seen)}).o, a.o) < 1e-14);
  const matrix hides = (matrix(1, 23) << matrix::Zero(1, 14), matrix::Constant(1, 9, -inf)).finished();
  CHECK(distance(both(queries, bad_k, bad_v, 0.2, {.bias = hides}).o, a.o) < 1e-14);
  const options by_score{.score = [](double s, const heed::position& at) { return at.key >= 14 ? -inf : s; }};
  CHECK(distance(centred(queries, bad_k, bad_v, 0.2, by_score).o, a.o) < 1e-14);
  const options causal{.mask = heed::causal(), .align = heed::top_left};
  matrix nan_k = keys, nan_v = values;
  nan_k(3, 1) = std::nan(""), nan_v(3, 1) = std::nan("");
  const answer by_key = centred(queries, nan_k, values, 0.2, causal),
               by_value = centred(queries, keys, nan_v, 0.2, causal), clean = both(queries, keys, values, 0.2, causal);
  for (index_t i = 0; i < 6; ++i) {
    CHECK(std::isnan(by_key.o(i, 0)) == (i >= 3));
    CHECK(std::isnan(by_key.lse(i)) == (i >= 3));
    CHECK(std::isnan(by_key.slope(i, 0)) == (i >= 3));
    CHECK((std::isnan(by_value.o(i, 1)) == (i >= 3) && by_value.o(i, 0) == clean.o(i, 0)));
  }
}

TEST_CASE("stiff systems: solved to rounding") {
  matrix doubled = keys;
  for (index_t j = 0; j < 23; j += 2) doubled.row(j) = keys.row(0);
  const matrix far = keys.array() + 1000;
  for (const double ridge : {1e-4, 1e-8})
    for (const matrix& k : {keys, doubled, matrix(100 * keys), far, matrix(keys.topRows(2)), queries}) {
      const matrix v = values.topRows(k.rows());
      const answer a = centred(queries, k, v, ridge, {.scale = 0.01});
      CHECK((a.report.unconverged == 0 && a.report.max_residual < 1e-8));
      CHECK(distance(a.o, stacked(queries, k, v, ridge, {.scale = 0.01})) < 1e-5 * a.o.cwiseAbs().maxCoeff());
    }
}

TEST_CASE("local_linear: float and bf16 inputs are computed in double") {
  const Eigen::MatrixXf q = queries.cast<float>(), k = keys.cast<float>(), v = values.cast<float>();
  using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix o(6, 3);
  heed::reference::local_linear::forward(rows(q), rows(k), rows(v), 0.1f, o);
  CHECK(distance(o, both(q.cast<double>(), k.cast<double>(), v.cast<double>(), 0.1f).o) < 1e-14);
  std::vector<heed::bf16_t> half;
  for (const matrix* m : {&queries, &keys, &values})
    for (index_t i = 0; i < m->size(); ++i) half.push_back(heed::bf16_t(static_cast<float>(m->data()[i])));
  std::vector<double> wide;
  for (const heed::bf16_t x : half) wide.push_back(static_cast<double>(static_cast<float>(x)));
  const auto part = [](auto* p, index_t first, index_t n, index_t d) { return heed::matrix(p + first, n, d); };
  matrix exact(6, 3);
  heed::reference::local_linear::forward(part(half.data(), 0, 6, 4), part(half.data(), 24, 23, 4),
                                         part(half.data(), 116, 23, 3), 0.1, o);
  heed::reference::local_linear::forward(part(wide.data(), 0, 6, 4), part(wide.data(), 24, 23, 4),
                                         part(wide.data(), 116, 23, 3), 0.1, exact);
  CHECK(distance(o, exact) == 0);
}
