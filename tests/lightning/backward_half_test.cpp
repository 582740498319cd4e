// SPDX-License-Identifier: BSD-3-Clause

// lightning::backward of 16-bit tensors, gradients and gates in float: the bits of the float call of the same numbers,
// for every mix of types, decay, mask, state and layout.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_half_backward.hpp"

using namespace heed_test;

namespace {

using type = lightning_backward_case<float>;

constexpr shape some_shapes[] = {{2, 4, 2, 37, 37, 20, 12}, {1, 2, 1, 3, 3, 33, 17}, {1, 2, 2, 130, 130, 9, 5}};
constexpr std::int32_t cuts = 9;  // a gate in so many closes

template <class Edit>
void check(const type_mix& types, const shape& s, const lightning_options& how, index_t count, const Edit& edit) {
  for (const index_t heads : {s.heads, s.kv_heads}) {
    check_half(types, [&] { return type(s, some_slopes(heads), how, {}, count); }, edit);
    check_half(types, [&] { return type(s, heads, cuts, how, {}, count); }, edit);
  }
}
void check(const type_mix& types, const shape& s, const lightning_options& how = {}, index_t count = -1) {
  check(types, s, how, count, [](type&) {});
}
type with_slopes() { return type(some_shapes[0], some_slopes(4)); }
type with_gates() { return type(some_shapes[0], index_t{2}, cuts); }

}  // namespace

TEST_CASE("backward, 16 bit: every mix of float, bf16 and f16, slopes and gates") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes) check(types, s);
  });
}

TEST_CASE("backward, 16 bit: head dims around the vectors, tokens around the chunk") {
  for (index_t d = 1; d <= 35; ++d)
    check(type_mix::all(half_types[d % 2]), {1, 2, 1, 18, 18, d, 36 - d}, {.scale = 0.7});
  for (const index_t n : {0, 1, 7, 8, 9, 29})
    for (const stored kind : half_types) check(type_mix::all(kind), {1, 2, 1, n, n, 24, 16}, {.chunk = 8});
  check(type_mix::all(stored::f16), {1, 1, 1, 70, 70, 300, 200});
}

TEST_CASE("backward, 16 bit: lengths, packed sequences, padding that holds anything, no states") {
  static const std::vector<std::int32_t> seen{20, 0, 9}, at{0, 0, 1, 6, 6, 76};
  for (const stored kind : half_types) {
    check(type_mix::all(kind), {3, 4, 2, 33, 33, 20, 12}, {.mask = heed::key_lengths(seen)});
    check(type_mix::all(kind), {1, 4, 2, 76, 76, 12, 9}, {.mask = heed::packed(at, at)}, 5);
    check(type_mix::all(kind), {3, 4, 2, 33, 33, 20, 12}, {.mask = heed::key_lengths(seen)}, -1, [](type& x) {
      for (index_t b = 0; b < 3; ++b)
        for (index_t j = seen[static_cast<std::size_t>(b)]; j < 33; ++j)
          x.k(b, 1, j, 19) = x.v(b, 1, j, 11) = std::numeric_limits<float>::quiet_NaN();
    });
    check(type_mix::all(kind), some_shapes[0], {}, -1,
          [](type& x) { x.options.initial_state = {}, x.asked.dfinal_state = {}; });
  }
}

TEST_CASE("backward, 16 bit: every layout, off by an element, any executor, in a workspace: the same bits") {
  check_half_layouts(with_slopes), check_half_layouts(with_gates);
}
TEST_CASE("backward, 16 bit: the plan of the float call, and its refusals") { check_half_plans(with_gates); }

// Subnormal floats, and with them bf16 numbers, count as 0; those of f16 are exact.
TEST_CASE("backward, 16 bit: subnormal numbers") {
  const auto run = [](const type_mix& types, float dout) {
    type x = with_slopes();
    x.asked.dfinal_state = {};
    x.dout.fill(dout);
    const stored_inputs in(x, types);
    run_stored(in.call(), x, {});
    return x;
  };
  const type zero = run(type_mix::all(stored::bf16), std::ldexp(1.0f, -130));
  bool all_zero = true;
  for (const buffer<float>* const dx : {&zero.dq, &zero.dk, &zero.dv, &zero.ds0})
    dx->each([&](float a) { all_zero = all_zero && a == 0; });
  CHECK(all_zero);
  const type unit = run(type_mix::all(stored::f16), 1), kept = run(type_mix::all(stored::f16), 0x1p-24f);
  bool same = true;
  for (const auto& [a, b] :
       {std::pair{&unit.dq, &kept.dq}, std::pair{&unit.dk, &kept.dk}, std::pair{&unit.dv, &kept.dv}})
    for (index_t i = 0; i < 37; ++i)
      for (index_t d = 0; d < a->size()[3]; ++d)
        same = same && (*a)(1, 1, i, d) * 0x1p-24f == (*b)(1, 1, i, d) && (*b)(1, 1, i, d) != 0;
  CHECK(same);
}
