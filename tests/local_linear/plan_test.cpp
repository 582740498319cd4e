// SPDX-License-Identifier: BSD-3-Clause

// What plan_forward and plan_apply say: the path and the workspace, which does not grow with the lengths.

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using options = heed::local_linear::options<float>;

struct plain_executor {
  heed::index_t workers;
  heed::index_t concurrency() const { return workers; }
  template <class F> void parallel_for(heed::index_t n, F&& f) {
    for (heed::index_t i = 0; i < n; ++i) f(i);
  }
};

// A call of any length on memory that nobody reads.
struct unread {
  float memory[5] = {};
  heed::tensor_view<float, 4> at(int i, index_t heads, index_t rows, index_t dim = 64) {
    return {memory + i, {1, heads, rows, dim}, {heads * rows * dim, rows * dim, dim, 1}};
  }
  heed::plan forward(index_t n, index_t m, const options& how = {}, const heed::context& where = {}, index_t dim = 64) {
    return run_plan_forward<float>(at(0, 4, n, dim), at(1, 2, m, dim), at(2, 2, m), 1.0, at(3, 4, n), how, where);
  }
  heed::plan apply(index_t n, index_t m, const options& how = {}, const heed::context& where = {}) {
    return run_plan_apply<float>(at(0, 4, n), at(1, 2, m), at(2, 2, m), at(4, 4, n), at(3, 4, n), how, where);
  }
};

}  // namespace

TEST_CASE("workspace: the same for any number of queries, bounded for any number of keys") {
  unread call;
  for (const solver how : solvers)
    for (const index_t workers : {1, 3}) {
      plain_executor executor{workers};
      const options with{.mask = heed::causal(), .solver = how};
      const auto bytes = [&](index_t n, index_t m) {
        const heed::plan plan = call.forward(n, m, with, {.executor = executor});
        REQUIRE(plan.ok());
        return plan.workspace_bytes;
      };
      const auto workers_bytes = static_cast<std::size_t>(workers) * (std::size_t{8} << 20);
      CHECK(bytes(1000, 1000) > 0);
      for (const index_t n : {3000, 10000, 100000}) {
        CHECK(bytes(n, 1000) == bytes(1000, 1000));
        CHECK(bytes(n, 200000) == bytes(1000, 200000));
        CHECK(bytes(n, n) <= bytes(1000, 200000));
      }
      CHECK(bytes(1000, 200000) == bytes(1000, 1000000));
      CHECK(bytes(1000, 200000) < workers_bytes);  // 8 MB for a worker at D = 64
      CHECK(bytes(1000, 1000) <= static_cast<std::size_t>(workers) * call.forward(1000, 1000, with).workspace_bytes);
      CHECK(call.apply(100000, 1000, with, {.executor = executor}).workspace_bytes ==
            call.apply(1000, 1000, with, {.executor = executor}).workspace_bytes);
    }
}

TEST_CASE("workspace: options do not make it grow with the lengths") {
  unread call;
  const std::vector<std::int32_t> one{1};
  const float bias[1] = {};
  const options list[] = {
      {.softcap = 3},
      {.alibi_slopes = 0.5},
      {.bias = {bias, {1, 1, 1, 1}, {0, 0, 0, 0}}},
      {.score = [](float x, const heed::position&) { return x; }},
      {.mask = heed::window(100, 0, 4)},
      {.mask = heed::key_lengths(one)},
      {.mask = heed::visible_if([](const heed::position&) { return true; })},
  };
  for (const options& how : list)
    CHECK(call.forward(10000, 200000, how).workspace_bytes == call.forward(100000, 400000, how).workspace_bytes);
}

TEST_CASE("workspace: what the solver needs and no more") {
  unread call;
  const auto bytes = [&](solver how) { return call.forward(2000, 2000, {.solver = how}).workspace_bytes; };
  CHECK(bytes(solver::automatic) >= bytes(solver::conjugate_gradient));
  CHECK(bytes(solver::automatic) >= bytes(solver::direct));
  CHECK(call.apply(2000, 2000).workspace_bytes < bytes(solver::conjugate_gradient));
  CHECK(call.forward(2000, 2000, {}, {}, 16).workspace_bytes < bytes(solver::automatic));
  CHECK(call.forward(0, 2000).workspace_bytes == 0);
}

TEST_CASE("the path names the solver, and the tasks are many") {
  unread call;
  const auto path = [&](solver how) { return std::string(call.forward(2000, 2000, {.solver = how}).path); };
  CHECK(path(solver::direct).find("direct") != std::string::npos);
  CHECK(path(solver::direct).find("conjugate") == std::string::npos);
  CHECK(path(solver::conjugate_gradient).find("conjugate gradients") != std::string::npos);
  CHECK(path(solver::conjugate_gradient).find("direct") == std::string::npos);
  CHECK(path(solver::automatic).find("conjugate gradients") != std::string::npos);
  CHECK(path(solver::automatic).find("direct") != std::string::npos);
  CHECK(std::string(call.apply(2000, 2000).path).find("given") != std::string::npos);
  const heed::plan plan = call.forward(2000, 2000);
  CHECK((plan.tasks >= 8 && plan.query_tile > 0 && plan.key_tile > 0));
  CHECK(std::string(plan.isa) != "");
}

TEST_CASE("a plan is good for every option and mask") {
  const shape s{2, 4, 2, 40, 90, 12, 9};
  const option_parts<float, options> parts(s);
  for (const auto& part : parts.all) {
    INFO(part.name);
    local_linear_case<float> x(s, 0.5, parts.of({&part}, parts.whole()));
    const heed::plan plan = x.plan();
    INFO(plan.problem.data());
    REQUIRE(plan.ok());
    std::vector<std::byte> memory(plan.workspace_bytes);
    CHECK_NOTHROW(x.forward({.workspace = memory}));
  }
}
