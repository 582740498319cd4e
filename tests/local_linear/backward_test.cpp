// SPDX-License-Identifier: BSD-3-Clause

// local_linear::backward beside the reference: shapes, solvers, ridges, layouts, what forward has left and what it has
// not, and any choice of gradients.

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_backward_case.hpp"

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

// Several tiles; groups in both directions; few rows; fewer keys than dims
constexpr shape shapes[] = {{1, 1, 1, 70, 90, 20, 12},
                            {2, 4, 2, 37, 53, 20, 12},
                            {2, 1, 3, 40, 33, 16, 17},
                            {1, 7, 1, 2, 100, 9, 5},
                            {1, 2, 2, 25, 10, 24, 8}};

template <class T> heed::local_linear::options<T> tight(const heed::mask& mask = {}) {
  return {.mask = mask, .tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-6};
}

}  // namespace

TEST_CASE("local linear: gradients of every shape, dense and causal") {
  const heed::plan plan = local_linear_backward<float>({1, 1, 1, 500, 500, 64, 64}).backward_plan();
  INFO(plan.problem.data());
  REQUIRE(plan.ok());
  std::size_t turn = 0;
  for (const shape& s :
       shape_list(plan.query_tile > 0 ? plan.query_tile : 32, plan.key_tile > 0 ? plan.key_tile : 32)) {
    if (turn++ % (2 * thinning) != 0) continue;
    check_fit<float>(s, 0.5, {.mask = turn % 4 == 1 ? heed::causal() : heed::mask{}});
  }
}

TEST_CASE("local linear: gradients by every solver, from what forward has left and anew") {
  std::size_t turn = 0;
  for (const shape& s : shapes)
    for (const solver how : solvers)
      for (const heed::mask& mask : {heed::mask{}, heed::causal()})
        for (const int left : {0, 1, 2, 3}) {
          if (turn++ % thinning != 0) continue;
          heed::local_linear::options<float> options = tight<float>(mask);
          options.solver = how;
          local_linear_backward<float> x(s, 0.5, options);
          if (left == 1) x.forget();
          if (left == 2) x.options.slope = {};
          if (left == 3) x.options.mean_key = {};
          INFO("left " << left);
          check(x);
        }
}

TEST_CASE("local linear: gradients in double") {
  std::size_t turn = 0;
  for (const shape& s : shapes)
    for (const solver how : {solver::automatic, solver::direct})
      for (const bool anew : {false, true}) {
        if (turn++ % thinning != 0) continue;
        heed::local_linear::options<double> options = tight<double>(heed::causal());
        options.solver = how;
        local_linear_backward<double> x(s, 0.5, options);
        if (anew) x.forget();
        check(x);
      }
}

TEST_CASE("local linear: gradients for ridges from small to infinite, one or one each") {
  for (const shape& s : shapes) {
    if (thinning > 1 && &s != &shapes[1]) continue;
    for (const double ridge : {0.01, 0.1, 10.0, 1e4, inf}) {
      INFO("ridge " << ridge);
      check_fit<float>(s, ridge, tight<float>(heed::causal()));
      check_fit<double>(s, ridge, tight<double>());
    }
    std::vector<float> each(static_cast<std::size_t>(s.out_heads()), 0.25f);
    local_linear_backward<float> one(s, 0.25, tight<float>()), many(s, each, tight<float>());
    check(one), check(many);
    CHECK(same_gradients(one, many));
    for (std::size_t h = 0; h < each.size(); ++h)
      each[h] = h == 1 ? std::numeric_limits<float>::infinity() : 0.25f * static_cast<float>(h + 1);
    local_linear_backward<float> different(s, each, tight<float>(heed::causal()));
    check(different);
    if (each.size() > 1) CHECK(different.dridge(0, 0, 0, 1) == 0);
  }
}

TEST_CASE("local linear: gradients for head dims around the vectors, and a large one") {
  for (index_t d = 1; d <= 35; d += thinning == 1 ? 2 : 10)
    check_fit<float>({1, 1, 1, 33, 40, d, 36 - d}, 0.5, tight<float>());
  check_fit<float>({1, 2, 1, 20, 40, 128, 70}, 0.5, tight<float>());
}

TEST_CASE("local linear: gradients without queries, keys, batches or heads") {
  for (const shape& s : {shape{1, 2, 1, 0, 5, 8, 8}, shape{2, 2, 1, 5, 0, 8, 8}, shape{0, 2, 1, 5, 6, 8, 8},
                         shape{1, 0, 0, 5, 6, 8, 8}, shape{1, 1, 1, 0, 0, 8, 8}})
    for (const bool anew : {false, true}) {
      local_linear_backward<float> x(s);
      if (anew) x.forget();
      check(x);
    }
}

TEST_CASE("local linear: gradients in every layout of every tensor have the same bits") {
  for (const shape& s : {shapes[1], shapes[2], shapes[3]})
    for (const bool anew : {false, true}) {
      local_linear_backward<float> plain(s, 0.5, tight<float>(heed::causal()));
      if (anew) plain.forget();
      check(plain);
      for (std::size_t turn = 0; turn < std::size(output_layouts); ++turn) {
        const auto pick = [&](std::size_t step) {
          return output_layouts[(turn * step + step) % std::size(output_layouts)];
        };
        const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
        local_linear_backward<float> x(s, 0.5, tight<float>(heed::causal()), in,
                                       {pick(3), pick(2), pick(1), pick(4), pick(5), pick(1)});
        if (anew) x.forget();
        check(x);
        CHECK(same_gradients(x, plain));
      }
    }
}

TEST_CASE("local linear: any choice of gradients: those, and nothing else, with the bits of all of them") {
  for (const shape& s : shapes) {
    std::vector<float> bias(static_cast<std::size_t>(s.queries * s.keys));
    random_numbers random(4);
    for (float& b : bias) b = static_cast<float>(random.normal());
    heed::local_linear::options<float> how = tight<float>(heed::causal());
    how.bias = {bias.data(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}};
    local_linear_backward<float> all(s, 0.5, how);
    check(all);
    for (int choice = 0; choice < 32; ++choice) {
      INFO(to_string(s) << ", choice " << choice);
      local_linear_backward<float> x(s, 0.5, how);
      if ((choice & 1) == 0) x.wanted.dq = {};
      if ((choice & 2) == 0) x.wanted.dk = {};
      if ((choice & 4) == 0) x.wanted.dv = {};
      if ((choice & 8) == 0) x.wanted.dbias = {};
      if ((choice & 16) == 0) x.wanted.dridge = {};
      x.forward(), x.backward();
      const auto as_wanted = [](const void* wanted, const buffer<float>& got, const buffer<float>& full) {
        return wanted != nullptr ? same_bits(got, full) : got.untouched();
      };
      CHECK(as_wanted(x.wanted.dq.data(), x.dq, all.dq));
      CHECK(as_wanted(x.wanted.dk.data(), x.dk, all.dk));
      CHECK(as_wanted(x.wanted.dv.data(), x.dv, all.dv));
      CHECK(as_wanted(x.wanted.dbias.data(), x.dbias, all.dbias));
      CHECK(as_wanted(x.wanted.dridge.data(), x.dridge, all.dridge));
    }
  }
}

TEST_CASE("local linear: gradients are overwritten, and the second call has the bits of the first") {
  for (const shape& s : shapes) {
    local_linear_backward<float> x(s, 0.5, tight<float>());
    x.forward(), x.backward();
    const auto first = buffer<float>::output(x.dk.size());
    local_linear_backward<float> y(s, 0.5, tight<float>());
    y.forward();
    for (buffer<float>* each : {&y.dq, &y.dk, &y.dv, &y.dridge}) each->fill(1e30f);
    y.backward();
    CHECK((same_bits(x.dq, y.dq) && same_bits(x.dk, y.dk) && same_bits(x.dv, y.dv) && same_bits(x.dridge, y.dridge)));
  }
}

TEST_CASE("local linear: the report of backward, and not_converged without one") {
  local_linear_backward<float> x({1, 1, 1, 40, 60, 32, 8}, 1e-4,
                                 {.solver = solver::conjugate_gradient, .tolerance = 1e-6, .max_iterations = 2});
  x.forward();
  x.backward();
  CHECK(x.report->unconverged > 0);
  CHECK(x.report->max_residual > 1e-6);
  x.options.report = nullptr;
  CHECK_THROWS_AS(x.backward(), heed::not_converged);
  local_linear_backward<float> y({1, 1, 1, 40, 60, 32, 8}, 0.5, {.tolerance = 1e-5});
  y.forward();
  y.backward();
  CHECK(y.report->unconverged == 0);
  CHECK(y.report->max_residual <= 1e-5);
  y.options.report = nullptr;
  CHECK_NOTHROW(y.backward());
}
