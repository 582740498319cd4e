// SPDX-License-Identifier: BSD-3-Clause

// The reference of backward beside every golden gradient of local linear attention: numbers that others computed. The
// three cases of given slopes are of apply, which has no backward.

#include "heed/reference/local_linear.hpp"
#include "support/catch.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_local_linear.hpp"

using namespace heed_test;

TEST_CASE("the reference equals every golden gradient of local linear attention") {
  const golden_file file("local_linear");
  int cases = 0, gradients = 0, given = 0;
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_local_linear<double> x(file, name);
    golden_gradients<double> d(file, name, {"dq", "dk", "dv", "dridge", "dy"});
    if (x.given) {
      ++given;
      continue;
    }
    ++cases, gradients += d.count();
    heed::reference::local_linear::backward(
        x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.ridge.data, d.dout.cview<4>(),
        {.dq = d.view<4>("dq"), .dk = d.view<4>("dk"), .dv = d.view<4>("dv"), .dridge = d.view<1>("dridge")},
        x.options);
    CHECK(d.wrong() == "");
  }
  CHECK((cases == 20 && gradients == 80 && given == 3));
}
