// SPDX-License-Identifier: BSD-3-Clause

// softmax::forward beside the reference: the shape list, and every mask under every alignment.

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_masks.hpp"

using namespace heed_test;

namespace {

// Tile sizes of a call large enough to have whole ones.
heed::plan large_plan(index_t dim) { return softmax_case<float>({1, 1, 1, 1000, 1000, dim, dim}).plan(); }

}  // namespace

TEST_CASE("float, every shape, dense and causal") {
  const heed::plan plan = large_plan(64);
  REQUIRE(plan.ok());
  REQUIRE((plan.query_tile > 0 && plan.key_tile > 0));
  for (const shape& s : shape_list(plan.query_tile, plan.key_tile)) {
    check<float>(s);
    check<float>(s, {.mask = heed::causal()});
  }
}

TEST_CASE("float, sizes around the tiles of every machine") {
  for (const index_t tile : {12, 24, 32, 64, 128}) {
    for (const index_t n : {tile - 1, tile, tile + 1}) {
      check<float>({1, 2, 1, n, n, 20, 24}, {.mask = heed::causal()});
      check<float>({1, 1, 1, n, 2 * tile + 3, 64, 16});
      check<float>({1, 1, 1, 2 * tile + 3, n, 16, 64}, {.mask = heed::window(tile)});
    }
  }
}

TEST_CASE("float, every mask under every alignment") {
  const shape shapes[] = {{2, 2, 1, 37, 53, 20, 12},
                          {1, 1, 1, 150, 70, 8, 8},
                          {1, 2, 2, 70, 300, 16, 24},
                          {3, 7, 1, 2, 40, 12, 8},
                          {2, 1, 1, 200, 200, 4, 4}};
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(mask_name << ", " << place_name);
        softmax_case<float> x(s, {.mask = mask, .align = align});
        check(x);
      }
  }
}

TEST_CASE("float, windows of every width around the tiles") {
  const heed::plan plan = large_plan(16);
  for (const index_t tile : {plan.query_tile, plan.key_tile})
    for (const index_t left : {tile - 1, tile, tile + 1, 2 * tile}) {
      const index_t n = 3 * tile + 5;
      check<float>({1, 1, 1, n, n, 16, 16}, {.mask = heed::window(left)});
      check<float>({1, 1, 1, n, n + 7, 16, 16}, {.mask = heed::window(left, left / 2, 3)});
      check<float>({1, 1, 1, n, n + 7, 16, 16}, {.mask = heed::causal() & heed::window(left), .align = heed::top_left});
    }
}

TEST_CASE("limits beyond any key are no limits") {
  constexpr index_t far = std::numeric_limits<index_t>::max();
  const std::vector<std::int32_t> last{std::numeric_limits<std::int32_t>::max() - 1000},
      first{std::numeric_limits<std::int32_t>::min()};
  for (const index_t n : {3, 70}) {
    const shape s{1, 1, 1, n, 90, 8, 8};
    check<float>(s, {.mask = heed::window(far)});
    check<float>(s, {.mask = heed::window(far, far, far)});
    check<float>(s, {.mask = heed::window(2, 1, far)});
    check<float>(s, {.mask = heed::causal() & heed::window(far, far), .align = heed::first_place(first)});
    check<float>(s, {.mask = heed::window(5, far, 7), .align = heed::first_place(last)});
  }
}

TEST_CASE("large head dims") {
  for (const index_t n : {2, 40})
    for (const index_t m : {1, 37, 300}) {
      check<float>({1, 1, 1, n, m, 300, 500}, {.mask = heed::causal()});
      check<float>({1, 2, 1, n, m, 1031, 2}, {.mask = heed::window(50)});
    }
}

TEST_CASE("long rows keep their accuracy") {
  check<float>({1, 1, 1, 3, 20000, 64, 64});
  check<float>({1, 1, 1, 40, 5000, 64, 64}, {.mask = heed::causal()});
}
