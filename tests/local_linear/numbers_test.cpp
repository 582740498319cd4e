// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0, and the control register of the caller is what it was.

#include <atomic>
#include <string>

#include "heed/core/error.hpp"
#include "support/catch.hpp"
#include "support/float_control.hpp"
#include "support/local_linear_case.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{1, 4, 2, 40, 50, 12, 9}, {1, 1, 1, 1, 3, 2, 1}};

template <class T> bool same_results(const local_linear_case<T>& a, const local_linear_case<T>& b) {
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse) && same_bits(a.slope, b.slope) && same_bits(a.mean, b.mean);
}

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : shapes) {
    for (const solver how : solvers) {
      local_linear_case<float> x(s, 0.5, {.mask = heed::causal(), .solver = how});
      check_control("forward", [&](const heed::context& where) { x.forward(where); });
      check_control("plan_forward", [&](const heed::context& where) { CHECK(x.plan(where).ok()); });
    }
    local_linear_case<float> x(s), solved(s), hard(s, 1e-6);
    solved.forward();
    check_control("apply", [&](const heed::context& where) { x.apply(solved.slope, where); });
    x.ridge = -1.0;
    check_control("an error", [&](const heed::context& where) { CHECK_THROWS_AS(x.forward(where), heed::error); });
    if (s.queries == 1) continue;
    hard.options.solver = solver::conjugate_gradient, hard.options.max_iterations = 1, hard.options.report = nullptr;
    check_control("rows that did not converge",
                  [&](const heed::context& where) { CHECK_THROWS_AS(hard.forward(where), heed::not_converged); });
  }
}

TEST_CASE("a score function runs with both bits set, on every thread") {
  static std::atomic<int> calls, wrong;
  calls = wrong = 0;
  local_linear_case<float> x(shapes[0]);
  x.options.score = [](float score, const heed::position&) {
    return ++calls, wrong += (read_control() & flushing) != flushing, score;
  };
  control_executor threads{.entered = read_control()};
  x.forward();
  x.forward({.executor = threads});
  CHECK(calls > 0);
  CHECK(wrong == 0);
  CHECK(threads.calls > 0);
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[local_linear]", float, double) {
  using T = TestType;
  if (!flushes) return;
  for (const shape& s : shapes)
    for (const std::string which : {"q", "k", "v"}) {
      for (const solver how : solvers) {
        INFO(to_string(s) << ", " << which << ", " << name_of(how));
        local_linear_case<T> x(s, 0.5, {.solver = how}), zeroed(s, 0.5, {.solver = how});
        if (which == "q") make_subnormal(x.q, zeroed.q);
        if (which == "k") make_subnormal(x.k, zeroed.k);
        if (which == "v") make_subnormal(x.v, zeroed.v);
        check(x, fitted(x, x.ridge, x.options)), zeroed.forward();
        CHECK(same_results(x, zeroed));
        make_subnormal(x.slope, zeroed.slope);
        local_linear_case<T> y(s), z(s);
        y.options.slope = {}, z.options.slope = {};
        y.apply(x.slope), z.apply(zeroed.slope);
        CHECK((same_bits(y.o, z.o) && same_bits(y.lse, z.lse)));
      }
    }
}
