// SPDX-License-Identifier: BSD-3-Clause

// local_linear::forward beside the reference: shapes, solvers, and every mask under every alignment.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_masks.hpp"

using namespace heed_test;

namespace {

// Lengths around the tiles with small head dims, large head dims with few rows: the reference takes D^2 per key.
std::vector<shape> shapes_around(const heed::plan& plan) {
  constexpr struct { index_t heads, kv_heads; } groups[] = {{1, 1}, {2, 1}, {4, 2}, {1, 2}, {2, 6}};
  std::vector<shape> list;
  const auto add = [&](index_t n, index_t m, index_t d) {
    const std::size_t turn = list.size();
    const auto& group = groups[turn % std::size(groups)];
    list.push_back({turn % 4 == 3 ? 2 : 1, group.heads, group.kv_heads, n, m, d, turn % 3 == 0 ? d : 1 + 5 * d % 13});
  };
  constexpr index_t small[] = {1, 3, 8};
  std::size_t turn = 0;
  for (const index_t n : around(plan.query_tile))
    for (const index_t m : around(plan.key_tile)) add(n, m, small[turn++ % std::size(small)]);
  for (const index_t d : {20, 64, 80, 128, 192}) {
    for (const index_t m : {index_t{7}, d / 2, d, d + 1}) add(3, m, d);
    if (d <= 80) add(3, plan.key_tile + 1, d);
  }
  return list;
}

// Dense and causal in turn
template <class T> void every_shape(std::size_t every) {
  const heed::plan plan = local_linear_case<T>({1, 1, 1, 1000, 1000, 64, 64}).plan();
  REQUIRE(plan.ok());
  REQUIRE((plan.query_tile > 0 && plan.key_tile > 0));
  std::size_t turn = 0;
  for (const shape& s : shapes_around(plan)) {
    if (turn++ % every != 0) continue;
    check_solvers<T>(s, 0.5, {.mask = turn / every % 2 == 0 ? heed::causal() : heed::mask{}});
  }
}

template <class T> void every_mask(const std::vector<shape>& shapes) {
  std::size_t turn = 0;
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        if (turn++ % thinning != 0) continue;
        INFO(mask_name << ", " << place_name);
        check_solvers<T>(s, 0.5, {.mask = mask, .align = align});
      }
  }
}

}  // namespace

TEST_CASE("float, every shape") { every_shape<float>(thinning); }
TEST_CASE("double, shapes") { every_shape<double>(3 * thinning); }

TEST_CASE("float, every mask under every alignment") {
  every_mask<float>(
      {{2, 2, 1, 19, 33, 12, 6}, {1, 1, 1, 70, 40, 4, 4}, {1, 2, 2, 20, 150, 8, 5}, {2, 1, 2, 2, 40, 6, 8}});
}
TEST_CASE("double, every mask under every alignment") { every_mask<double>({{2, 2, 1, 19, 33, 12, 6}}); }

TEST_CASE("double is accurate to double where the tolerance asks for it") {
  for (const double ridge : {1.0, 0.1, 0.01})
    check_solvers<double>({1, 1, 1, 33, 300, 16, 8}, ridge, {.mask = heed::causal(), .tolerance = 1e-12});
}

TEST_CASE("one ridge per head, infinity among them") {
  const std::vector<double> each{0.1, 10, HUGE_VAL, 1e-2};
  const std::vector<float> floats(each.begin(), each.end());
  check_solvers<float>({1, 4, 2, 40, 60, 8, 8}, floats, {.mask = heed::causal()});
  check_solvers<double>({1, 2, 4, 40, 60, 8, 8}, each, {.mask = heed::causal()});
}

TEST_CASE("every layout") {
  for (const layout out : output_layouts)
    for (const layout in : {layout::bhsd, layout::bshd, layout::packed_slot, layout::reversed_rows,
                            layout::shared_batch, layout::shared_heads})
      check_solvers<float>({2, 4, 2, 21, 37, 9, 7}, 0.5, {.mask = heed::causal()}, {in, in, in, out, out, 3});
}

TEST_CASE("outputs that nobody asks for are not written, and change no bit") {
  for (const solver how : solvers) {
    local_linear_case<float> all({1, 2, 1, 40, 70, 8, 8}), none(all.s);
    all.options.solver = none.options.solver = how;
    none.options.lse = {}, none.options.slope = none.options.mean_key = {}, none.options.report = nullptr;
    all.forward(), none.forward();
    CHECK(same_bits(all.o, none.o));
    CHECK((none.lse.untouched() && none.slope.untouched() && none.mean.untouched()));
  }
}

// The bound that the issue states: at most 10 times the tolerance, relative to the largest |o|.
TEST_CASE("the error in units of the tolerance") {
  for (const double ridge : {1.0, 0.1})
    for (const heed::mask& mask : {heed::mask{}, heed::causal()}) {
      local_linear_case<float> x({1, 1, 1, thinning == 1 ? 40 : 6, 200, 64, 16}, ridge, {.mask = mask});
      const std::vector<fitted_row> rows = fitted(x, x.ridge, x.options);
      for (const solver how : solvers)
        for (const double tolerance : {1e-2, 1e-3, 1e-5}) {
          x.options.solver = how, x.options.tolerance = tolerance;
          x.forward();
          double largest = 0, error = 0;
          for (const fitted_row& f : rows)
            for (index_t e = 0; e < 16; ++e) {
              const double expected = static_cast<double>(f.o(e));
              largest = std::max(largest, std::abs(expected));
              error = std::max(error, std::abs(static_cast<double>(x.o(f.batch, f.head, f.query, e)) - expected));
            }
          INFO(name_of(how) << ", ridge " << ridge << ": " << error / largest / tolerance);
          CHECK(error <= 10 * tolerance * largest);
        }
    }
}

TEST_CASE("end_of_lengths: places follow the tokens of a cache with room") {
  const std::vector<std::int32_t> held{25, 7};
  check_solvers<float>({2, 2, 1, 19, 33, 6, 6}, 0.5,
                       {.mask = heed::causal() & heed::key_lengths(held), .align = heed::end_of_lengths});
  check_solvers<double>({2, 1, 2, 3, 33, 6, 6}, 0.5,
                        {.mask = heed::window(4, 1) & heed::key_lengths(held),
                         .align = heed::end_of_lengths,
                         .alibi_slopes = 0.2});
  CHECK_THROWS_AS(local_linear_case<float>({2, 2, 1, 19, 33, 6, 6}, 0.5, {.align = heed::end_of_lengths}).forward(),
                  heed::error);
}
