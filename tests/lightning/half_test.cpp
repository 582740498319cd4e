// SPDX-License-Identifier: BSD-3-Clause

// lightning::forward and decode of 16-bit tensors: the bits of the float call and the reference, for every mix of
// types, decay, mask, state and layout. Gates are float.

#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_half.hpp"

using namespace heed_test;

namespace {

using half_lightning = half_recurrence<lightning_case<float>>;

constexpr shape some_shapes[] = {{2, 4, 2, 37, 37, 20, 12}, {1, 2, 1, 3, 3, 33, 17}, {1, 2, 2, 130, 130, 9, 5}};
constexpr std::int32_t cuts = 9;  // a gate in so many closes

// Slopes and gates, of the query heads and of the key/value heads
void check(const type_mix& types, bool decode, const shape& s, const lightning_options& how = {}, index_t count = -1) {
  for (const index_t heads : {s.heads, s.kv_heads}) {
    check_half<lightning_case<float>>(types, decode, s, some_slopes(heads), how, layouts{}, count);
    check_half<lightning_case<float>>(types, decode, s, heads, cuts, how, layouts{}, count);
  }
}
half_lightning with_slopes(const type_mix& types, bool decode, const layouts& in) {
  return half_lightning(types, decode, in, some_shapes[0], some_slopes(4));
}
half_lightning with_gates(const type_mix& types, bool decode, const layouts& in) {
  return half_lightning(types, decode, in, some_shapes[0], index_t{2}, cuts);
}

}  // namespace

TEST_CASE("16 bit: every mix of float, bf16 and f16, slopes and gates") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const bool decode : {false, true}) check(types, decode, s);
  });
}

TEST_CASE("16 bit: head dims around the vectors, tokens around the chunk") {
  for (index_t d = 1; d <= 35; ++d)
    for (const bool decode : {false, true})
      check(type_mix::all(half_types[d % 2]), decode, {1, 2, 1, 18, 18, d, 36 - d}, {.scale = 0.7});
  for (const index_t n : {0, 1, 7, 8, 9, 29})
    for (const stored type : half_types) check(type_mix::all(type), false, {1, 2, 1, n, n, 24, 16}, {.chunk = 8});
  check(type_mix::all(stored::bf16), true, {1, 2, 1, 2, 2, 600, 70});
  check(type_mix::all(stored::f16), false, {1, 1, 1, 70, 70, 300, 200});
}

TEST_CASE("16 bit: lengths, packed sequences, empty ones among them") {
  const std::vector<std::int32_t> seen{20, 0, 9}, at{0, 0, 1, 6, 6, 76};
  for (const stored type : half_types)
    for (const bool decode : {false, true}) {
      check(type_mix::all(type), decode, {3, 4, 2, 33, 33, 20, 12}, {.mask = heed::key_lengths(seen)});
      check(type_mix::all(type), decode, {1, 4, 2, 76, 76, 12, 9}, {.mask = heed::packed(at, at)}, 5);
    }
}

TEST_CASE("16 bit: no states, and a state that is both") {
  for (const stored type : half_types) {
    check_edited<lightning_case<float>>(
        type_mix::all(type), false, [](auto& x) { x.options.initial_state = {}; }, some_shapes[0], some_slopes(2));
    half_lightning apart = with_gates(type_mix::all(type), false, {}),
                   both = with_gates(type_mix::all(type), false, {});
    both.options.final_state.s = both.s0.view();
    apart.run(), both.run();
    CHECK((same_bits(apart.o, both.o) && same_bits(apart.s1, both.s0)));
  }
}

TEST_CASE("16 bit: padding holds anything, without effect") {
  const std::vector<std::int32_t> seen{20, 9};
  for (const stored type : half_types)
    for (const bool decode : {false, true}) {
      half_lightning x = with_gates(type_mix::all(type), decode, {}),
                     clean = with_gates(type_mix::all(type), decode, {});
      x.options.mask = clean.options.mask = heed::key_lengths(seen);
      spoil_keys(x, seen);
      x.run(), clean.run();
      CHECK(same_results(x, clean));
    }
}

TEST_CASE("16 bit: every layout, off by an element: the same bits") {
  check_layouts(with_slopes), check_layouts(with_gates);
}
TEST_CASE("16 bit: the same bits for any executor, in a workspace of the planned size") {
  check_executors(with_slopes), check_executors(with_gates);
}
TEST_CASE("16 bit: the plan of the float call, and its refusals") { check_plans(with_gates); }
TEST_CASE("16 bit: subnormal numbers, and those beyond f16") { check_range(with_slopes); }
