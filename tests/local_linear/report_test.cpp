// SPDX-License-Identifier: BSD-3-Clause

// What the report counts, and what happens without one.

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "support/catch.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

constexpr shape size{1, 2, 1, 30, 50, 16, 4};
template <class T> using how = heed::local_linear::options<T>;

// |C y - r| / |r| of every row after one step of conjugate gradients from 0, in double
template <class T> std::vector<double> after_one_step(const local_linear_case<T>& x, double ridge) {
  namespace reference = heed::reference::local_linear::detail;
  std::vector<double> all;
  reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), x.options, [&](const reference::row& row) {
    if (row.p.size() == 0) return;
    const reference::matrix& about = row.x;
    const reference::vector r = row.q - row.mean;
    const reference::vector image =
        about.transpose() * row.p.cwiseProduct(about * r) + static_cast<reference::real>(ridge) * r;
    const reference::vector rest = r - r.squaredNorm() / r.dot(image) * image;
    all.push_back(static_cast<double>(rest.norm() / r.norm()));
  });
  return all;
}

template <class T> void one_step() {
  for (const heed::mask& mask : {heed::mask{}, heed::causal()})
    for (const double tolerance : {1e-5, 0.2}) {
      local_linear_case<T> x(size, 0.5, {.mask = mask, .align = heed::top_left});
      x.options.tolerance = tolerance, x.options.max_iterations = 1;
      const std::vector<double> left = after_one_step(x, 0.5);
      const auto above = std::count_if(left.begin(), left.end(), [&](double e) { return e > tolerance; });
      REQUIRE(above > 0);
      x.options.solver = solver::conjugate_gradient;
      x.forward();
      CHECK(x.report->unconverged == above);
      CHECK(x.report->max_residual == Approx(*std::max_element(left.begin(), left.end())).epsilon(1e-4));
      CHECK((x.report->max_iterations == 1 && x.report->direct_rows == 0));
      CHECK((x.report->mean_iterations == 1 && x.report->mean_tile_iterations == 1));
      x.options.solver = solver::automatic;  // finishes what is left
      x.forward();
      CHECK((x.report->unconverged == 0 && x.report->max_residual <= tolerance));
      CHECK(x.report->direct_rows >= above);
    }
}

template <class T> void true_residual() {
  namespace reference = heed::reference::local_linear::detail;
  for (const solver with : solvers) {
    local_linear_case<T> x(size, 0.5, {.solver = with, .tolerance = 1e-3});
    x.forward();
    double worst = 0;
    reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), x.options, [&](const reference::row& row) {
      const reference::matrix& about = row.x;
      const reference::vector r = row.q - row.mean;
      reference::vector y(r.size());
      for (index_t c = 0; c < y.size(); ++c) y(c) = x.slope(row.batch, row.head, row.query, c);
      const reference::vector rest = r - about.transpose() * row.p.cwiseProduct(about * y) - 0.5L * y;
      worst = std::max(worst, static_cast<double>(rest.norm() / r.norm()));
    });
    INFO(name_of(with) << ": " << worst << ", reported " << x.report->max_residual);
    if (with == solver::direct)  // the slopes are rounded to T
      CHECK((x.report->max_residual < (std::is_same_v<T, double> ? 1e-13 : 1e-6) && worst < 1e-5));
    else
      CHECK(x.report->max_residual == Approx(worst).epsilon(1e-2));
  }
}

}  // namespace

TEST_CASE("one iteration: what it leaves, counted and measured") {
  one_step<float>();
  one_step<double>();
}
TEST_CASE("the largest residual is that of the slopes") {
  true_residual<float>();
  true_residual<double>();
}

TEST_CASE("the direct solver counts the rows that have something to solve") {
  const std::vector<double> some{0.5, HUGE_VAL};
  const auto direct = [](const shape& s, const heed::per_head& ridge, heed::mask mask) {
    local_linear_case<float> x(s, ridge, {.mask = mask, .solver = solver::direct});
    x.forward();
    CHECK((x.report->mean_iterations == 0 && x.report->mean_tile_iterations == 0 && x.report->max_iterations == 0));
    return x.report->direct_rows;
  };
  CHECK(direct(size, 0.5, {}) == 60);
  CHECK(direct(size, some, {}) == 30);
  CHECK(direct(size, HUGE_VAL, {}) == 0);
  CHECK(direct({2, 2, 1, 30, 20, 8, 4}, 0.5, heed::causal()) == 80);  // places -10 .. 19
  CHECK(direct({1, 2, 4, 5, 7, 8, 4}, 0.5, {}) == 20);
  CHECK(direct({1, 2, 1, 5, 0, 8, 4}, 0.5, {}) == 0);
  CHECK(direct({1, 2, 1, 0, 5, 8, 4}, 0.5, {}) == 0);
}

TEST_CASE("iterations: within bounds, fewer for a larger ridge or tolerance, none without anything to solve") {
  const auto run = [](double ridge, double tolerance, const shape& s = {1, 2, 1, 200, 300, 32, 4}) {
    local_linear_case<float> x(s, ridge, {.mask = heed::causal(), .solver = solver::conjugate_gradient});
    x.options.tolerance = tolerance;
    x.forward();
    const heed::local_linear::report& r = *x.report;
    CHECK(r.mean_iterations <= r.mean_tile_iterations);
    CHECK(r.mean_tile_iterations <= static_cast<double>(r.max_iterations));
    CHECK((r.max_iterations <= x.options.max_iterations && r.direct_rows == 0));
    return r;
  };
  const auto usual = run(1, 1e-5), large = run(10, 1e-5), loose = run(1, 1e-2);
  CHECK((usual.mean_iterations > 3 && usual.mean_iterations < 20 && usual.unconverged == 0));
  CHECK((large.mean_iterations >= 1 && large.mean_iterations < usual.mean_iterations));
  CHECK((loose.mean_iterations >= 1 && loose.mean_iterations < usual.mean_iterations));
  CHECK(usual.max_residual > 1e-7);
  const auto nothing = run(HUGE_VAL, 1e-5), no_keys = run(1, 1e-5, {1, 2, 1, 20, 0, 32, 4});
  CHECK((nothing.max_iterations == 0 && nothing.mean_iterations == 0 && nothing.mean_tile_iterations == 0));
  CHECK((no_keys.max_iterations == 0 && no_keys.mean_iterations == 0 && no_keys.max_residual == 0));
}

TEST_CASE("automatic prefers iterations where keys are many, and solves few keys directly") {
  local_linear_case<float> many({1, 1, 1, 40, 300, 32, 4}, 1.0), few({1, 1, 1, 40, 4, 32, 4}, 1.0);
  many.forward(), few.forward();
  CHECK((many.report->direct_rows == 0 && many.report->mean_iterations > 0));
  CHECK((few.report->direct_rows == 40 && few.report->mean_iterations == 0));
}

TEST_CASE("a report is overwritten, and apply leaves it alone") {
  local_linear_case<float> x(size);
  *x.report = {9, 9, 9, 9, 9, 9};
  x.options.solver = solver::direct;
  x.forward();
  CHECK((x.report->max_residual < 1 && x.report->mean_iterations == 0 && x.report->unconverged == 0));
  *x.report = {9, 9, 9, 9, 9, 9};
  x.apply(x.slope);
  CHECK((x.report->max_residual == 9 && x.report->unconverged == 9));
}

TEST_CASE("without a report a named solver throws what it would have reported, after all is written") {
  local_linear_case<float> x(size, 0.5, {.solver = solver::conjugate_gradient, .max_iterations = 2}),
      y(size, 0.5, x.options);
  y.options.lse = y.lse.view3(), y.options.slope = y.slope.view(), y.options.mean_key = y.mean.view();
  x.forward();
  REQUIRE(x.report->unconverged > 0);
  y.options.report = nullptr;
  std::string text;
  try {
    y.forward();
  } catch (const heed::not_converged& e) {
    text = e.what();
  }
  INFO(text);
  CHECK(text.find(std::to_string(x.report->unconverged)) != std::string::npos);
  CHECK(text.find("1e-05") != std::string::npos);
  CHECK((same_bits(x.o, y.o) && same_bits(x.lse, y.lse) && same_bits(x.slope, y.slope) && same_bits(x.mean, y.mean)));
  y.options.solver = solver::automatic;
  CHECK_NOTHROW(y.forward());
  y.options.solver = solver::direct;
  CHECK_NOTHROW(y.forward());
}
