// SPDX-License-Identifier: BSD-3-Clause

// The golden gradients of softmax: numbers that others computed, in float and double. All of them are compared.

#include <string>

#include "support/catch.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_softmax.hpp"
#include "support/softmax_run.hpp"

using namespace heed_test;

namespace {

template <class T> void run_all() {
  const golden_file file("softmax");
  REQUIRE(file.cases().size() == 45);
  int cases = 0, gradients = 0;
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_gradients<T> d(file, name, {"dq", "dk", "dv", "dbias", "dsink"});
    if (d.count() == 0) continue;
    ++cases, gradients += d.count();
    golden_softmax<T> x(file, name);
    run_forward<T>(x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                   x.got_o.template view<4>(), x.options, {});
    const backward_tensors<T> tensors{x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                                      x.got_o.template cview<4>(), d.dout.template cview<4>()};
    const heed::softmax::gradients<T> wanted{.dq = d.template view<4>("dq"),
                                             .dk = d.template view<4>("dk"),
                                             .dv = d.template view<4>("dv"),
                                             .dbias = d.template view<4>("dbias"),
                                             .dsink_logits = d.template view<1>("dsink"),
                                             .dlse = d.dlse_view()};
    const heed::plan plan = run_plan_backward<T>(tensors, wanted, x.options, {});
    INFO(plan.problem.data());
    REQUIRE(plan.ok());
    run_backward<T>(tensors, wanted, x.options, {});
    CHECK(d.wrong() == "");
  }
  CHECK((cases == 44 && gradients == 143));
}

}  // namespace

TEST_CASE("golden gradients in float") { run_all<float>(); }
TEST_CASE("golden gradients in double") { run_all<double>(); }
