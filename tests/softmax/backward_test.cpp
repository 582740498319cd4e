// SPDX-License-Identifier: BSD-3-Clause

// softmax::backward beside the reference: the shape list, layouts, head counts, and any choice of gradients.

#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_backward_case.hpp"

using namespace heed_test;

namespace {

heed::plan large_plan(index_t dim) { return backward_case<float>({1, 1, 1, 1000, 1000, dim, dim}).backward_plan(); }

// One head with several tiles of queries and keys; groups in both directions; few rows; few keys
constexpr shape shapes[] = {
    {1, 1, 1, 150, 170, 20, 12}, {2, 4, 2, 37, 53, 20, 12}, {2, 1, 3, 40, 19, 16, 17}, {1, 7, 1, 2, 300, 9, 5}};

}  // namespace

TEST_CASE("gradients in float, every shape, dense and causal") {
  const heed::plan plan = large_plan(64);
  REQUIRE(plan.ok());
  REQUIRE((plan.query_tile > 0 && plan.key_tile > 0 && plan.tasks > 0));
  std::size_t turn = 0;
  for (const shape& s : shape_list(plan.query_tile, std::min<index_t>(plan.key_tile, 128))) {  // blocks: below
    if (turn++ % thinning != 0) continue;
    check_backward<float>(s);
    check_backward<float>(s, {.mask = heed::causal()});
  }
}

TEST_CASE("gradients in float, sizes around the tiles of every machine") {
  for (const index_t tile : {8, 12, 24, 32, 64, 128})
    for (const index_t n : {tile - 1, tile, tile + 1}) {
      check_backward<float>({1, 2, 1, n, n, 20, 24}, {.mask = heed::causal()});
      check_backward<float>({1, 1, 1, n, 2 * tile + 3, 64, 16});
      check_backward<float>({1, 1, 1, 2 * tile + 3, n, 16, 64}, {.mask = heed::window(tile)});
    }
}

TEST_CASE("gradients in float, head dims around the vectors, and large ones") {
  for (index_t d = 1; d <= 35; d += thinning == 1 ? 1 : 7) {
    check_backward<float>({1, 1, 1, 3, 20, d, 36 - d});
    check_backward<float>({1, 1, 1, 33, 20, d, 36 - d});
  }
  check_backward<float>({1, 2, 1, 20, 40, 300, 500});
  check_backward<float>({1, 1, 1, 2, 70, 1031, 300});
}

TEST_CASE("gradients over several blocks of keys, large head dims and long keys") {
  const heed::plan plan = backward_case<float>({1, 1, 1, 35, 200, 300, 500}).backward_plan();
  REQUIRE(plan.key_tile <= 64);  // four blocks
  std::size_t turn = 0;
  for (const heed::mask& mask : {heed::causal(), heed::mask{}, heed::window(40)})
    if (turn++ % thinning == 0) check_backward<float>({1, 2, 1, 35, 200, 300, 500}, {.mask = mask});
  check_backward<float>({1, 1, 2, 3, 9001, 8, 8}, {.mask = heed::causal()});
  check_backward<float>({1, 1, 1, 35, 4200, 8, 12}, {.mask = heed::window(2100), .alibi_slopes = 0.001});
  check_backward<double>({1, 1, 1, 35, 2500, 8, 12}, {.mask = heed::causal(), .sink_logits = 1});
}

TEST_CASE("gradients in double, every shape") {
  const heed::plan plan = backward_case<double>({1, 1, 1, 1000, 1000, 64, 64}).backward_plan();
  std::size_t turn = 0;
  for (const shape& s : shape_list(plan.query_tile, plan.key_tile))
    if (turn++ % (2 * thinning) == 0)
      check_backward<double>(s, {.mask = turn % 4 == 1 ? heed::causal() : heed::mask{}});
}

TEST_CASE("gradients for head counts in both directions") {
  for (const auto& [heads, kv_heads] :
       std::vector<std::array<index_t, 2>>{{1, 1}, {6, 1}, {6, 2}, {1, 6}, {2, 6}, {14, 2}, {40, 1}, {1, 40}})
    for (const index_t n : {1, 5, 40})
      check_backward<float>({2, heads, kv_heads, n, 33, 12, 10}, {.mask = heed::causal()});
}

TEST_CASE("gradients without queries, keys, batches or heads") {
  for (const shape& s : {shape{1, 2, 1, 0, 5, 8, 8}, shape{2, 2, 1, 5, 0, 8, 8}, shape{0, 2, 1, 5, 6, 8, 8},
                         shape{1, 0, 0, 5, 6, 8, 8}, shape{1, 1, 1, 0, 0, 8, 8}, shape{2, 0, 2, 5, 6, 8, 8}}) {
    check_backward<float>(s);
    check_backward<float>(s, {.mask = heed::causal(), .alibi_slopes = 0.1, .sink_logits = 0.5});
  }
  backward_case<float> x({2, 2, 1, 5, 0, 8, 8}, {.sink_logits = 0.5});
  x.forward(), x.backward();
  bool zero = true;
  x.dq.each([&](float element) { zero = zero && element == 0; });
  CHECK(zero);
  backward_case<float> y({2, 2, 1, 0, 5, 8, 8});
  y.forward(), y.backward();
  y.dk.each([&](float element) { zero = zero && element == 0; });
  y.dv.each([&](float element) { zero = zero && element == 0; });
  CHECK(zero);
}

TEST_CASE("gradients in every layout of every tensor: the same bits") {
  for (const shape& s : {shapes[1], shapes[2], shapes[3]}) {
    backward_case<float> plain(s, {.mask = heed::causal()});
    check(plain);
    for (std::size_t turn = 0; turn < std::size(output_layouts) * 2; ++turn) {
      const auto pick = [&](std::size_t step) {
        return output_layouts[(turn * step + step) % std::size(output_layouts)];
      };
      const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
      const gradient_layouts of{pick(3), pick(2), pick(1), pick(4), pick(5), pick(1)};
      INFO(to_string(s) << ", " << name_of(of.dout) << " -> " << name_of(of.dq) << ", " << name_of(of.dk) << ", "
                        << name_of(of.dv) << ", skew " << in.skew);
      backward_case<float> x(s, {.mask = heed::causal()}, in, of);
      check(x);
      CHECK(same_gradients(x, plain));
    }
  }
}

TEST_CASE("gradients of inputs that share memory through stride 0") {
  for (const layout shared : {layout::shared_batch, layout::shared_heads})
    for (const shape& s : shapes) {
      check_backward<float>(s, {.mask = heed::causal()}, {.q = shared}, {.dout = shared});
      check_backward<float>(s, {}, {.k = shared, .v = shared}, {.dlse = shared});
    }
  const shape s{1, 2, 2, 30, 40, 12, 12};  // k and v may be one tensor
  backward_case<float> same(s), apart(s);
  apart.v.each([](float& x) { x = 0; });
  for (index_t h = 0; h < 2; ++h)
    for (index_t j = 0; j < 40; ++j)
      for (index_t d = 0; d < 12; ++d) apart.v(0, h, j, d) = apart.k(0, h, j, d);
  apart.forward(), apart.backward();
  same.forward();
  run_forward<float>(same.q.cview(), same.k.cview(), same.k.cview(), same.o.view(), same.options, {});
  run_backward<float>({same.q.cview(), same.k.cview(), same.k.cview(), same.o.cview(), same.dout.cview()}, same.wanted,
                      same.options, {});
  CHECK(same_gradients(same, apart));
}

TEST_CASE("any choice of gradients: those, and nothing else, with the bits of all of them") {
  for (const shape& s : shapes) {
    std::vector<float> bias(static_cast<std::size_t>(s.queries * s.keys));
    random_numbers random(4);
    for (float& b : bias) b = static_cast<float>(random.normal());
    const heed::softmax::options<float> how{.mask = heed::causal(),
                                            .alibi_slopes = 0.05,
                                            .bias = {bias.data(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}},
                                            .sink_logits = 0.3};
    backward_case<float> all(s, how);
    check(all);
    for (int choice = 0; choice < 64; ++choice) {
      INFO(to_string(s) << ", choice " << choice);
      backward_case<float> x(s, how);
      if ((choice & 1) == 0) x.wanted.dq = {};
      if ((choice & 2) == 0) x.wanted.dk = {};
      if ((choice & 4) == 0) x.wanted.dv = {};
      if ((choice & 8) == 0) x.wanted.dbias = {};
      if ((choice & 16) == 0) x.wanted.dsink_logits = {};
      if ((choice & 32) == 0) x.wanted.dalibi_slopes = {};
      x.forward(), x.backward();
      const auto as_wanted = [](const void* wanted, const buffer<float>& got, const buffer<float>& full) {
        return wanted != nullptr ? same_bits(got, full) : got.untouched();
      };
      CHECK(as_wanted(x.wanted.dq.data(), x.dq, all.dq));
      CHECK(as_wanted(x.wanted.dk.data(), x.dk, all.dk));
      CHECK(as_wanted(x.wanted.dv.data(), x.dv, all.dv));
      CHECK(as_wanted(x.wanted.dbias.data(), x.dbias, all.dbias));
      CHECK(as_wanted(x.wanted.dsink_logits.data(), x.dsinks, all.dsinks));
      CHECK(as_wanted(x.wanted.dalibi_slopes.data(), x.dslopes, all.dslopes));
    }
  }
}

TEST_CASE("gradients are overwritten, never added to, and the second call has the bits of the first") {
  for (const shape& s : shapes) {
    backward_case<float> x(s, {.mask = heed::causal(), .alibi_slopes = 0.1, .sink_logits = 0.5}), y(s, x.options);
    y.options.lse = y.lse.view3();
    x.forward(), x.backward();
    y.forward();
    for (buffer<float>* each : {&y.dq, &y.dk, &y.dv, &y.dsinks, &y.dslopes}) each->fill(1e30f);
    y.backward();
    CHECK((same_bits(x.dq, y.dq) && same_bits(x.dk, y.dk) && same_bits(x.dv, y.dv)));
    CHECK((same_bits(x.dsinks, y.dsinks) && same_bits(x.dslopes, y.dslopes)));
  }
}

TEST_CASE("no dlse is a dlse of zeros") {
  for (const shape& s : shapes) {
    backward_case<float> x(s, {.sink_logits = 0.5}), y(s, {.sink_logits = 0.5});
    x.dlse.fill(0);
    y.wanted.dlse = {};
    check(x);
    check(y);
    CHECK(same_gradients(x, y));
  }
}
