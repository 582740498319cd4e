// SPDX-License-Identifier: BSD-3-Clause

// linear::backward of 16-bit tensors, gradients in float: the bits of the float call of the same numbers, for every mix
// of types, feature map, mask, state and layout.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_half_backward.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using type = linear_backward_case<float>;

constexpr shape some_shapes[] = {{2, 4, 2, 37, 37, 20, 12}, {1, 2, 1, 3, 3, 33, 17}, {1, 2, 2, 130, 130, 9, 5}};
constexpr feature maps[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                            feature::silu,     feature::exp,          feature::softmax, feature::taylor};

auto maker(const shape& s, const linear_options& how, index_t count = -1) {
  return [=] { return type(s, how, {}, count); };
}
type example() { return type(some_shapes[0], {.mask = heed::causal()}); }

}  // namespace

TEST_CASE("backward, 16 bit: every mix of float, bf16 and f16") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const heed::mask& mask : {heed::causal(), heed::mask{}}) check_half(types, maker(s, {.mask = mask}));
  });
}

TEST_CASE("backward, 16 bit: every feature map, with scale and denominator") {
  std::size_t turn = 0;
  for (const feature map : maps)
    for (const shape& s : some_shapes)
      for (const stored kind : half_types) {
        const bool normalize = map != feature::identity && map != feature::silu && ++turn % 3 != 0;
        check_half(type_mix::all(kind),
                   maker(s, {.mask = heed::causal(), .scale = 0.7, .feature = map, .normalize = normalize}));
      }
}

TEST_CASE("backward, 16 bit: head dims around the vectors, tokens around the chunk") {
  for (index_t d = 1; d <= 35; ++d)
    check_half(type_mix::all(half_types[d % 2]), maker({1, 2, 1, 18, 18, d, 36 - d}, {.mask = heed::causal()}));
  for (const index_t n : {0, 1, 7, 8, 9, 29})
    for (const stored kind : half_types) check_half(type_mix::all(kind), maker({1, 2, 1, n, n, 24, 16}, {.chunk = 8}));
  check_half(type_mix::all(stored::f16), maker({1, 1, 1, 70, 70, 300, 200}, {.mask = heed::causal()}));
}

TEST_CASE("backward, 16 bit: masks, other numbers of queries, packed sequences, padding that holds anything") {
  static const std::vector<std::int32_t> seen{20, 0, 9}, at{0, 0, 1, 6, 6, 76};
  for (const stored kind : half_types) {
    for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::key_lengths(seen)})
      for (const heed::alignment& align : {heed::bottom_right, heed::top_left})
        for (const index_t n : {3, 40})
          check_half(type_mix::all(kind), maker({3, 4, 2, n, 33, 20, 12}, {.mask = mask, .align = align}));
    for (const feature map : {feature::elu_plus_one, feature::taylor})
      check_half(type_mix::all(kind),
                 maker({1, 4, 2, 76, 76, 12, 9}, {.mask = heed::causal() & heed::packed(at, at), .feature = map}, 5));
    check_half(type_mix::all(kind), maker({3, 4, 2, 33, 33, 20, 12}, {.mask = heed::key_lengths(seen)}), [](type& x) {
      for (index_t b = 0; b < 3; ++b)
        for (index_t j = seen[static_cast<std::size_t>(b)]; j < 33; ++j)
          x.k(b, 1, j, 19) = x.v(b, 1, j, 11) = std::numeric_limits<float>::quiet_NaN();
    });
  }
}

TEST_CASE("backward, 16 bit: no states") {
  for (const stored kind : half_types)
    check_half(type_mix::all(kind), example, [](type& x) { x.options.initial_state = {}, x.asked.dfinal_state = {}; });
}

TEST_CASE("backward, 16 bit: every layout, off by an element, any executor, in a workspace: the same bits") {
  check_half_layouts(example);
}
TEST_CASE("backward, 16 bit: the plan of the float call, and its refusals") { check_half_plans(example); }

TEST_CASE("backward, 16 bit: o rounded to its type costs the error of that rounding, and no more") {
  for (const stored kind : half_types) {
    type x = example();
    const auto exact = mapped(x.q, [](double a) { return a; });
    const stored_inputs in(x, type_mix::all(kind));
    run_stored(in.call(), x, {});
    const linear_backward_inputs numbers = inputs_of(x, feature::elu_plus_one, true);
    const linear_gradients expected = reference_gradients(numbers), size = gradient_sizes(numbers);
    // d_i = g_i.o_i is off by |g_i|.|o_i| half units in the last place: less than those of the sizes
    const double rounding = std::ldexp(1.0, kind == stored::bf16 ? -8 : -11);
    verdict result;
    compare(result, "dq", x.dq, expected.dq, size.dq, rounding),
        compare(result, "dk", x.dk, expected.dk, size.dk, rounding);
    INFO(result.where);
    CHECK(result.worst <= 1);
    CHECK(compare_gradients(x).worst > 1);
  }
}
