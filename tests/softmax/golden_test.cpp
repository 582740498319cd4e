// SPDX-License-Identifier: BSD-3-Clause

// The golden cases: numbers that others computed, in float and double. A case whose options this version refuses is
// listed; all others must run and be right.

#include <cstdio>
#include <string>

#include "support/catch.hpp"
#include "support/golden_softmax.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all() {
  const golden_file file("softmax");
  REQUIRE(file.cases().size() == 45);
  int ran = 0, skipped = 0;
  std::string list;
  for (const std::string& name : file.cases()) {
    golden_softmax<T> x(file, name);
    INFO(name);
    const heed::plan plan = run_plan<T>(x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                                        x.got_o.template view<4>(), x.options, {});
    if (not_supported(plan)) {
      ++skipped;
      list += "  " + name + ": " + plan.problem.data() + "\n";
      continue;
    }
    INFO(plan.problem.data());
    REQUIRE(plan.ok());
    run_forward<T>(x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                   x.got_o.template view<4>(), x.options, {});
    CHECK(x.right());
    ++ran;
  }
  std::printf("golden softmax, %s: %d cases ran, %d not supported yet%s\n%s", sizeof(T) == 4 ? "float" : "double", ran,
              skipped, skipped > 0 ? ":" : "", list.c_str());
  CHECK(ran >= 24);  // those with causal, window, key_lengths, places, scale and lse only: never fewer again
  CHECK(ran + skipped == 45);
}

}  // namespace

TEST_CASE("golden cases in float") { run_all<float>(); }
TEST_CASE("golden cases in double") { run_all<double>(); }
