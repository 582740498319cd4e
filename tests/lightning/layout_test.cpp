// SPDX-License-Identifier: BSD-3-Clause

// Rows that lie far apart: the same bits as rows end to end, and what the plan says of it.

#include <algorithm>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/far_layouts.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

constexpr far_layout token_major = far_layouts[0], padded = far_layouts[5];

// The call of x in another layout: o, and whether it and the states are the bits of x
bool same_in(const lightning_case<float>& x, const far_layout& how, const heed::context& ctx) {
  const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
  moved<float> o(x.o.size(), how);
  const auto s1 = buffer<float>::output(x.s1.size());
  auto options = x.options;
  options.final_state.s = s1.view();
  run_forward<float>({q.cview(), k.cview(), v.cview(), o.view()}, x.decay(), options, ctx);
  return o.holds(x.o) && same_bits(s1, x.s1);
}

heed::plan plan_of(const lightning_case<float>& x, const far_layout& how, const heed::context& ctx = {}) {
  const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
  moved<float> o(x.o.size(), how);
  return run_plan<float>({q.cview(), k.cview(), v.cview(), o.view()}, x.decay(), x.options, ctx);
}

}  // namespace

TEST_CASE("the same bits wherever the rows lie, whoever runs the tasks") {
  const auto check_all = [](lightning_case<float> x) {
    x.forward();
    for (const far_layout& how : far_layouts)
      for (const index_t workers : {1, 3, 40}) {
        INFO(how.name << ", " << workers << " workers");
        test_executor executor(workers, order::shuffled, true);
        CHECK(same_in(x, how, {.executor = executor}));
      }
  };
  for (const index_t chunk : {0, 16}) {
    const heed::lightning::options<float> some{.chunk = chunk};
    check_all({{2, 11, 11, 70, 70, 64, 64}, some_slopes(11), some});
    check_all({{1, 12, 4, 70, 70, 20, 17}, some_slopes(4), some});  // groups, one memory each
    check_all({{1, 12, 4, 70, 70, 20, 17}, some_slopes(12), some});
    check_all({{1, 10, 10, 70, 70, 24, 16}, index_t{10}, 9, some});  // gates, some of which cut
  }
  const std::vector<std::int32_t> offsets{0, 30, 30, 70};
  check_all({{1, 9, 9, 70, 70, 16, 16}, some_slopes(9), {.mask = heed::packed(offsets, offsets)}, {}, 3});
}

TEST_CASE("the plan names the copies and the heads side by side; scratch does not grow with the sequence") {
  const auto make = [](index_t n) { return lightning_case<float>({1, 16, 16, n, n, 64, 64}, some_slopes(16)); };
  const heed::plan far = plan_of(make(100), token_major);
  CHECK(says(far, "16 memories, 8 side by side"));
  CHECK(says(far, "rows of v copied, stride 4096 bytes"));
  CHECK(far.tasks == 2);
  CHECK(plan_of(make(400), token_major).workspace_bytes == far.workspace_bytes);

  for (const heed::plan& near : {make(100).plan(), plan_of(make(100), padded)}) {
    CHECK_FALSE(says(near, "side by side"));
    CHECK_FALSE(says(near, "copied"));
    CHECK(near.tasks == 16);
    CHECK(near.workspace_bytes < far.workspace_bytes);
  }
  const heed::plan alone = plan_of(make(100), far_layouts[4]);  // nothing but this head's row is on a page
  CHECK_FALSE(says(alone, "side by side"));
  CHECK(says(alone, "rows of v copied, stride 4096 bytes"));
}

TEST_CASE("heads side by side keep no worker waiting") {
  const lightning_case<float> x({1, 16, 16, 100, 100, 64, 64}, some_slopes(16));
  for (const auto& [workers, tasks] :
       std::vector<std::pair<index_t, index_t>>{{2, 2}, {3, 3}, {4, 4}, {8, 8}, {16, 16}}) {
    test_executor executor(workers);
    INFO(workers << " workers");
    CHECK(plan_of(x, token_major, {.executor = executor}).tasks == tasks);
  }
}
