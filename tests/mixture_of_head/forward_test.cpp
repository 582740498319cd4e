// SPDX-License-Identifier: BSD-3-Clause

// mixture_of_head::forward in float beside the reference, for every shape and pattern of gates.

#include <iterator>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/mixture_case.hpp"

using namespace heed_test;

namespace {

index_t query_tile() { return mixture_case<float>({1, 1, 1, 300, 8, 8, 8}, gating::all_ones).mix_plan().query_tile; }

// One of H, Hk of the shared list is a multiple of the other; here it must be H.
shape more_query_heads(shape s) {
  if (s.heads < s.kv_heads) std::swap(s.heads, s.kv_heads);
  return s;
}

}  // namespace

TEST_CASE("the shapes that all kernels share, every pattern of gates in turn") {
  std::size_t turn = 0;
  for (const shape& any : shape_list(query_tile(), 256)) {
    const shape s = more_query_heads(any);
    const gating how = gatings[turn++ % std::size(gatings)];
    if (turn % (2 * thinning - 1) != 0) continue;
    INFO(name_of(how));
    mixture_case<float> x(s, how, {.mask = turn % 3 == 0 ? heed::causal() : heed::mask{}});
    check_mixture(x);
  }
}

TEST_CASE("every pattern of gates, dense and causal, with and without a group") {
  constexpr shape shapes[] = {{2, 4, 4, 150, 150, 20, 12},
                              {1, 6, 2, 130, 90, 16, 16},
                              {2, 7, 1, 33, 61, 8, 9},
                              {1, 3, 3, 5, 300, 12, 8},
                              {3, 4, 1, 1, 40, 8, 8}};
  std::size_t turn = 0;
  for (const shape& s : shapes)
    for (const gating how : gatings)
      for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::causal() & heed::window(20)}) {
        if (turn++ % thinning != 0) continue;
        INFO(name_of(how));
        mixture_case<float> x(s, how, {.mask = mask});
        check_mixture(x);
      }
}

TEST_CASE("no rows, no keys, no heads, no batch") {
  for (const shape& s : {shape{2, 4, 2, 0, 5, 8, 8}, shape{2, 4, 2, 70, 0, 8, 8}, shape{0, 4, 2, 7, 5, 8, 8},
                         shape{2, 0, 0, 7, 5, 8, 8}, shape{1, 2, 1, 3, 0, 8, 8}}) {
    mixture_case<float> x(s);
    check_mixture(x);
  }
}

TEST_CASE("lse is written where it is supplied and changes nothing else") {
  mixture_case<float> with({2, 4, 2, 90, 80, 12, 9}), without({2, 4, 2, 90, 80, 12, 9});
  check_mixture(with);
  without.options.lse = {};
  check_mixture(without);
  CHECK(same_bits(with.o, without.o));
  CHECK(without.lse.untouched());
}

TEST_CASE("end_of_lengths: places follow the tokens of a cache with room") {
  const std::vector<std::int32_t> held{61, 7}, before{21, -33};
  for (const gating how : {gating::random, gating::few}) {
    mixture_case<float> ends({2, 4, 2, 40, 90, 12, 9}, how,
                             {.mask = heed::causal() & heed::key_lengths(held), .align = heed::end_of_lengths});
    check_mixture(ends);
    mixture_case<float> placed(ends.s, how, ends.options);
    placed.options.align = heed::first_place(before);
    placed.options.lse = placed.lse.view3();
    check_mixture(placed);
    CHECK((same_bits(ends.o, placed.o) && same_bits(ends.lse, placed.lse)));
  }
}
