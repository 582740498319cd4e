// SPDX-License-Identifier: BSD-3-Clause

// The golden cases of mixture-of-head attention, in float and double; their routings are in router_test.cpp.

#include <string>

#include "support/catch.hpp"
#include "support/golden_mixture.hpp"
#include "support/mixture_run.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all() {
  const golden_file file("mixture_of_head");
  REQUIRE(file.cases().size() == 15);
  int calls = 0;
  for (const std::string& name : file.cases()) {
    if (!has_call(file, name)) continue;
    INFO(name);
    ++calls;
    golden_mixture<T> x(file, name);
    const auto q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
    const auto gates = x.gates.template cview<3>(), ones = x.ones.template cview<3>();
    const heed::plan plan = run_mixture_plan<T>(q, k, v, gates, x.o.template view<4>(), x.options, {});
    INFO(plan.problem.data());
    REQUIRE(plan.ok());
    run_mixture<T>(q, k, v, gates, x.o.template view<4>(), x.options, {});
    run_mixture<T>(q, k, v, ones, x.head.template view<4>(), x.plain, {});
    CHECK(x.right());
    CHECK(x.as_authors());
  }
  CHECK(calls == 14);
}

}  // namespace

TEST_CASE("golden cases in float") { run_all<float>(); }
TEST_CASE("golden cases in double") { run_all<double>(); }
