// SPDX-License-Identifier: BSD-3-Clause

// The golden cases: numbers that others computed, in float and double, in whole chunks and in odd ones. All of them
// run.

#include <string>

#include "support/catch.hpp"
#include "support/golden_recurrent.hpp"
#include "support/recurrent_run.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all() {
  const golden_file file("lightning");
  REQUIRE(file.cases().size() == 18);
  int ran = 0;
  for (const std::string& name : file.cases()) {
    if (name == "slope_tables") continue;  // tests/core/slopes_test.cpp
    ++ran;
    for (const heed::index_t chunk : {0, 3, 64}) {
      INFO(name << ", chunk " << chunk);
      golden_lightning<T> x(file, name);
      x.options.chunk = chunk;
      const recurrent_call<T> call{x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                                   x.got_o.template view<4>()};
      const heed::plan plan = run_plan<T>(call, x.decay, x.options, {});
      INFO(plan.problem.data());
      REQUIRE(plan.ok());
      run_forward<T>(call, x.decay, x.options, {});
      CHECK(x.right());
    }
  }
  CHECK(ran == 17);
}

}  // namespace

TEST_CASE("golden cases in float") { run_all<float>(); }
TEST_CASE("golden cases in double") { run_all<double>(); }
