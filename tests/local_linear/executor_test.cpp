// SPDX-License-Identifier: BSD-3-Clause

// Executors and workspaces: the same bits and the same report whoever runs the tasks in whatever order; no allocation
// in planned memory.

#include <algorithm>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"
#include "support/local_linear_case.hpp"
#include "support/throwing.hpp"

using namespace heed_test;

namespace {

// Many rows, groups, more key/value heads, rows that see nothing, few keys
constexpr shape shapes[] = {{2, 4, 2, 150, 130, 20, 12},
                            {1, 1, 1, 300, 300, 16, 16},
                            {1, 2, 6, 70, 90, 8, 8},
                            {1, 1, 1, 90, 20, 8, 8},
                            {2, 2, 2, 3, 9, 64, 5}};

struct plain_executor {  // in reverse, without allocating
  heed::index_t workers;
  heed::index_t concurrency() const { return workers; }
  template <class F> void parallel_for(heed::index_t n, F&& f) {
    for (heed::index_t i = n; i-- > 0;) f(i);
  }
};

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

TEST_CASE("no allocation in the planned workspace, whatever its alignment and content") {
  for (const shape& s : shapes)
    for (const solver how : solvers)
      for (const index_t workers : {1, 3}) {
        INFO(to_string(s) << ", " << name_of(how) << ", " << workers << " workers");
        plain_executor executor{workers};
        const heed::local_linear::options<float> options{.mask = heed::causal(), .solver = how};
        local_linear_case<float> x(s, 0.5, options), y(s, 0.5, options);
        y.forward();
        const std::size_t bytes = x.plan({.executor = executor}).workspace_bytes;
        for (const std::size_t misaligned : {std::size_t{63}, std::size_t{1}, std::size_t{0}}) {
          if (thinning > 1 && misaligned != 63) continue;
          std::vector<std::byte> memory(bytes + 200, std::byte{0xff});
          const heed::context ctx{.executor = executor, .workspace = {memory.data() + 64 + misaligned, bytes}};
          const long before = allocations;
          x.forward(ctx);
          const long after = allocations;
          CHECK(after == before);
          CHECK(same(x, y));
          const auto untouched = [](std::byte b) { return b == std::byte{0xff}; };
          const auto shift = static_cast<std::ptrdiff_t>(misaligned);
          CHECK(std::all_of(memory.begin(), memory.begin() + 64 + shift, untouched));
          CHECK(std::all_of(memory.end() - 136 + shift, memory.end(), untouched));
        }
      }
}

TEST_CASE("without a workspace: one allocation, none where none is needed") {
  for (const shape& s : shapes) {
    local_linear_case<float> x(s);
    REQUIRE(x.plan().workspace_bytes > 0);
    const long before = allocations;
    x.forward();
    const long after = allocations;
    CHECK(after - before == 1);
  }
  local_linear_case<float> empty({1, 1, 1, 0, 5, 8, 8});
  const long before = allocations;
  empty.forward();
  const long after = allocations;
  CHECK((after == before && empty.plan().workspace_bytes == 0));
}

TEST_CASE("a workspace that is too small is an error with both numbers") {
  for (const solver how : solvers) {
    local_linear_case<float> x(shapes[0], 0.5, {.solver = how});
    const std::size_t bytes = x.plan().workspace_bytes;
    for (const std::size_t size : {std::size_t{1}, bytes - 1}) {
      std::vector<std::byte> memory(size);
      const heed::context ctx{.workspace = memory};
      const std::string problem = x.plan(ctx).problem.data();
      INFO(problem);
      CHECK(problem.find("workspace") != std::string::npos);
      CHECK(problem.find(std::to_string(size)) != std::string::npos);
      CHECK(problem.find(std::to_string(bytes)) != std::string::npos);
      std::string thrown;
      try {
        x.forward(ctx);
      } catch (const heed::error& e) {
        thrown = e.what();
      }
      CHECK(thrown == problem);
      CHECK((x.o.untouched() && x.lse.untouched() && x.slope.untouched() && x.mean.untouched()));
    }
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
