// SPDX-License-Identifier: BSD-3-Clause

// Numbers at the ends of their ranges: hidden keys of any size, slopes far longer than keys, ridges and tolerances that
// T cannot tell from nothing, everything scaled far up or down.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

template <class T> void scale(buffer<T>& x, double factor) {
  x.each([&](T& e) { e = static_cast<T>(factor * static_cast<double>(e)); });
}
template <class T> double largest(const buffer<T>& x) {
  double most = 0;
  x.each([&](const T& e) { most = std::max(most, std::abs(static_cast<double>(e))); });
  return most;
}
// Keys in a cloud of radius `noise` around a place of its own
void crowd_keys(local_linear_case<float>& x, double noise) {
  scale(x.k, noise);
  for (index_t d = 0; d < x.s.dim; ++d)
    for (index_t j = 0; j < x.s.keys; ++j) x.k(0, 0, j, d) += 2 * x.q(0, 0, 0, d);
}
struct error_size {
  double worst = 0, size = 0;  // the largest error of o, the largest |o|
};
error_size error_of(const local_linear_case<float>& x) {
  error_size out;
  for (const fitted_row& f : fitted(x, x.ridge, x.options))
    for (index_t e = 0; e < x.s.value_dim; ++e) {
      const auto o = static_cast<double>(f.o(e));
      out.worst = std::max(out.worst, std::abs(static_cast<double>(x.o(0, 0, f.query, e)) - o));
      out.size = std::max(out.size, std::abs(o));
    }
  return out;
}
template <class T> constexpr double eps = static_cast<double>(std::numeric_limits<T>::epsilon());

}  // namespace

TEMPLATE_TEST_CASE("hidden keys of any finite size leave the bits alone", "", float, double) {
  using T = TestType;
  const shape s{1, 1, 1, 20, 20, 8, 8};
  for (const solver how : solvers)
    for (const double sign : {-1.0, 1.0}) {
      INFO(name_of(how));
      local_linear_case<T> small(s, 0.1, {.mask = heed::causal(), .solver = how}),
          huge = local_linear_case<T>(s, 0.1, {.mask = heed::causal(), .solver = how});
      for (index_t d = 0; d < s.dim; ++d)
        huge.k(0, 0, 19, d) = static_cast<T>(sign * 0.9 * static_cast<double>(std::numeric_limits<T>::max()));
      small.forward(), huge.forward();
      bool same = true;
      for (index_t i = 0; i < 19; ++i)
        for (index_t e = 0; e < 8; ++e)
          same = same && small.o(0, 0, i, e) == huge.o(0, 0, i, e) && small.slope(0, 0, i, e) == huge.slope(0, 0, i, e);
      CHECK(same);
    }
}

// Weights 1 + (k - mean) . y whose product is 0 or should be, while k . y is of any size
TEMPLATE_TEST_CASE("one key gives its value whatever the ridge", "", float, double) {
  using T = TestType;
  for (const solver how : solvers)
    for (const double ridge : {1e-3, 1e-12, 1e-30}) {
      INFO(name_of(how) << ", ridge " << ridge);
      local_linear_case<T> x({1, 1, 1, 3, 1, 4, 5}, ridge, {.solver = how});
      x.forward();
      double worst = 0;
      for (index_t i = 0; i < 3; ++i)
        for (index_t e = 0; e < 5; ++e)
          worst = std::max(worst, std::abs(static_cast<double>(x.o(0, 0, i, e) - x.v(0, 0, 0, e))));
      CHECK(worst <= 4 * eps<T> * largest(x.v));
    }
}

TEMPLATE_TEST_CASE("long slopes of the caller move o by the rounding of k . y only", "", float, double) {
  using T = TestType;
  const shape s{1, 1, 1, 16, 40, 8, 6};
  for (const double length : {1.0, 1e2, 1e4, 1e6}) {
    INFO("slopes of " << length);
    local_linear_case<T> x(s);
    auto slope = buffer<T>::input({1, 1, 16, 8});
    random_numbers random(3);
    slope.randomize(random);
    scale(slope, length);
    x.apply(slope);
    auto view = slope.cview();
    const auto rows = fitted(x, x.ridge, x.options, &view);
    double worst = 0, size = 0;
    for (const fitted_row& f : rows)
      for (index_t e = 0; e < 6; ++e) {
        worst = std::max(worst, std::abs(static_cast<double>(x.o(0, 0, f.query, e)) - static_cast<double>(f.o(e))));
        size = std::max(size, std::abs(static_cast<double>(f.o(e))));
      }
    CHECK(worst <= 60 * eps<T> * size);
  }
}

// v = A k + b far outside of the keys: o is large, and its error is small beside it.
TEST_CASE("regression carries far") {
  for (const double far : {1.0, 1e3, 1e5}) {
    INFO("queries times " << far);
    local_linear_case<float> x({1, 1, 1, 20, 60, 4, 3}, 1e-3, {.scale = 0});
    for (index_t j = 0; j < 60; ++j)
      for (index_t e = 0; e < 3; ++e) x.v(0, 0, j, e) = 2 * x.k(0, 0, j, e) - x.k(0, 0, j, 3) + static_cast<float>(e);
    scale(x.q, far);
    x.forward();
    const auto rows = fitted(x, x.ridge, x.options);
    double worst = 0, size = 0;
    for (const fitted_row& f : rows)
      for (index_t e = 0; e < 3; ++e) {
        worst = std::max(worst, std::abs(static_cast<double>(x.o(0, 0, f.query, e)) - static_cast<double>(f.o(e))));
        size = std::max(size, std::abs(static_cast<double>(f.o(e))));
      }
    CHECK(worst <= 1e-4 * size);
    CHECK(x.report->unconverged == 0);
  }
}

TEST_CASE("automatic reaches tolerances that float cannot") {
  for (const double tolerance : {1e-7, 1e-10, 1e-12}) {
    local_linear_case<float> x({1, 1, 1, 20, 50, 12, 5}, 0.3, {.tolerance = tolerance});
    x.forward();
    INFO("tolerance " << tolerance << ", largest residual " << x.report->max_residual);
    CHECK(x.report->unconverged == 0);
    CHECK(compare(x, fitted(x, x.ridge, x.options)).worst <= 1);
  }
}

// Keys and queries times a, scale / a^2, ridge a^2: the same problem, in numbers whose squares or products overflow.
TEMPLATE_TEST_CASE("the same problem far up and far down", "", float, double) {
  using T = TestType;
  const shape s{1, 1, 1, 20, 50, 8, 5};
  local_linear_case<T> plain(s, 0.3);
  plain.forward();
  for (const double a : {1e-12, 1e-6, 1e6, 1e13, 1e17}) {
    local_linear_case<T> x(s, 0.3 * a * a, {.scale = 1 / (std::sqrt(8.0) * a * a)});
    scale(x.q, a), scale(x.k, a);
    x.forward();
    INFO("times " << a << ", largest residual " << x.report->max_residual);
    CHECK(x.report->unconverged == 0);
    double worst = 0;
    for (index_t i = 0; i < 20; ++i)
      for (index_t e = 0; e < 5; ++e)
        worst = std::max(worst, std::abs(static_cast<double>(x.o(0, 0, i, e) - plain.o(0, 0, i, e))));
    CHECK(worst <= 1e-4 * largest(plain.o));
  }
}

// Keys near each other and far from 0: (k - mean) . y of T loses what k . y and mean . y have in common.
TEST_CASE("keys close together beside their mean") {
  for (const double noise : {1e-2, 1e-3, 1e-4})
    for (const double ridge : {1e-2, 1e-4})
      for (const solver how : solvers) {
        local_linear_case<float> x({1, 1, 1, 32, 64, 16, 4}, ridge, {.scale = 0.1, .solver = how});
        crowd_keys(x, noise);
        x.forward();
        const auto [worst, size] = error_of(x);
        INFO("noise " << noise << ", ridge " << ridge << ", " << name_of(how) << ", off by " << worst / size
                      << ", residual " << x.report->max_residual << ", unconverged " << x.report->unconverged);
        if (how != solver::conjugate_gradient) {
          CHECK(x.report->unconverged == 0);
          CHECK(worst <= 2e-5 * size);
        } else {
          CHECK((worst <= 1e-4 * size || x.report->unconverged > 0));  // never silent
        }
      }
}

// The mean of their values; or the report says that it is not.
TEST_CASE("equal keys in double under ridges that are almost 0") {
  for (const index_t dim : {2, 8})
    for (const double ridge : {1e-12, 1e-20, 1e-24, 1e-30, 1e-40})
      for (const solver how : solvers) {
        local_linear_case<double> x({1, 1, 1, 8, 40, dim, 4}, ridge, {.scale = 0.1, .solver = how});
        for (index_t j = 1; j < 40; ++j)
          for (index_t d = 0; d < dim; ++d) x.k(0, 0, j, d) = x.k(0, 0, 0, d);
        x.forward();
        double worst = 0;
        for (index_t e = 0; e < 4; ++e) {
          double mean = 0;
          for (index_t j = 0; j < 40; ++j) mean += x.v(0, 0, j, e) / 40;
          for (index_t i = 0; i < 8; ++i) worst = std::max(worst, std::abs(x.o(0, 0, i, e) - mean));
        }
        INFO("D " << dim << ", ridge " << ridge << ", " << name_of(how) << ", off by " << worst);
        CHECK((worst <= 1e-5 * largest(x.v) || x.report->unconverged == 8));
        if (ridge >= 1e-20 && how != solver::conjugate_gradient) CHECK(x.report->unconverged == 0);
      }
}

// Fewer keys than dimensions, and many keys of a plane: C is singular but for the ridge.
TEST_CASE("double reaches small residuals under small ridges") {
  for (const index_t keys : {20, 31, 60})
    for (const double ridge : {1e-4, 1e-8, 1e-12})
      for (const solver how : {solver::automatic, solver::direct}) {
        local_linear_case<double> x({1, 1, 1, 12, keys, 32, 4}, ridge, {.solver = how, .tolerance = 1e-9});
        for (index_t j = 20; j < keys; ++j)
          for (index_t d = 0; d < 32; ++d) x.k(0, 0, j, d) = x.k(0, 0, j - 20, d) - x.k(0, 0, (j * 7) % 20, d);
        x.forward();
        INFO(keys << " keys, ridge " << ridge << ", " << name_of(how) << ", residual " << x.report->max_residual);
        if (keys == 20 || ridge >= 1e-4)
          CHECK(x.report->unconverged == 0);
        else  // keys that are differences of others: 1e-15 of the variance over the ridge is more than the tolerance
          CHECK(x.report->unconverged > 0);
      }
}

TEST_CASE("equal keys share what is theirs, or it is reported") {
  for (const double up : {1.0, 1e3, 1e5}) {
    local_linear_case<float> x({1, 1, 1, 1, 4, 4, 1}, 1e-6, {.scale = 0, .solver = solver::direct});
    for (index_t d = 0; d < 4; ++d) x.k(0, 0, 1, d) = x.k(0, 0, 0, d);
    scale(x.k, up);
    x.v(0, 0, 0, 0) = 3, x.v(0, 0, 1, 0) = -3, x.v(0, 0, 2, 0) = 1, x.v(0, 0, 3, 0) = 2;
    x.forward();
    const float one = x.o(0, 0, 0, 0);
    const index_t unsure = x.report->unconverged;
    std::swap(x.v(0, 0, 0, 0), x.v(0, 0, 1, 0));
    x.forward();
    INFO("times " << up << ": " << one << ", " << x.o(0, 0, 0, 0));
    if (unsure == 0) CHECK(x.o(0, 0, 0, 0) == Approx(one).epsilon(1e-4));
    CHECK((up > 1 || unsure == 0));
  }
}

// As one with an infinite ridge, by every solver; and rows that cannot move do not use up the iterations.
TEMPLATE_TEST_CASE("huge ridges and huge keys", "", float, double) {
  using T = TestType;
  const shape s{1, 1, 1, 20, 50, 8, 5};
  for (const solver how : solvers) {
    local_linear_case<T> x(s, 1e300, {.solver = how}), plain(s, std::numeric_limits<double>::infinity());
    x.forward(), plain.forward();
    INFO(name_of(how));
    CHECK(x.report->unconverged == 0);
    double worst = 0;
    for (index_t i = 0; i < 20; ++i)
      for (index_t e = 0; e < 5; ++e)
        worst = std::max(worst, std::abs(static_cast<double>(x.o(0, 0, i, e) - plain.o(0, 0, i, e))));
    CHECK(worst <= 4 * eps<T> * largest(x.v));
  }
  local_linear_case<T> far(s, 1.0, {.scale = 0, .solver = solver::conjugate_gradient, .max_iterations = 50000});
  scale(far.k, 0.01 * std::sqrt(static_cast<double>(std::numeric_limits<T>::max())));
  scale(far.k, 1e3);
  far.forward();
  CHECK(far.report->max_iterations < 100);
  CHECK(far.report->unconverged == 20);
}

// Squares of the slopes or of the mean are no numbers of float any more.
TEST_CASE("keys close together beside their mean, far up") {
  for (const solver how : solvers)
    for (const double up : {1e11, 1e13, 1e15, 1e17})
      for (const double noise : {1e-2, 1e-3}) {
        local_linear_case<float> x({1, 1, 1, 16, 64, 16, 3}, 1e-4 * up * up, {.scale = 0.1 / (up * up), .solver = how});
        crowd_keys(x, noise);
        scale(x.k, up), scale(x.q, up);
        x.forward();
        const auto [worst, size] = error_of(x);
        INFO(name_of(how) << ", times " << up << ", noise " << noise << ", off by " << worst / size << ", unconverged "
                          << x.report->unconverged);
        CHECK((worst <= 1e-4 * size || x.report->unconverged > 0));
        if (how != solver::conjugate_gradient) CHECK(x.report->unconverged == 0);
      }
}

TEST_CASE("slopes beyond the range of T are no silent NaN") {
  for (const solver how : solvers)
    for (const index_t dim : {3, 16}) {
      INFO(name_of(how) << ", D " << dim);
      local_linear_case<float> x({1, 1, 1, 4, 1, dim, 5}, 1e-37, {.solver = how});
      scale(x.q, 1e4);
      x.forward();
      if (how == solver::conjugate_gradient)
        CHECK(x.report->unconverged == 4);
      else
        for (index_t i = 0; i < 4; ++i)
          for (index_t e = 0; e < 5; ++e) CHECK(x.o(0, 0, i, e) == Approx(x.v(0, 0, 0, e)));
    }
}

TEST_CASE("a row without a key is 0 whatever its slope") {
  const std::vector<std::int32_t> none{0};
  local_linear_case<float> x({1, 1, 1, 3, 9, 4, 2}, 0.5, {.mask = heed::key_lengths(none)});
  auto slope = buffer<float>::input({1, 1, 3, 4});
  slope.each([](float& e) { e = std::numeric_limits<float>::quiet_NaN(); });
  x.apply(slope);
  CHECK(largest(x.o) == 0);
  x.forward();
  CHECK(largest(x.o) == 0);
  CHECK(largest(x.slope) == 0);
}
