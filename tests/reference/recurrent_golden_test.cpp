// SPDX-License-Identifier: BSD-3-Clause

// The references beside every golden case of linear and lightning attention: numbers that others computed. The slope
// tables are in tests/core/slopes_test.cpp.

#include "heed/reference/lightning.hpp"
#include "heed/reference/linear.hpp"

#include "support/catch.hpp"
#include "support/golden_recurrent.hpp"

using namespace heed_test;

TEST_CASE("the reference equals every golden linear case") {
  const golden_file file("linear");
  CHECK(file.cases().size() == 20);
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_linear<double> x(file, name);
    heed::reference::linear::forward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.got_o.view<4>(), x.options);
    CHECK(x.right());
  }
}

TEST_CASE("the reference equals every golden lightning case") {
  const golden_file file("lightning");
  CHECK(file.cases().size() == 18);
  for (const std::string& name : file.cases()) {
    if (name == "slope_tables") continue;
    INFO(name);
    golden_lightning<double> x(file, name);
    heed::reference::lightning::forward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.decay, x.got_o.view<4>(),
                                        x.options);
    CHECK(x.right());
  }
}
