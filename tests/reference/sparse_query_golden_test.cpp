// SPDX-License-Identifier: BSD-3-Clause

// The reference of sparse query attention beside every golden case.

#include "heed/reference/sparse_query.hpp"

#include "support/catch.hpp"
#include "support/golden_softmax.hpp"

TEST_CASE("the reference equals every golden sparse query case") {
  const heed_test::golden_file file("sparse_query");
  CHECK(file.cases().size() == 9);
  for (const std::string& name : file.cases()) {
    INFO(name);
    heed_test::golden_softmax<double> x(file, name);
    heed::reference::sparse_query::forward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.got_o.view<4>(),
                                           x.options);
    CHECK(x.right());
  }
}
