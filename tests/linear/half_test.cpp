// SPDX-License-Identifier: BSD-3-Clause

// linear::forward and decode of 16-bit tensors: the bits of the float call and the reference, for every mix of types,
// feature map, mask, state and layout.

#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_half.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using half_linear = half_recurrence<linear_case<float>>;

constexpr shape some_shapes[] = {{2, 4, 2, 37, 37, 20, 12}, {1, 2, 1, 3, 3, 33, 17}, {1, 2, 2, 130, 130, 9, 5}};
constexpr feature maps[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                            feature::silu,     feature::exp,          feature::softmax, feature::taylor};

void check(const type_mix& types, bool decode, const shape& s, const linear_options& how, index_t count = -1) {
  check_half<linear_case<float>>(types, decode, s, how, layouts{}, count);
}
half_linear example(const type_mix& types, bool decode, const layouts& in) {
  return half_linear(types, decode, in, some_shapes[0], linear_options{.mask = heed::causal()});
}

}  // namespace

TEST_CASE("16 bit: every mix of float, bf16 and f16") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const bool decode : {false, true}) check(types, decode, s, {.mask = heed::causal()});
  });
}

TEST_CASE("16 bit: every feature map, with scale and denominator") {
  std::size_t turn = 0;
  for (const feature map : maps)
    for (const shape& s : some_shapes)
      for (const bool decode : {false, true})
        for (const stored type : half_types) {
          if (turn++ % thinning != 0) continue;
          const bool normalize = map != feature::identity && map != feature::silu && turn % 3 != 0;
          check(type_mix::all(type), decode, s,
                {.mask = heed::causal(), .scale = 0.7, .feature = map, .normalize = normalize});
        }
}

TEST_CASE("16 bit: head dims around the vectors, tokens around the chunk") {
  for (index_t d = 1; d <= 35; ++d)
    for (const bool decode : {false, true})
      check(type_mix::all(half_types[d % 2]), decode, {1, 2, 1, 18, 18, d, 36 - d}, {.mask = heed::causal()});
  for (const index_t n : {0, 1, 7, 8, 9, 29})
    for (const stored type : half_types) check(type_mix::all(type), false, {1, 2, 1, n, n, 24, 16}, {.chunk = 8});
  check(type_mix::all(stored::bf16), true, {1, 2, 1, 2, 2, 600, 70}, {});  // features in scratch
  check(type_mix::all(stored::f16), false, {1, 1, 1, 70, 70, 300, 200}, {.mask = heed::causal()});
}

TEST_CASE("16 bit: masks, and as many queries as not keys") {
  const std::vector<std::int32_t> seen{20, 0, 9};
  for (const stored type : half_types) {
    for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::key_lengths(seen)})
      for (const heed::alignment& align : {heed::bottom_right, heed::top_left})
        for (const index_t n : {3, 40})
          check(type_mix::all(type), false, {3, 4, 2, n, 33, 20, 12}, {.mask = mask, .align = align});
    check(type_mix::all(type), true, {3, 4, 2, 33, 33, 20, 12}, {.mask = heed::key_lengths(seen)});
  }
}

TEST_CASE("16 bit: packed sequences, empty ones among them") {
  const std::vector<std::int32_t> at{0, 0, 1, 6, 6, 76};
  const heed::mask packed = heed::causal() & heed::packed(at, at);
  for (const stored type : half_types)
    for (const bool decode : {false, true})
      for (const feature map : {feature::elu_plus_one, feature::taylor})
        check(type_mix::all(type), decode, {1, 4, 2, 76, 76, 12, 9}, {.mask = packed, .feature = map}, 5);
}

TEST_CASE("16 bit: no states, and a state that is both") {
  for (const stored type : half_types) {
    check_edited<linear_case<float>>(
        type_mix::all(type), false, [](auto& x) { x.options.initial_state = {}; }, some_shapes[0]);
    half_linear apart = example(type_mix::all(type), false, {}), both = example(type_mix::all(type), false, {});
    both.options.final_state = both.memory();
    apart.run(), both.run();
    CHECK((same_bits(apart.o, both.o) && same_bits(apart.s1, both.s0) && same_bits(apart.z1, both.z0)));
  }
}

TEST_CASE("16 bit: padding holds anything, without effect") {
  const std::vector<std::int32_t> seen{20, 9};
  for (const stored type : half_types)
    for (const bool decode : {false, true}) {
      half_linear x = example(type_mix::all(type), decode, {}), clean = example(type_mix::all(type), decode, {});
      x.options.mask = clean.options.mask = heed::key_lengths(seen);
      spoil_keys(x, seen);
      x.run(), clean.run();
      CHECK(same_results(x, clean));
    }
}

TEST_CASE("16 bit: every layout, off by an element: the same bits") { check_layouts(example); }
TEST_CASE("16 bit: the same bits for any executor, in a workspace of the planned size") { check_executors(example); }
TEST_CASE("16 bit: the plan of the float call, and its refusals") { check_plans(example); }
TEST_CASE("16 bit: subnormal numbers, and those beyond f16") { check_range(example); }
