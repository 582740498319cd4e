// SPDX-License-Identifier: BSD-3-Clause

// The reference of backward beside every golden gradient of softmax and sparse query: numbers that others computed.

#include "heed/reference/sparse_query.hpp"
#include "support/catch.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_softmax.hpp"

using namespace heed_test;

namespace {

struct compared {
  int cases = 0, gradients = 0;
};

compared compare(const char* family) {
  const golden_file file(family);
  compared all;
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_softmax<double> x(file, name);
    golden_gradients<double> d(file, name, {"dq", "dk", "dv", "dbias", "dsink"});
    all.cases += d.count() > 0, all.gradients += d.count();
    if (d.count() == 0) continue;
    heed::reference::sparse_query::backward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.got_o.cview<4>(),
                                            d.dout.cview<4>(),
                                            {.dq = d.view<4>("dq"),
                                             .dk = d.view<4>("dk"),
                                             .dv = d.view<4>("dv"),
                                             .dbias = d.view<4>("dbias"),
                                             .dsink_logits = d.view<1>("dsink"),
                                             .dlse = d.dlse_view()},
                                            x.options);
    CHECK(d.wrong() == "");
  }
  return all;
}

}  // namespace

TEST_CASE("the reference equals every golden gradient of softmax") {
  const compared all = compare("softmax");
  CHECK((all.cases == 44 && all.gradients == 143));
}
TEST_CASE("the reference equals every golden gradient of sparse query") {
  const compared all = compare("sparse_query");
  CHECK((all.cases == 9 && all.gradients == 27));
}
