// SPDX-License-Identifier: BSD-3-Clause

// The golden cases: numbers that others computed, in float and double. All of them run.

#include <string>

#include "support/catch.hpp"
#include "support/golden_softmax.hpp"
#include "support/softmax_run.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all() {
  const golden_file file("softmax");
  REQUIRE(file.cases().size() == 45);
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_softmax<T> x(file, name);
    const heed::plan plan = run_plan<T>(x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                                        x.got_o.template view<4>(), x.options, {});
    INFO(plan.problem.data());
    REQUIRE(plan.ok());
    run_forward<T>(x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                   x.got_o.template view<4>(), x.options, {});
    CHECK(x.right());
  }
}

}  // namespace

TEST_CASE("golden cases in float") { run_all<float>(); }
TEST_CASE("golden cases in double") { run_all<double>(); }
