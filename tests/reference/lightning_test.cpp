// SPDX-License-Identifier: BSD-3-Clause

// The reference of lightning attention: its two forms beside each other, and closed forms.

#include "heed/reference/lightning.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "heed/reference/linear.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using options = heed::lightning::options<double>;
using decay = heed::decay<double>;
namespace reference = heed::reference::lightning;
constexpr double inf = std::numeric_limits<double>::infinity();

matrix random_matrix(index_t rows, index_t columns, std::uint32_t seed) {
  heed_test::random_numbers random(seed);
  matrix m(rows, columns);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = random.normal();
  return m;
}
matrix forward(const matrix& q, const matrix& k, const matrix& v, const decay& how, const options& rest = {}) {
  matrix o(q.rows(), v.cols());
  reference::forward(q, k, v, how, o, rest);
  return o;
}
matrix quadratic(const matrix& q, const matrix& k, const matrix& v, const decay& how, const options& rest = {}) {
  matrix o(q.rows(), v.cols());
  reference::quadratic(q, k, v, how, o, rest);
  return o;
}
double apart(const matrix& a, const matrix& b) {
  return a.size() == 0 ? 0 : (a - b).cwiseAbs().maxCoeff() / std::max(1.0, b.cwiseAbs().maxCoeff());
}

struct numbers {
  index_t n = 12, d = 5, e = 4;
  matrix q = random_matrix(n, d, 1), k = random_matrix(n, d, 2), v = random_matrix(n, e, 3), s = random_matrix(d, e, 4);
  Eigen::VectorXd gates(std::uint32_t seed) const {
    heed_test::random_numbers random(seed);
    Eigen::VectorXd g(n);
    for (double& x : g) x = -random.uniform();
    return g;
  }
};

}  // namespace

TEST_CASE("both forms agree: slopes, gates, masks, an initial state") {
  const numbers x;
  const std::vector<std::int32_t> seen{7}, at{0, 5, 5, 12}, each{3, 0, 7};
  Eigen::VectorXd g = x.gates(5), cut = x.gates(6);
  g(3) = 0, cut(4) = cut(9) = -inf;
  const std::vector<double> none{0}, some{0.3}, strong{30}, all{inf};
  const matrix states = random_matrix(3 * x.d, x.e, 7);
  for (const decay& how :
       {decay(none), decay(some), decay(strong), decay(all), heed::log_gates(g), heed::log_gates(cut)})
    for (const heed::mask& mask : {heed::mask(), heed::key_lengths(seen), heed::packed(at, at),
                                   heed::packed(at, at) & heed::key_lengths(each)}) {
      options rest{.mask = mask, .scale = 0.7};
      rest.initial_state.s = {states.data(), {3, 1, x.d, x.e}, {x.d * x.e, 0, x.e, 1}};
      CHECK(apart(forward(x.q, x.k, x.v, how, rest), quadratic(x.q, x.k, x.v, how, rest)) < 1e-13);
    }
}

TEST_CASE("two tokens by hand: the diagonal has weight 1, the state counts its newest token undecayed") {
  const matrix q = (matrix(2, 1) << 2, 3).finished(), k = (matrix(2, 1) << 5, 7).finished(),
               v = (matrix(2, 1) << 11, 13).finished();
  const std::vector<double> slopes{std::log(2.0)};  // lambda = 1/2
  matrix s(1, 1);
  options rest{.scale = 10};
  rest.final_state.s = s;
  const matrix o = forward(q, k, v, slopes, rest);
  CHECK(o(0, 0) == Approx(10 * 2 * 5 * 11));
  CHECK(o(1, 0) == Approx(10 * 3 * (0.5 * 5 * 11 + 7 * 13)));
  CHECK(s(0, 0) == Approx(0.5 * 5 * 11 + 7 * 13));
}

TEST_CASE("no decay is linear attention without a normaliser") {
  const numbers x;
  const std::vector<double> none{0};
  matrix o(x.n, x.e);
  heed::reference::linear::forward(x.q, x.k, x.v, o,
                                   {.mask = heed::causal(), .feature = heed::feature::identity, .normalize = false});
  CHECK(apart(forward(x.q, x.k, x.v, none), o) < 1e-14);
}

TEST_CASE("slope +inf remembers one token; equal gates are a slope; -inf cuts, even what is not a number") {
  const numbers x;
  const std::vector<double> all{inf}, slope{0.25};
  const matrix newest = forward(x.q, x.k, x.v, all);
  for (index_t i = 0; i < x.n; ++i)
    CHECK((newest.row(i) - x.q.row(i).dot(x.k.row(i)) * x.v.row(i)).cwiseAbs().maxCoeff() < 1e-14);
  const Eigen::VectorXd same = Eigen::VectorXd::Constant(x.n, -0.25);
  CHECK(apart(forward(x.q, x.k, x.v, heed::log_gates(same)), forward(x.q, x.k, x.v, slope)) < 1e-14);

  Eigen::VectorXd g = x.gates(5);
  g(5) = -inf;
  matrix k = x.k;
  k(2, 1) = std::nan("");
  const matrix o = forward(x.q, k, x.v, heed::log_gates(g));
  const Eigen::VectorXd rest = g.tail(x.n - 5);
  CHECK(std::isnan(o(4, 0)));
  CHECK(apart(o.bottomRows(x.n - 5), forward(x.q.bottomRows(x.n - 5), x.k.bottomRows(x.n - 5), x.v.bottomRows(x.n - 5),
                                             heed::log_gates(rest))) < 1e-14);
}

TEST_CASE("a call split anywhere, its state carried, is the whole call") {
  const numbers x;
  const std::vector<double> slope{0.25};
  const Eigen::VectorXd g = x.gates(5);
  for (const bool gated : {false, true})
    for (index_t cut = 0; cut <= x.n; ++cut) {
      const Eigen::VectorXd a = g.head(cut), b = g.tail(x.n - cut);
      matrix s = x.s, whole_s(x.d, x.e), o(x.n, x.e);
      options rest;
      rest.initial_state.s = x.s, rest.final_state.s = whole_s;
      const matrix whole = forward(x.q, x.k, x.v, gated ? heed::log_gates(g) : decay(slope), rest);
      rest.initial_state.s = rest.final_state.s = s;
      reference::forward(x.q.topRows(cut), x.k.topRows(cut), x.v.topRows(cut),
                         gated ? heed::log_gates(a) : decay(slope), o.topRows(cut), rest);
      reference::decode(x.q.bottomRows(x.n - cut), x.k.bottomRows(x.n - cut), x.v.bottomRows(x.n - cut),
                        gated ? heed::log_gates(b) : decay(slope), {.s = s}, o.bottomRows(x.n - cut));
      CHECK(apart(o, whole) < 1e-14);
      CHECK(apart(s, whole_s) < 1e-14);
    }
}

TEST_CASE("decay heads: one per query head, or one per key/value head shared by its group") {
  const index_t n = 6, d = 3, e = 2;
  const matrix q = random_matrix(4 * n, d, 1), k = random_matrix(2 * n, d, 2), v = random_matrix(2 * n, e, 3);
  const std::vector<double> four{0.1, 0.2, 0.3, 0.4}, two{0.1, 0.3};
  const auto all = [&](const std::vector<double>& slopes) {
    matrix o(4 * n, e);
    reference::forward(heed::tensor_view<const double, 4>(q.data(), {1, 4, n, d}, {0, n * d, d, 1}),
                       heed::tensor_view<const double, 4>(k.data(), {1, 2, n, d}, {0, n * d, d, 1}),
                       heed::tensor_view<const double, 4>(v.data(), {1, 2, n, e}, {0, n * e, e, 1}), slopes,
                       heed::tensor_view<double, 4>(o.data(), {1, 4, n, e}, {0, n * e, e, 1}));
    return o;
  };
  for (index_t h = 0; h < 4; ++h) {
    const auto alone = [&](double slope) {
      const std::vector<double> one{slope};
      return forward(q.middleRows(h * n, n), k.middleRows(h / 2 * n, n), v.middleRows(h / 2 * n, n), one);
    };
    CHECK(apart(all(four).middleRows(h * n, n), alone(four[static_cast<std::size_t>(h)])) == 0);
    CHECK(apart(all(two).middleRows(h * n, n), alone(two[static_cast<std::size_t>(h / 2)])) == 0);
  }
}

TEST_CASE("padding neither enters nor decays the memory, and reads it") {
  const numbers x;
  const std::vector<double> slope{0.25};
  const std::vector<std::int32_t> seen{8};
  matrix s(x.d, x.e), short_s(x.d, x.e);
  options rest{.mask = heed::key_lengths(seen)}, alone;
  rest.final_state.s = s, alone.final_state.s = short_s;
  const matrix o = forward(x.q, x.k, x.v, slope, rest);
  CHECK(apart(o.topRows(8), forward(x.q.topRows(8), x.k.topRows(8), x.v.topRows(8), slope, alone)) == 0);
  CHECK(apart(s, short_s) == 0);
  CHECK(apart(o.bottomRows(4), x.q.bottomRows(4) * s) < 1e-14);
}
