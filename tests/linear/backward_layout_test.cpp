// SPDX-License-Identifier: BSD-3-Clause

// Rows that lie far apart, of inputs and of gradients: the same bits as rows end to end.

#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/far_layouts.hpp"
#include "support/linear_backward_case.hpp"

using namespace heed_test;
using heed::feature;

namespace {

void check_all(linear_backward_case<float> x) {
  x.run();
  for (const far_layout& how : far_layouts)
    for (const index_t workers : {1, 3}) {
      INFO(how.name << ", " << workers << " workers");
      const moved<float> q(x.q, how), k(x.k, how), v(x.v, how), o(x.o, how), dout(x.dout, how);
      moved<float> dq(x.q.size(), how), dk(x.k.size(), how), dv(x.v.size(), how);
      const auto ds0 = buffer<float>::output(x.s0.size()), dz0 = buffer<float>::output(x.z0.size());
      auto asked = x.asked;
      asked.dq = dq.view(), asked.dk = dk.view(), asked.dv = dv.view(), asked.dinitial_state.s = ds0.view();
      if (x.options.normalize) asked.dinitial_state.z = dz0.view3();
      test_executor executor(workers, order::shuffled, true);
      run_backward<float>({q.cview(), k.cview(), v.cview(), o.cview(), dout.cview()}, asked, x.options,
                          {.executor = executor});
      CHECK(dq.holds(x.dq));
      CHECK(dk.holds(x.dk));
      CHECK(dv.holds(x.dv));
      CHECK(same_bits(ds0, x.ds0));
      CHECK((!x.options.normalize || same_bits(dz0, x.dz0)));
    }
}

}  // namespace

TEST_CASE("backward: the same bits wherever the rows lie, whoever runs the tasks") {
  for (const bool causal : {true, false})
    for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor}) {
      const index_t d = map == feature::taylor ? 6 : 64;
      heed::linear::options<float> how{.feature = map, .normalize = map != feature::identity};
      if (causal) how.mask = heed::causal();
      INFO("feature " << static_cast<int>(map) << (causal ? ", causal" : ""));
      check_all(linear_backward_case<float>({1, 11, 11, 70, 70, d, 48}, how));
      check_all(linear_backward_case<float>({2, 8, 4, 33, 50, d, 17}, how));
    }
}
