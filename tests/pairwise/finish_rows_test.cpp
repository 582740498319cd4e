// SPDX-License-Identifier: BSD-3-Clause

// The sums of one lane, which a gate that cannot be joined with 1 / l has scaled: those and nothing beside them.

#include <vector>

#include "heed/pairwise/finish_rows.hpp"
#include "support/catch.hpp"

using heed::index_t;

TEMPLATE_TEST_CASE("sums of a lane: all are scaled, and no number of another lane or behind them", "[finish_rows]",
                   float, double) {
  using T = TestType;
  for (const index_t stride : {1, 4}) {
    constexpr index_t columns = 3;
    std::vector<T> numbers(static_cast<std::size_t>(columns * stride + 1), T(2));
    heed::pairwise::lane_sums<T>{numbers.data(), stride, columns * stride}.scale(T(0.5));
    for (index_t i = 0; i <= columns * stride; ++i)
      CHECK(numbers[static_cast<std::size_t>(i)] == (i < columns * stride && i % stride == 0 ? T(1) : T(2)));
  }
}

TEMPLATE_TEST_CASE("sums of a lane: zero where each of them is", "[finish_rows]", float, double) {
  using T = TestType;
  constexpr index_t stride = 4, end = 12;
  for (index_t other = 0; other <= end; ++other) {
    std::vector<T> numbers(end + 1, T(0));
    numbers[static_cast<std::size_t>(other)] = T(1);
    const heed::pairwise::lane_sums<T> sums{numbers.data(), stride, end};
    CHECK(sums.all_zero() == (other == end || other % stride != 0));
  }
}
