// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits and the same report whoever runs the tasks in whatever order; no allocation
// in planned memory.

#include <algorithm>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/local_linear_case.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

// Many rows, groups, more key/value heads, rows that see nothing, few keys
constexpr shape shapes[] = {{2, 4, 2, 150, 130, 20, 12},
                            {1, 1, 1, 300, 300, 16, 16},
                            {1, 2, 6, 70, 90, 8, 8},
                            {1, 1, 1, 90, 20, 8, 8},
                            {2, 2, 2, 3, 9, 64, 5}};

auto in_context(local_linear_case<float>& x) {
  return verb_in{[&x](const heed::context& where) { return x.plan(where); },
                 [&x](const heed::context& where) { x.forward(where); }};
}

template <class T> bool same(const local_linear_case<T>& a, const local_linear_case<T>& b) {
  const auto &x = *a.report, &y = *b.report;
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse) && same_bits(a.slope, b.slope) && same_bits(a.mean, b.mean) &&
         x.max_residual == y.max_residual && x.mean_iterations == y.mean_iterations &&
         x.mean_tile_iterations == y.mean_tile_iterations && x.max_iterations == y.max_iterations &&
         x.unconverged == y.unconverged && x.direct_rows == y.direct_rows;
}

template <class T> void any_executor() {
  for (const shape& s : shapes)
    for (const solver how : solvers) {
      INFO(to_string(s) << ", " << name_of(how));
      const heed::local_linear::options<T> options{.mask = heed::causal(), .solver = how};
      local_linear_case<T> serial(s, 0.5, options);
      serial.forward();
      for (const index_t workers : {1, 2, 5})
        for (const order in : {order::forward, order::reversed, order::shuffled})
          for (const bool threads : {false, true}) {
            if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
            INFO(workers << " workers");
            test_executor executor(workers, in, threads);
            local_linear_case<T> x(s, 0.5, options);
            x.forward({.executor = executor});
            CHECK(same(x, serial));
            CHECK_FALSE(executor.asked_too_much());
            CHECK(executor.phases() >= 1);
          }
    }
}

}  // namespace

TEST_CASE("the same bits and the same report for any executor, float") { any_executor<float>(); }
TEST_CASE("the same bits and the same report for any executor, double") { any_executor<double>(); }

TEST_CASE("apply: the same bits for any executor") {
  for (const shape& s : shapes) {
    local_linear_case<float> serial(s, 0.5, {.mask = heed::causal()});
    auto slope = buffer<float>::input(serial.slope.size());
    random_numbers random(4);
    slope.randomize(random);
    serial.apply(slope);
    for (const order in : {order::reversed, order::shuffled}) {
      test_executor executor(3, in, true);
      local_linear_case<float> x(s, 0.5, {.mask = heed::causal()});
      x.apply(slope, {.executor = executor});
      CHECK((same_bits(x.o, serial.o) && same_bits(x.lse, serial.lse) && same_bits(x.mean, serial.mean)));
    }
  }
}

TEST_CASE("rows that fail to converge are counted over all workers, and throw once") {
  for (const index_t workers : {1, 4}) {
    test_executor executor(workers, order::shuffled, true);
    local_linear_case<float> x({1, 2, 1, 200, 100, 16, 4}, 0.01,
                               {.solver = solver::conjugate_gradient, .max_iterations = 3});
    x.forward({.executor = executor});
    CHECK(x.report->unconverged > 300);
    x.options.report = nullptr;
    CHECK_THROWS_AS(x.forward({.executor = executor}), heed::not_converged);
  }
}

TEST_CASE("no allocation in the planned workspace, whatever its alignment and content; one without") {
  for (const shape& s : shapes)
    for (const solver how : solvers)
      for (const index_t workers : {1, 3}) {
        INFO(to_string(s) << ", " << name_of(how));
        const heed::local_linear::options<float> options{.mask = heed::causal(), .solver = how};
        local_linear_case<float> x(s, 0.5, options), y(s, 0.5, options);
        y.forward();
        REQUIRE(x.plan().workspace_bytes > 0);
        check_workspaces(
            in_context(x), workers, [&] { x.o.poison(), x.lse.poison(), x.slope.poison(), x.mean.poison(); },
            [&] { return same(x, y); });
      }
  local_linear_case<float> empty({1, 1, 1, 0, 5, 8, 8});
  CHECK((in_context(empty).allocations_of({}) == 0 && empty.plan().workspace_bytes == 0));
}

TEST_CASE("a workspace that is too small is an error with both numbers") {
  for (const solver how : solvers) {
    local_linear_case<float> x(shapes[0], 0.5, {.solver = how});
    check_small_workspace(in_context(x), 1, [&] {
      return x.o.untouched() && x.lse.untouched() && x.slope.untouched() && x.mean.untouched();
    });
  }
}

TEST_CASE("what score functions and predicates throw reaches the caller, from any executor; no report is written") {
  const auto call = [](auto& x, const heed::context& where) { x.forward(where); };
  for (const solver how : solvers) {
    INFO(name_of(how));
    const auto make = [&](fuse& f) {
      const auto score = [&f](float x, const heed::position&) { return f.burn(), x; };
      return local_linear_case<float>({2, 2, 1, 40, 30, 8, 8}, 0.5,
                                      {.mask = heed::causal(), .score = score, .solver = how});
    };
    CHECK(mishandled_anywhere(make, call, same<float>) == "");
    fuse f{100};
    auto x = make(f);
    x.report->max_iterations = 1234;
    CHECK(outcome_of([&] { x.forward(); }) == "text");
    CHECK(x.report->max_iterations == 1234);
  }
  const auto apply = [](auto& x, const heed::context& where) { x.apply(x.slope, where); };
  const auto make = [&](fuse& f) {
    const auto visible = [&f](const heed::position&) { return f.burn(), true; };
    local_linear_case<double> x({2, 2, 1, 40, 30, 8, 8}, 0.5, {.mask = heed::visible_if(visible)});
    x.slope.fill(0.1);
    return x;
  };
  const auto equal = [](const auto& a, const auto& b) { return same_bits(a.o, b.o) && same_bits(a.lse, b.lse); };
  CHECK(mishandled_anywhere(make, apply, equal) == "");
}
