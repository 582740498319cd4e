// SPDX-License-Identifier: BSD-3-Clause

// What the definition implies: limits in the ridge and in the scale, and what changes the result in a known way or not
// at all. Every solver, in float and double.

#include <cmath>
#include <functional>
#include <vector>

#include "heed/reference/softmax.hpp"

#include "support/catch.hpp"
#include "support/least_squares.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

constexpr shape size{1, 2, 1, 21, 45, 8, 5};
template <class T> using options_of = heed::local_linear::options<T>;
template <class T> using run = local_linear_case<T>;

// The tolerances of float and double, and what they leave in o for ridges of 0.1 and more
template <class T> constexpr double solved = std::is_same_v<T, double> ? 1e-13 : 1e-6;
template <class T> constexpr double close = std::is_same_v<T, double> ? 1e-11 : 3e-5;

template <class T> void each_solver(const std::function<void(options_of<T>)>& f) {
  for (const solver how : solvers) {
    INFO(name_of(how));
    f({.solver = how, .tolerance = solved<T>});
  }
}
template <class T> buffer<double> softmax_of(const run<T>& x) {
  auto o = buffer<double>::output(x.o.size());
  heed::reference::softmax::forward(x.q.cview(), x.k.cview(), x.v.cview(), o.view(), softmax_options(x.options));
  return o;
}
template <class A, class B> double apart(const buffer<A>& a, const buffer<B>& b) {
  double worst = 0;
  for (index_t i = 0; i < a.size()[0]; ++i)
    for (index_t h = 0; h < a.size()[1]; ++h)
      for (index_t n = 0; n < a.size()[2]; ++n)
        for (index_t e = 0; e < a.size()[3]; ++e) {
          const double difference = std::abs(static_cast<double>(a(i, h, n, e)) - static_cast<double>(b(i, h, n, e)));
          worst = std::isnan(difference) ? HUGE_VAL : std::max(worst, difference);
        }
  return worst;
}
template <class T> void copy(const buffer<T>& from, const buffer<T>& to, index_t first = 0) {  // rows to first + row
  for (index_t b = 0; b < from.size()[0]; ++b)
    for (index_t h = 0; h < from.size()[1]; ++h)
      for (index_t i = 0; i < from.size()[2]; ++i)
        for (index_t d = 0; d < from.size()[3]; ++d) to(b, h, first + i, d) = from(b, h, i, d);
}
template <class T> run<T> ran(const options_of<T>& how, double ridge = 0.5) {
  run<T> x(size, ridge, how);
  x.forward();
  return x;
}

template <class T> void ridge_to_infinity() {
  each_solver<T>([](const options_of<T>& how) {
    run<T> infinite(size, HUGE_VAL, how), huge(size, 1e30, how), large(size, 1e4, how), larger(size, 1e5, how);
    infinite.options.mask = huge.options.mask = large.options.mask = larger.options.mask = heed::causal();
    infinite.forward(), huge.forward(), large.forward(), larger.forward();
    const buffer<double> expected = softmax_of(infinite);
    const double rounding = std::is_same_v<T, double> ? 1e-14 : 3e-6;
    CHECK(apart(infinite.o, expected) < rounding);
    CHECK(apart(huge.o, expected) < rounding);
    CHECK((same_bits(infinite.lse, huge.lse) && same_bits(infinite.mean, huge.mean)));
    const double far = apart(large.o, expected), near = apart(larger.o, expected);
    CHECK((far > 1e-4 && far < 1e-2 && near < far / 9 && near > far / 11));  // as 1 / ridge
    bool zero = true;
    infinite.slope.each([&](T y) { zero = zero && y == 0; });
    CHECK(zero);
    CHECK((infinite.report->mean_iterations == 0 && infinite.report->direct_rows == 0));
  });
}

template <class T> void one_key_and_equal_keys() {
  each_solver<T>([](options_of<T> how) {
    for (const double ridge : {1e-4, 1.0}) {
      run<T> one({1, 2, 1, 21, 1, 8, 5}, ridge, how), causal(size, ridge, how);
      causal.options.mask = heed::causal(), causal.options.align = heed::top_left;
      one.forward(), causal.forward();
      for (index_t h = 0; h < 2; ++h)
        for (index_t e = 0; e < 5; ++e) {
          for (index_t i = 0; i < 21; ++i)
            CHECK(static_cast<double>(one.o(0, h, i, e)) ==
                  Approx(static_cast<double>(one.v(0, 0, 0, e))).epsilon(4 * close<T>));
          CHECK(static_cast<double>(causal.o(0, h, 0, e)) ==
                Approx(static_cast<double>(causal.v(0, 0, 0, e))).epsilon(4 * close<T>));
        }
    }
    run<T> equal(size, 0.5, how);
    for (index_t j = 0; j < 45; ++j)
      for (index_t d = 0; d < 8; ++d) equal.k(0, 0, j, d) = equal.k(0, 0, 0, d);
    equal.forward();
    CHECK(apart(equal.o, softmax_of(equal)) < close<T>);
  });
}

template <class T> void affine_values() {
  each_solver<T>([](options_of<T> how) {
    how.scale = 0.05, how.tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-5;
    run<T> x(size, std::is_same_v<T, double> ? 1e-9 : 1e-5, how);
    const auto affine = [](const buffer<T>& from, index_t h, index_t i, index_t e) {
      double sum = 0.25 * static_cast<double>(e);
      for (index_t d = 0; d < 8; ++d)
        sum += static_cast<double>((3 * d + 5 * e) % 7 - 3) / 4 * static_cast<double>(from(0, h, i, d));
      return sum;
    };
    for (index_t j = 0; j < 45; ++j)
      for (index_t e = 0; e < 5; ++e) x.v(0, 0, j, e) = static_cast<T>(affine(x.k, 0, j, e));
    x.forward();
    double worst = 0;
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 21; ++i)
        for (index_t e = 0; e < 5; ++e)
          worst = std::max(worst, std::abs(static_cast<double>(x.o(0, h, i, e)) - affine(x.q, h, i, e)));
    CHECK(worst < (std::is_same_v<T, double> ? 1e-7 : 1e-3));
    CHECK(apart(x.o, softmax_of(x)) > 1);
  });
}

template <class T> void scale_zero() {
  each_solver<T>([](options_of<T> how) {
    how.scale = 0;
    const run<T> x = ran<T>(how);
    Eigen::MatrixXd k(45, 8), v(45, 5);
    for (index_t j = 0; j < 45; ++j) {
      for (index_t d = 0; d < 8; ++d) k(j, d) = static_cast<double>(x.k(0, 0, j, d));
      for (index_t e = 0; e < 5; ++e) v(j, e) = static_cast<double>(x.v(0, 0, j, e));
    }
    const Eigen::RowVectorXd mean = k.colwise().mean(), level = v.colwise().mean();
    const Eigen::MatrixXd about = k.rowwise() - mean,
                          c = about.transpose() * about / 45 + 0.5 * Eigen::MatrixXd::Identity(8, 8),
                          coefficients = c.ldlt().solve(about.transpose() * v) / 45;
    double worst = 0;
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 21; ++i) {
        Eigen::RowVectorXd at(8);
        for (index_t d = 0; d < 8; ++d) at(d) = static_cast<double>(x.q(0, h, i, d)) - mean(d);
        const Eigen::RowVectorXd expected = level + at * coefficients;
        for (index_t e = 0; e < 5; ++e)
          worst = std::max(worst, std::abs(static_cast<double>(x.o(0, h, i, e)) - expected(e)));
      }
    CHECK(worst < close<T>);
  });
}

// o = q - ridge y where the values are the keys: the weights move the mean key there.
template <class T> void moments() {
  each_solver<T>([](const options_of<T>& how) {
    for (const double ridge : {0.1, 1.0, 10.0}) {
      run<T> x({1, 1, 1, 21, 45, 8, 8}, ridge, how);
      copy(x.k, x.v);
      x.forward();
      double worst = 0;
      for (index_t i = 0; i < 21; ++i)
        for (index_t d = 0; d < 8; ++d) {
          const auto at = [&](const buffer<T>& from) { return static_cast<double>(from(0, 0, i, d)); };
          worst = std::max(worst, std::abs(at(x.o) - at(x.q) + ridge * at(x.slope)));
        }
      CHECK(worst < close<T>);
    }
  });
}

template <class T> void values_follow() {
  each_solver<T>([](options_of<T> how) {
    const run<T> plain = ran<T>(how);
    run<T> moved(size, 0.5, how);  // o(a V + 1 c^T) = a o + c
    for (index_t j = 0; j < 45; ++j)
      for (index_t e = 0; e < 5; ++e) moved.v(0, 0, j, e) = T(-2) * moved.v(0, 0, j, e) + static_cast<T>(e);
    moved.forward();
    const auto expected = buffer<double>::output(plain.o.size());
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 21; ++i)
        for (index_t e = 0; e < 5; ++e)
          expected(0, h, i, e) = -2 * static_cast<double>(plain.o(0, h, i, e)) + static_cast<double>(e);
    CHECK(apart(moved.o, expected) < 4 * close<T>);
    for (const index_t most : {1, 64}) {  // equal values come out whatever the slopes are
      how.max_iterations = most;
      run<T> constant(size, 0.5, how);
      constant.v.fill(T(1.5));
      constant.forward();
      auto same = buffer<double>::output(constant.o.size());
      same.fill(1.5);
      CHECK(apart(constant.o, same) < (std::is_same_v<T, double> ? 1e-14 : 1e-6));
      CHECK((most > 1 || how.solver != solver::conjugate_gradient || constant.report->unconverged > 0));
    }
  });
}

template <class T> void nothing_changes() {
  each_solver<T>([](options_of<T> how) {
    const run<T> plain = ran<T>(how);
    run<T> twice({1, 2, 1, 21, 90, 8, 5}, 0.5, how);
    copy(plain.k, twice.k), copy(plain.k, twice.k, 45), copy(plain.v, twice.v), copy(plain.v, twice.v, 45);
    twice.forward();
    CHECK(apart(twice.o, plain.o) < close<T>);
    CHECK(apart(twice.mean, plain.mean) < close<T>);

    const std::vector<T> constant{T(20)};
    how.bias = {constant.data(), {1, 1, 1, 1}, {0, 0, 0, 0}};
    CHECK(apart(ran<T>(how).o, plain.o) < close<T>);
    how.bias = {};

    run<T> permuted(size, 0.5, how);
    for (index_t j = 0; j < 45; ++j) {
      for (index_t d = 0; d < 8; ++d) permuted.k(0, 0, j * 7 % 45, d) = plain.k(0, 0, j, d);
      for (index_t e = 0; e < 5; ++e) permuted.v(0, 0, j * 7 % 45, e) = plain.v(0, 0, j, e);
    }
    permuted.forward();
    CHECK(apart(permuted.o, plain.o) < close<T>);

    run<T> turned(size, 0.5, how), scaled(size, 16 * 0.5, how);
    const auto turn = [](const buffer<T>& x) {  // by 3-4-5 triangles in the planes of neighbours
      for (index_t h = 0; h < x.size()[1]; ++h)
        for (index_t i = 0; i < x.size()[2]; ++i)
          for (index_t d = 0; d + 1 < 8; ++d) {
            const double a = static_cast<double>(x(0, h, i, d)), b = static_cast<double>(x(0, h, i, d + 1));
            x(0, h, i, d) = static_cast<T>(0.6 * a + 0.8 * b), x(0, h, i, d + 1) = static_cast<T>(0.6 * b - 0.8 * a);
          }
    };
    turn(turned.q), turn(turned.k);
    turned.forward();
    CHECK(apart(turned.o, plain.o) < close<T>);
    CHECK(apart(turned.slope, plain.slope) > 0.1);

    scaled.options.scale = 1 / std::sqrt(8.0) / 16;
    scaled.q.each([](T& x) { x *= 4; }), scaled.k.each([](T& x) { x *= 4; });
    scaled.forward();
    CHECK(apart(scaled.o, plain.o) < close<T>);
    CHECK(apart(scaled.lse, plain.lse) < close<T>);
  });
}

}  // namespace

#define EACH_TYPE(name, function) \
  TEST_CASE(name) {               \
    function<float>();            \
    function<double>();           \
  }
EACH_TYPE("a large ridge is softmax attention", ridge_to_infinity)
EACH_TYPE("one key gives its value, equal keys the mean of theirs", one_key_and_equal_keys)
EACH_TYPE("affine values and a small ridge give the affine function of the query", affine_values)
EACH_TYPE("scale 0 is ridge regression with an intercept", scale_zero)
EACH_TYPE("values that are the keys give q - ridge y", moments)
EACH_TYPE("scaled and shifted values; equal values", values_follow)
EACH_TYPE("double keys, shifted scores, another order, a rotation, a scale: the same", nothing_changes)
