// SPDX-License-Identifier: BSD-3-Clause

// The reference of linear attention: its two forms beside each other, and closed forms.

#include "heed/reference/linear.hpp"

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::feature;
using heed::index_t;
using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using options = heed::linear::options<double>;
namespace reference = heed::reference::linear;

matrix random_matrix(index_t rows, index_t columns, std::uint32_t seed) {
  heed_test::random_numbers random(seed);
  matrix m(rows, columns);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = random.normal();
  return m;
}
matrix forward(const matrix& q, const matrix& k, const matrix& v, const options& how = {}) {
  matrix o(q.rows(), v.cols());
  reference::forward(q, k, v, o, how);
  return o;
}
matrix quadratic(const matrix& q, const matrix& k, const matrix& v, const options& how = {}) {
  matrix o(q.rows(), v.cols());
  reference::quadratic(q, k, v, o, how);
  return o;
}
double apart(const matrix& a, const matrix& b) {
  return a.size() == 0 ? 0 : (a - b).cwiseAbs().maxCoeff() / std::max(1.0, b.cwiseAbs().maxCoeff());
}
heed::state_view<double> state_of(matrix& s, Eigen::VectorXd& z) { return {s, z}; }

constexpr feature all_features[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                                    feature::silu,     feature::exp,          feature::softmax, feature::taylor};

}  // namespace

TEST_CASE("both forms agree for every feature, mask and alignment") {
  const std::vector<std::int32_t> seen{6}, at{2}, far{-3}, q_at{0, 4, 4, 9}, k_at{0, 5, 7, 11}, each{3, 2, 4};
  const std::vector<heed::mask> masks{{},
                                      heed::causal(),
                                      heed::key_lengths(seen),
                                      heed::causal() & heed::key_lengths(seen),
                                      heed::packed(q_at, k_at),
                                      heed::causal() & heed::packed(q_at, k_at) & heed::key_lengths(each)};
  const matrix q = random_matrix(9, 5, 1), k = random_matrix(11, 5, 2), v = random_matrix(11, 4, 3);
  for (const feature map : all_features)
    for (std::size_t m = 0; m < masks.size(); ++m)
      for (const heed::alignment& align : {heed::bottom_right, heed::top_left, heed::first_place(m < 4 ? at : each),
                                           heed::first_place(m < 4 ? far : each),
                                           m == 2 || m == 3 || m == 5 ? heed::end_of_lengths : heed::bottom_right})
        for (const bool normalize : {true, false}) {
          const bool signed_map = map == feature::identity || map == feature::silu;
          if (normalize && signed_map) continue;  // its denominators may be anything
          const options how{
              .mask = masks[m], .align = align, .scale = 0.7, .feature = map, .normalize = normalize, .eps = 1e-3};
          INFO("feature " << static_cast<int>(map) << ", mask " << m << ", normalize " << normalize);
          CHECK(apart(forward(q, k, v, how), quadratic(q, k, v, how)) < 1e-13);
        }
}

TEST_CASE("orthonormal keys are read back exactly") {
  const index_t d = 6;
  matrix k = random_matrix(d, d, 1);
  for (index_t i = 0; i < d; ++i) {
    for (int twice = 0; twice < 2; ++twice)
      for (index_t j = 0; j < i; ++j) k.row(i) -= k.row(i).dot(k.row(j)) * k.row(j);
    k.row(i).normalize();
  }
  const matrix v = random_matrix(d, 4, 2);
  const options how{.feature = feature::identity, .normalize = false};
  CHECK(apart(forward(k, k, v, how), v) < 1e-14);
}

TEST_CASE("random unit keys: the expected squared relative error of a read is (n - 1) / D") {
  const index_t d = 32, e = 16;
  for (const index_t n : {5, 20}) {
    double errors = 0;
    const int rounds = 60;
    for (int round = 0; round < rounds; ++round) {
      matrix k = random_matrix(n, d, 10 + static_cast<std::uint32_t>(round)),
             v = random_matrix(n, e, 500 + static_cast<std::uint32_t>(round));
      k.rowwise().normalize(), v.rowwise().normalize();
      errors += (forward(k, k, v, {.feature = feature::identity, .normalize = false}) - v).squaredNorm();
    }
    const double mean = errors / (rounds * static_cast<double>(n)), law = static_cast<double>(n - 1) / d;
    CHECK(mean == Approx(law).epsilon(0.1));
  }
}

TEST_CASE("features as their formulas say") {
  const matrix x = (matrix(1, 3) << -2, 0, 1.5).finished(), one = matrix::Ones(1, 1);
  // with one key and D' = D: o = phi(q).phi(k) v; a key e_i reads feature i of q where phi is the identity on it
  const auto phi = [&](feature map) {
    matrix s = matrix::Zero(3, 1), values(1, 3);
    Eigen::VectorXd z = Eigen::VectorXd::Zero(3);
    for (index_t i = 0; i < 3; ++i) {
      s.setZero(), s(i, 0) = 1;
      matrix o(1, 1);
      options how{.feature = map, .normalize = false};
      how.initial_state = state_of(s, z);
      const matrix none(0, 3), nothing(0, 1);
      reference::forward(x, none, nothing, o, how);
      values(0, i) = o(0, 0);
    }
    return values;
  };
  const auto row = [](double a, double b, double c) { return (matrix(1, 3) << a, b, c).finished(); };
  const double e2 = std::exp(-2.0), e15 = std::exp(1.5);
  CHECK(apart(phi(feature::identity), x) == 0);
  CHECK(apart(phi(feature::elu_plus_one), row(e2, 1, 2.5)) < 1e-15);
  CHECK(apart(phi(feature::relu), row(0, 0, 1.5)) == 0);
  CHECK(apart(phi(feature::relu_squared), row(0, 0, 2.25)) == 0);
  CHECK(apart(phi(feature::silu), row(-2 / (1 + 1 / e2), 0, 1.5 / (1 + 1 / e15))) < 1e-15);
  CHECK(apart(phi(feature::exp), row(e2, 1, e15)) < 1e-15);
  CHECK(apart(phi(feature::softmax), row(e2, 1, e15) / (e2 + 1 + e15)) < 1e-15);
}

TEST_CASE("taylor features multiply to 1 + s + s^2 / 2") {
  const matrix q = random_matrix(4, 5, 1), k = random_matrix(1, 5, 2), v = matrix::Ones(1, 1);
  const matrix o = forward(q, k, v, {.feature = feature::taylor, .normalize = false});
  for (index_t i = 0; i < 4; ++i) {
    const double s = q.row(i).dot(k.row(0));
    CHECK(o(i, 0) == Approx(1 + s + s * s / 2));
  }
}

TEST_CASE("a function of the caller's") {
  const matrix q = random_matrix(4, 5, 1), k = random_matrix(7, 5, 2), v = random_matrix(7, 3, 3);
  const double c = 3;
  const options mine{.feature = {[c](double x) { return x < 0 ? 0 : x * x + 0 * c; }, [](double x) { return 2 * x; }}};
  CHECK(apart(forward(q, k, v, mine), forward(q, k, v, {.feature = feature::relu_squared})) == 0);
}

TEST_CASE("normalised: weights sum to 1, and the first token reads itself") {
  const matrix q = random_matrix(6, 4, 1), k = random_matrix(6, 4, 2), v = random_matrix(6, 3, 3);
  const options how{.mask = heed::causal(), .eps = 0};
  CHECK(apart(forward(q, k, matrix::Constant(6, 3, 2.5), how), matrix::Constant(6, 3, 2.5)) < 1e-14);
  CHECK(apart(forward(q, k, v, how).row(0), v.row(0)) < 1e-14);
  CHECK(apart(forward(q, k, v, {.mask = heed::causal(), .scale = 7, .eps = 0}), forward(q, k, v, how)) < 1e-14);
}

TEST_CASE("scale and eps enter as the formula says") {
  const matrix q = random_matrix(1, 4, 1), k = random_matrix(1, 4, 2), v = matrix::Ones(1, 1);
  const auto phi = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
  const double s = q.unaryExpr(phi).row(0).dot(k.unaryExpr(phi).row(0));
  CHECK(forward(q, k, v, {.scale = 0.3, .eps = 0.2})(0, 0) == Approx(0.3 * s / (0.3 * s + 0.2)));
}

TEST_CASE("a call split anywhere, its state carried, is the whole call; rows that see no key") {
  const matrix q = random_matrix(9, 4, 1), k = random_matrix(9, 4, 2), v = random_matrix(9, 3, 3);
  for (const feature map : {feature::elu_plus_one, feature::taylor}) {
    const index_t r = map == feature::taylor ? 21 : 4;
    options how{.mask = heed::causal(), .feature = map};
    const matrix whole = forward(q, k, v, how);
    for (index_t cut = 0; cut <= 9; ++cut) {
      matrix s = matrix::Zero(r, 3), o(9, 3);
      Eigen::VectorXd z = Eigen::VectorXd::Zero(r);
      how.initial_state = how.final_state = state_of(s, z);
      reference::forward(q.topRows(cut), k.topRows(cut), v.topRows(cut), o.topRows(cut), how);
      reference::decode(q.bottomRows(9 - cut), k.bottomRows(9 - cut), v.bottomRows(9 - cut), state_of(s, z),
                        o.bottomRows(9 - cut), {.feature = map});
      CHECK(apart(o, whole) < 1e-14);
    }
  }
  const matrix early = forward(q, k.topRows(4), v.topRows(4), {.mask = heed::causal(), .eps = 0});
  CHECK(apart(early.topRows(5), matrix::Zero(5, 3)) == 0);  // places from -5 on
  CHECK(apart(early.bottomRows(4),
              forward(q.bottomRows(4), k.topRows(4), v.topRows(4), {.mask = heed::causal(), .eps = 0})) == 0);
}

TEST_CASE("heads that share keys and values, batches, layouts") {
  const index_t n = 5, d = 3, e = 2;
  const matrix q = random_matrix(2 * 4 * n, d, 1), k = random_matrix(2 * 2 * n, d, 2),
               v = random_matrix(2 * 2 * n, e, 3);
  matrix o(2 * 4 * n, e);
  reference::forward(heed::tensor_view<const double, 4>(q.data(), {2, 4, n, d}, {4 * n * d, d, 4 * d, 1}),
                     heed::tensor_view<const double, 4>(k.data(), {2, 2, n, d}, {2 * n * d, n * d, d, 1}),
                     heed::tensor_view<const double, 4>(v.data(), {2, 2, n, e}, {2 * n * e, n * e, e, 1}),
                     heed::tensor_view<double, 4>(o.data(), {2, 4, n, e}, {4 * n * e, n * e, e, 1}),
                     {.mask = heed::causal()});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h) {
      matrix mine(n, d);
      for (index_t i = 0; i < n; ++i) mine.row(i) = q.row((b * n + i) * 4 + h);
      const index_t at = (b * 2 + h / 2) * n;
      CHECK(apart(o.middleRows((b * 4 + h) * n, n),
                  forward(mine, k.middleRows(at, n), v.middleRows(at, n), {.mask = heed::causal()})) == 0);
    }
}
