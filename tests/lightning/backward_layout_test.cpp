// SPDX-License-Identifier: BSD-3-Clause

// Rows that lie far apart, of inputs and of gradients: the same bits as rows end to end.

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/far_layouts.hpp"
#include "support/lightning_backward_case.hpp"

using namespace heed_test;

namespace {

void check_all(lightning_backward_case<float> x) {
  x.backward();
  for (const far_layout& how : far_layouts)
    for (const index_t workers : {1, 3}) {
      INFO(how.name << ", " << workers << " workers" << (x.gated ? ", gates" : ""));
      const moved<float> q(x.q, how), k(x.k, how), v(x.v, how), dout(x.dout, how);
      moved<float> dq(x.q.size(), how), dk(x.k.size(), how), dv(x.v.size(), how);
      const auto ds0 = buffer<float>::output(x.s0.size()), dslopes = buffer<float>::output(x.dslopes.size()),
                 dgates = buffer<float>::output(x.dgates.size());
      auto asked = x.asked;
      asked.dq = dq.view(), asked.dk = dk.view(), asked.dv = dv.view(), asked.dinitial_state.s = ds0.view();
      if (x.gated)
        asked.dlog_gates = dgates.view3();
      else
        asked.dslopes = {&dslopes(0, 0, 0), {x.states}, {1}};
      test_executor executor(workers, order::shuffled, true);
      run_backward<float>({q.cview(), k.cview(), v.cview(), {}, dout.cview()}, x.decay(), asked, x.options,
                          {.executor = executor});
      CHECK(dq.holds(x.dq));
      CHECK(dk.holds(x.dk));
      CHECK(dv.holds(x.dv));
      CHECK((same_bits(ds0, x.ds0) && same_bits(dslopes, x.dslopes) && same_bits(dgates, x.dgates)));
    }
}

}  // namespace

TEST_CASE("backward: the same bits wherever the rows lie, whoever runs the tasks") {
  for (const index_t chunk : {0, 16}) {
    const heed::lightning::options<float> some{.chunk = chunk};
    check_all({{2, 11, 11, 70, 70, 64, 64}, some_slopes(11), some});
    check_all({{1, 12, 4, 70, 70, 20, 17}, some_slopes(4), some});  // groups, one memory each
    check_all({{1, 12, 4, 70, 70, 20, 17}, some_slopes(12), some});
    check_all({{1, 10, 10, 70, 70, 24, 16}, index_t{10}, 9, some});  // gates, some of which cut
  }
  static const std::vector<std::int32_t> offsets{0, 30, 30, 70};
  check_all({{1, 9, 9, 70, 70, 16, 16}, some_slopes(9), {.mask = heed::packed(offsets, offsets)}, {}, 3});
}

TEST_CASE("backward: gradients of slopes and gates in any strides") {
  lightning_backward_case<float> x({2, 4, 2, 40, 40, 8, 8}, some_slopes(4)), g({2, 4, 2, 40, 40, 8, 8}, 4, 9);
  x.backward(), g.backward();
  const auto wide = buffer<float>::output({1, 1, 4, 3}), last = buffer<float>::output({2, 40, 4, 1});
  x.asked.dslopes = {&wide(0, 0, 3, 1), {4}, {-3}};
  g.asked.dlog_gates = {&last(0, 0, 0), {2, 4, 40}, {160, 1, 4}};
  x.backward(), g.backward();
  for (index_t h = 0; h < 4; ++h) {
    CHECK(wide(0, 0, 3 - h, 1) == x.dslopes(0, 0, 0, h));
    CHECK((std::isnan(wide(0, 0, h, 0)) && std::isnan(wide(0, 0, h, 2))));
    for (index_t t = 0; t < 40; ++t) CHECK(last(1, t, h) == g.dgates(1, h, t));
  }
}
