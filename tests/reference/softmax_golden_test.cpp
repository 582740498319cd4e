// SPDX-License-Identifier: BSD-3-Clause

// The reference beside every golden case: numbers that others computed.

#include "heed/reference/softmax.hpp"

#include "support/catch.hpp"
#include "support/golden_softmax.hpp"

TEST_CASE("the reference equals every golden softmax case") {
  const heed_test::golden_file file("softmax");
  CHECK(file.cases().size() == 45);
  for (const std::string& name : file.cases()) {
    INFO(name);
    heed_test::golden_softmax<double> x(file, name);
    heed::reference::softmax::forward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.got_o.view<4>(), x.options);
    CHECK(x.right());
  }
}
