// SPDX-License-Identifier: BSD-3-Clause

// Head counts in both directions: beside the reference, and beside calls on the heads that the map names.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

constexpr struct {
  index_t query, kv;
} counts[] = {{8, 8}, {8, 2}, {8, 1}, {4, 2}, {4, 1}, {6, 2}, {1, 1}, {1, 4}, {2, 4}, {2, 6}, {4, 8}, {3, 12}};

heed::tensor_view<const double, 4> head(heed::tensor_view<const double, 4> x, index_t h) {
  return heed::slice(x, 1, h, 1);
}

}  // namespace

TEMPLATE_TEST_CASE("every pair of counts, beside the reference", "", float, double) {
  for (const auto& heads : counts)
    for (const index_t n : {1, 5, 40, 200})
      for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::causal() & heed::window(17)})
        check<TestType>({2, heads.query, heads.kv, n, n + 7, 12, 9}, {.mask = mask});
}

// Head c of o is attention of query head c / (most / query) and key/value head c / (most / kv) alone.
TEST_CASE("each head of o is a call of its own on the heads that the map names") {
  for (const auto& heads : counts) {
    const shape s{2, heads.query, heads.kv, 50, 70, 12, 9};
    INFO(to_string(s));
    const auto x = ran(s, {.mask = heed::causal()});
    const index_t most = s.out_heads();
    for (index_t c = 0; c < most; ++c) {
      const shape one{2, 1, 1, 50, 70, 12, 9};
      softmax_case<double> y(one);
      run_forward<double>(head(x.q.cview(), c / (most / heads.query)), head(x.k.cview(), c / (most / heads.kv)),
                          head(x.v.cview(), c / (most / heads.kv)), y.o.view(),
                          {.mask = heed::causal(), .lse = y.lse.view3()}, {});
      double worst = 0;
      for (index_t b = 0; b < 2; ++b)
        for (index_t i = 0; i < 50; ++i) {
          for (index_t e = 0; e < 9; ++e) worst = std::max(worst, std::abs(y.o(b, 0, i, e) - x.o(b, c, i, e)));
          worst = std::max(worst, std::abs(y.lse(b, 0, i) - x.lse(b, c, i)));
        }
      CHECK(worst <= 1e-13);
    }
  }
}

// Repeating query heads by hand (stride 0) gives the bits of the reverse map.
TEST_CASE("more key/value heads than query heads: as with the query heads repeated") {
  const shape s{2, 1, 6, 90, 90, 16, 16};
  softmax_case<float> x(s, {.mask = heed::causal()}), y(s, {.mask = heed::causal()});
  x.forward();
  run_forward<float>(heed::broadcast(y.q.cview(), 1, 6), y.k.cview(), y.v.cview(), y.o.view(), y.options, {});
  CHECK((same_bits(x.o, y.o) && same_bits(x.lse, y.lse)));
}

// Any choice of query heads with their key/value heads gives their part of the multi-head result.
TEST_CASE("fewer query heads are a choice of a multi-head layer's") {
  const shape all{1, 8, 8, 60, 60, 16, 16};
  const auto x = ran(all, {.mask = heed::causal()});
  const auto every_other = [](heed::tensor_view<const double, 4> t) {
    return heed::tensor_view<const double, 4>(t.data() + t.stride(1), {1, 4, t.extent(2), t.extent(3)},
                                              {t.stride(0), 2 * t.stride(1), t.stride(2), t.stride(3)});
  };
  softmax_case<double> y({1, 4, 4, 60, 60, 16, 16});
  run_forward<double>(every_other(x.q.cview()), every_other(x.k.cview()), every_other(x.v.cview()), y.o.view(),
                      {.mask = heed::causal()}, {});
  bool equal = true;
  for (index_t h = 0; h < 4; ++h)
    for (index_t i = 0; i < 60; ++i)
      for (index_t e = 0; e < 16; ++e) equal = equal && y.o(0, h, i, e) == x.o(0, 2 * h + 1, i, e);
  CHECK(equal);
}

TEST_CASE("counts that do not divide are refused") {
  for (const auto& [query, kv] : {std::pair<index_t, index_t>{6, 4}, {4, 6}, {3, 2}}) {
    const shape s{1, query, kv, 5, 5, 8, 8};
    softmax_case<float> x(s);
    const std::string problem = x.plan().problem.data();
    INFO(problem);
    CHECK(problem.find("divide") != std::string::npos);
    CHECK_THROWS_AS(x.forward(), heed::error);
    CHECK(x.o.untouched());
  }
}
