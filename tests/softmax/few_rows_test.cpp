// SPDX-License-Identifier: BSD-3-Clause

// Few rows per key/value head (queries times the heads of a group): the driver with the head dim in lanes, the switch
// to the one with queries in lanes, and that both say the same.

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_masks.hpp"

using namespace heed_test;

TEST_CASE("1 to 40 rows, odd head dims") {
  constexpr struct {
    index_t dim, value_dim;
  } dims[] = {{64, 64}, {1, 1}, {7, 13}, {33, 9}, {17, 65}, {128, 31}, {5, 130}};
  std::size_t turn = 0;
  for (const index_t group : {1, 2, 3, 7})
    for (index_t n = 1; n <= 40; ++n) {
      const auto& size = dims[turn++ % std::size(dims)];
      const index_t m = 1 + (n * 53) % 211;
      check<float>({1, 2 * group, 2, n, m, size.dim, size.value_dim});
      check<float>({1, group, 1, n, m, size.value_dim, size.dim}, {.mask = heed::causal()});
    }
}

TEST_CASE("few rows of every head dim and number of keys") {
  for (const index_t dim : head_dims)
    for (const index_t m : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 200, 1025})
      check<float>({1, 1, 1, 1 + m % 3, m, dim, dim + m % 2});
}

TEST_CASE("few rows in double") {
  for (const index_t group : {1, 4})
    for (const index_t n : {1, 2, 3, 5, 9, 17})
      for (const index_t dim : {1, 8, 19, 64})
        check<double>({1, group, 1, n, 150, dim, 72 - dim}, {.mask = heed::causal()});
}

TEST_CASE("few rows under every mask and alignment") {
  for (const shape& s : {shape{2, 1, 1, 1, 150, 16, 16}, shape{2, 4, 2, 3, 150, 20, 9}, shape{2, 8, 1, 1, 90, 12, 12},
                         shape{2, 1, 1, 15, 15, 8, 8}}) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(mask_name << ", " << place_name);
        softmax_case<float> x(s, {.mask = mask, .align = align});
        check(x);
      }
  }
}

// A call with a few rows of a tensor is a call of the other driver on the same numbers.
TEST_CASE("rows alone and rows together agree") {
  for (const index_t group : {1, 2}) {
    const shape s{1, group, 1, 60, 130, 33, 21};
    softmax_case<double> all(s, {.mask = heed::causal()});
    check(all);
    for (const index_t first : {0, 31, 59}) {
      const std::vector<std::int32_t> place{static_cast<std::int32_t>(first + s.keys - s.queries)};
      softmax_case<double> one({1, group, 1, 1, s.keys, s.dim, s.value_dim},
                               {.mask = heed::causal(), .align = heed::first_place(place)});
      for (index_t h = 0; h < group; ++h)
        for (index_t d = 0; d < s.dim; ++d) one.q(0, h, 0, d) = all.q(0, h, first, d);
      for (index_t j = 0; j < s.keys; ++j) {
        for (index_t d = 0; d < s.dim; ++d) one.k(0, 0, j, d) = all.k(0, 0, j, d);
        for (index_t e = 0; e < s.value_dim; ++e) one.v(0, 0, j, e) = all.v(0, 0, j, e);
      }
      check(one);
      for (index_t h = 0; h < group; ++h)
        for (index_t e = 0; e < s.value_dim; ++e)
          CHECK(one.o(0, h, 0, e) == Approx(all.o(0, h, first, e)).epsilon(1e-12).margin(1e-13));
    }
  }
}

TEST_CASE("the plan tells the drivers apart") {
  const auto path = [](index_t heads, index_t n) {
    return std::string(softmax_case<float>({1, heads, 1, n, 1000, 64, 64}).plan().path);
  };
  CHECK(path(1, 1) != path(1, 200));
  CHECK(path(8, 1) == path(1, 8));  // rows are what counts, not whose
  CHECK(path(4, 50) == path(1, 200));
}

// Zeros behind q and k, as far as rows of V reach, leave every tile of keys and every sum as it is.
TEST_CASE("few rows from memory: the wider of K and V says how many keys a tile has") {
  softmax_case<float> narrow({1, 5, 1, 1, 6000, 128, 256}, {.scale = 0.1}),
      wide({1, 5, 1, 1, 6000, 256, 256}, {.scale = 0.1});
  wide.q.each([](float& x) { x = 0; }), wide.k.each([](float& x) { x = 0; });
  for (index_t d = 0; d < narrow.s.dim; ++d) {
    for (index_t h = 0; h < narrow.s.heads; ++h) wide.q(0, h, 0, d) = narrow.q(0, h, 0, d);
    for (index_t j = 0; j < narrow.s.keys; ++j) wide.k(0, 0, j, d) = narrow.k(0, 0, j, d);
  }
  for (index_t j = 0; j < narrow.s.keys; ++j)
    for (index_t e = 0; e < narrow.s.value_dim; ++e) wide.v(0, 0, j, e) = narrow.v(0, 0, j, e);
  narrow.forward(), wide.forward();
  CHECK(same_bits(narrow.o, wide.o));
  CHECK(same_bits(narrow.lse, wide.lse));
}
