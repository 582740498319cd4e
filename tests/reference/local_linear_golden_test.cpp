// SPDX-License-Identifier: BSD-3-Clause

// The reference beside every golden case: numbers that others computed.

#include "heed/reference/local_linear.hpp"

#include "support/catch.hpp"
#include "support/golden_local_linear.hpp"

TEST_CASE("the reference equals every golden local_linear case") {
  namespace reference = heed::reference::local_linear;
  const heed_test::golden_file file("local_linear");
  CHECK(file.cases().size() == 23);
  int given = 0;
  for (const std::string& name : file.cases()) {
    INFO(name);
    heed_test::golden_local_linear<double> x(file, name);
    if (x.given)
      reference::apply(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.slope.cview<4>(), x.got_o.view<4>(),
                       x.options);
    else
      reference::forward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.ridge.data, x.got_o.view<4>(), x.options);
    given += x.given;
    CHECK(x.error() <= 1);
  }
  CHECK(given == 3);
}
