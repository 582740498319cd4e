// SPDX-License-Identifier: BSD-3-Clause

// softmax::forward in double beside the reference.

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_masks.hpp"

using namespace heed_test;

TEST_CASE("double, every shape, dense and causal") {
  const heed::plan plan = softmax_case<double>({1, 1, 1, 1000, 1000, 64, 64}).plan();
  REQUIRE(plan.ok());
  for (const shape& s : shape_list(plan.query_tile, plan.key_tile)) {
    check<double>(s);
    check<double>(s, {.mask = heed::causal()});
  }
}

TEST_CASE("double, every mask under every alignment") {
  for (const shape& s : {shape{2, 2, 1, 37, 53, 20, 12}, shape{1, 1, 1, 150, 70, 8, 8}, shape{2, 1, 2, 3, 60, 5, 7}}) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(mask_name << ", " << place_name);
        softmax_case<double> x(s, {.mask = mask, .align = align});
        check(x);
      }
  }
}

TEST_CASE("double is accurate to double, also for large scores") {
  check<double>({1, 1, 1, 33, 700, 64, 64}, {.scale = 20});
  check<double>({1, 1, 1, 2, 700, 64, 64}, {.scale = 20});
}
