// SPDX-License-Identifier: BSD-3-Clause

// The reference of mixture-of-head attention and of its routers beside every golden case.

#include "heed/reference/mixture_of_head.hpp"

#include <cmath>

#include "support/catch.hpp"
#include "support/golden_mixture.hpp"

TEST_CASE("the reference equals every golden mixture-of-head case") {
  namespace reference = heed::reference::mixture_of_head;
  const heed_test::golden_file file("mixture_of_head");
  CHECK(file.cases().size() == 15);
  int calls = 0, routings = 0, losses = 0;
  for (const std::string& name : file.cases()) {
    INFO(name);
    if (heed_test::has_call(file, name)) {
      ++calls;
      heed_test::golden_mixture<double> x(file, name);
      const auto q = x.q.cview<4>(), k = x.k.cview<4>(), v = x.v.cview<4>();
      reference::forward(q, k, v, x.gates.cview<3>(), x.o.view<4>(), x.options);
      reference::forward(q, k, v, x.ones.cview<3>(), x.head.view<4>(), x.plain);
      CHECK(x.right());
      CHECK(x.as_authors());
    }
    if (heed_test::has_routing(file, name)) {
      ++routings;
      heed_test::golden_router<double> x(file, name);
      if (x.by_norm) {
        reference::route_by_norm(x.q.cview<4>(), x.how, x.gates.view<3>());
      } else {
        const double loss = reference::route_trained(logits_view(x.routed), logits_view(x.shared), logits_view(x.mix),
                                                     x.how, x.gates.view<3>());
        CHECK(std::abs(loss - x.loss) <= 1e-12);  // 0 without routed heads
        losses += x.has_loss;
      }
      CHECK(x.right());
    }
  }
  CHECK((calls == 14 && routings == 10 && losses == 7));
}
