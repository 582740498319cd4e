// SPDX-License-Identifier: BSD-3-Clause

// Rows that lie far apart: the same bits as rows end to end, and what the plan says of it.

#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/far_layouts.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;
using heed::feature;

namespace {

void check_all(linear_case<float> x) {
  x.forward();
  for (const far_layout& how : far_layouts)
    for (const index_t workers : {1, 3, 40}) {
      INFO(how.name << ", " << workers << " workers");
      const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
      moved<float> o(x.o.size(), how);
      const auto s1 = buffer<float>::output(x.s1.size()), z1 = buffer<float>::output(x.z1.size());
      auto options = x.options;
      options.final_state = {s1.view(), z1.view3()};
      test_executor executor(workers, order::shuffled, true);
      run_forward<float>({q.cview(), k.cview(), v.cview(), o.view()}, options, {.executor = executor});
      CHECK(o.holds(x.o));
      CHECK(same_bits(s1, x.s1));
      CHECK((!options.normalize || same_bits(z1, x.z1)));
    }
}

}  // namespace

TEST_CASE("the same bits wherever the rows lie, whoever runs the tasks") {
  for (const bool causal : {true, false})
    for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor}) {
      const index_t d = map == feature::taylor ? 6 : 64;
      heed::linear::options<float> how{.feature = map, .normalize = map != feature::identity};
      if (causal) how.mask = heed::causal();
      INFO("feature " << static_cast<int>(map) << (causal ? ", causal" : ""));
      check_all(linear_case<float>({1, 11, 11, 70, 70, d, 48}, how));
      check_all(linear_case<float>({2, 8, 4, 33, 50, d, 17}, how));
    }
}

TEST_CASE("the plan names the copies and the heads side by side") {
  for (const feature map : {feature::identity, feature::elu_plus_one}) {
    const linear_case<float> x({1, 16, 16, 100, 100, 64, 64}, {.mask = heed::causal(), .feature = map});
    const far_layout& how = far_layouts[0];
    const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
    moved<float> o(x.o.size(), how);
    const heed::plan far = run_plan<float>({q.cview(), k.cview(), v.cview(), o.view()}, x.options, {});
    CHECK(says(far, "16 memories, 8 side by side"));
    CHECK(says(far, "rows of v copied, stride 4096 bytes"));
    CHECK(says(far, "rows of k copied, stride 4096 bytes"));
    CHECK_FALSE(says(x.plan(), "side by side"));
    CHECK_FALSE(says(x.plan(), "copied"));
  }
}
