// SPDX-License-Identifier: BSD-3-Clause

// Rows that lie far apart are copied or prefetched tile by tile: the same bits as rows end to end; the plan says so.

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/far_layouts.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

void check_all(softmax_case<float> x) {
  x.forward();
  for (const far_layout& how : far_layouts) {
    INFO(how.name << ", " << to_string(x.s));
    const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
    moved<float> o(x.o.size(), how);
    const auto lse = buffer<float>::output(x.lse.size());
    auto options = x.options;
    options.lse = lse.view3();
    test_executor executor(3, order::shuffled);
    run_forward<float>(q.cview(), k.cview(), v.cview(), o.view(), options, {.executor = executor});
    CHECK(o.holds(x.o));
    CHECK(same_bits(lse, x.lse));
  }
}

bool says(const heed::plan& plan, const char* words) {
  return std::string(plan.why.data()).find(words) != std::string::npos;
}

// Whole cache lines and not, several key tiles and parts of one, few rows and many, heads that share keys
constexpr shape shapes[] = {{1, 4, 4, 130, 600, 64, 64},
                            {1, 4, 2, 70, 300, 20, 33},
                            {2, 2, 2, 3, 280, 64, 48},
                            {1, 3, 3, 20, 513, 80, 16},
                            {1, 8, 2, 4, 777, 32, 64}};

}  // namespace

TEST_CASE("the same bits wherever the rows lie") {
  for (const shape& s : shapes) {
    check_all(softmax_case<float>(s));
    check_all(softmax_case<float>(s, {.mask = heed::causal()}));
    check_all(softmax_case<float>(s, {.mask = heed::window(100, 20, 3), .softcap = 20, .alibi_slopes = 0.1}));
    check_all(softmax_case<float>(s, {.mask = heed::visible_if([](const heed::position& at) {
                                        return (at.key / 50 + at.query / 16) % 3 != 0;
                                      })}));
  }
}

TEST_CASE("sequences of different lengths, far apart: a copy of one is not taken for another's") {
  const std::vector<std::int32_t> queries{0, 70, 71, 71, 200}, keys{0, 300, 310, 350, 420};
  check_all(softmax_case<float>({1, 4, 2, 200, 420, 64, 64}, {.mask = heed::packed(queries, keys) & heed::causal()}));
}

TEST_CASE("a value that is not finite takes the second pass over copies too") {
  softmax_case<float> x({1, 4, 4, 130, 600, 64, 64}, {.mask = heed::causal()});
  x.v(0, 1, 550, 3) = std::numeric_limits<float>::infinity();
  x.v(0, 2, 100, 5) = std::numeric_limits<float>::quiet_NaN();
  check(x);
  x.forward();
  const far_layout& how = far_layouts[0];
  const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
  buffer<float> o = buffer<float>::output(x.o.size());
  run_forward<float>(q.cview(), k.cview(), v.cview(), o.view(), x.options, {});
  CHECK(same_bits(o, x.o));
}

TEST_CASE("the plan says which rows are copied, and needs no more scratch for more keys") {
  const far_layout& how = far_layouts[0];
  const auto plan = [&](const shape& s) {
    softmax_case<float> x(s);
    const moved<float> q(x.q, how), k(x.k, how), v(x.v, how);
    moved<float> o(x.o.size(), how);
    return run_plan<float>(q.cview(), k.cview(), v.cview(), o.view(), x.options, {});
  };
  const heed::plan some = plan({1, 4, 4, 130, 600, 64, 64}), many = plan({1, 4, 4, 130, 6000, 64, 64});
  CHECK(says(some, "rows of v copied, stride 4096 bytes"));
  CHECK(some.workspace_bytes == many.workspace_bytes);
  CHECK_FALSE(says(softmax_case<float>({1, 4, 4, 130, 600, 64, 64}).plan(), "copied"));
  CHECK_FALSE(says(plan({1, 4, 4, 1, 600, 64, 64}), "copied"));  // read once
}
