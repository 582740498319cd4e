// SPDX-License-Identifier: BSD-3-Clause

// softmax::backward of 16-bit tensors with gradients in float: every mix of types. o and lse are those of a forward in
// float of the same numbers, o rounded to what is stored; and those of forward with the 16-bit tensors themselves.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/half_backward_case.hpp"
#include "support/messages.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr shape some_shapes[] = {
    {2, 4, 2, 37, 53, 20, 12}, {1, 1, 1, 70, 200, 33, 17}, {2, 7, 1, 1, 140, 24, 33}, {1, 2, 6, 3, 41, 9, 5}};

void check_half(half_backward& x, bool as_stored = false) {
  INFO(to_string(x.s) << ", " << to_string(x.at.types) << (as_stored ? ", o as stored" : ""));
  exactness how{0, rounding_of(x.at.types.o)};
  if (as_stored)
    how = x.forward_as_stored();
  else
    x.forward_in_float();
  const std::uint64_t before = x.hash() ^ x.lse.hash();
  x.backward();
  const verdict result = compare(x, expected(x, x.options, how));
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK((x.hash() ^ x.lse.hash()) == before);
  bool whole = true;
  for (const buffer<float>* each : x.outputs()) whole = whole && each->canaries_alive();
  for (const buffer<float>* each : x.written_by_backward()) whole = whole && all_written(*each);
  CHECK(whole);
}
void check_half(const type_mix& types, const shape& s, const heed::softmax::options<float>& how = {},
                const layouts& in = {}, const gradient_layouts& of = {}) {
  half_backward x(types, types.o, s, how, in, of);
  check_half(x);
}

}  // namespace

TEST_CASE("16 bit: gradients of every mix of float, bf16 and f16") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const bool causal : {false, true}) {
        if (thinning > 1 && &s != &some_shapes[0]) continue;
        half_backward x(types, causal ? stored::f32 : types.o, s, {.mask = causal ? heed::causal() : heed::mask{}});
        check_half(x);
      }
  });
}

TEST_CASE("16 bit: gradients after a forward of the same tensors") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes)
      for (const bool causal : {false, true}) {
        half_backward x(type_mix::all(type), type, s,
                        {.mask = causal ? heed::causal() : heed::mask{}, .sink_logits = 0.4});
        check_half(x, true);
      }
  half_backward large(type_mix::all(stored::bf16), stored::bf16, {1, 2, 1, 300, 300, 64, 64}, {.mask = heed::causal()});
  check_half(large, true);
}

TEST_CASE("16 bit: gradients for the shapes that all kernels share") {
  std::size_t turn = 0;
  half_backward large(type_mix::all(stored::bf16), stored::bf16, {1, 1, 1, 1000, 1000, 64, 64});
  const heed::plan plan =
      plan_stored_backward({large.call(), large.stored_dout.cview()}, large.wanted, large.options, {});
  REQUIRE(plan.ok());
  for (const shape& s : shape_list(plan.query_tile, std::min<index_t>(plan.key_tile, 128)))
    if (turn++ % thinning == 0)
      check_half(type_mix::all(half_types[turn % 2]), s, {.mask = turn / 3 % 2 == 0 ? heed::causal() : heed::mask{}});
}

TEST_CASE("16 bit: gradients for head dims around the vectors") {
  for (index_t d = 1; d <= 35; d += thinning == 1 ? 1 : 7)
    check_half(type_mix::all(half_types[d % 2]), {1, 1, 1, 33, 20, d, 36 - d});
  check_half(type_mix::all(stored::bf16), {1, 1, 1, 20, 40, 300, 500});
}

TEST_CASE("16 bit: without lse, and where making it takes more scratch than the gradients") {
  half_backward x(type_mix::all(stored::bf16), stored::bf16, {1, 1, 1, 5, 1, 600, 8});
  x.forward_in_float();
  x.backward();
  std::vector<float> with_lse;
  for (index_t e = 0; e < 8; ++e) with_lse.push_back(x.dv(0, 0, 0, e));
  x.options.lse = {};
  x.wanted.dq = {}, x.wanted.dk = {}, x.wanted.dlse = {};
  x.backward();
  for (index_t e = 0; e < 8; ++e)
    CHECK(x.dv(0, 0, 0, e) == Approx(with_lse[static_cast<std::size_t>(e)]).epsilon(1e-4));
}

TEST_CASE("16 bit: gradients under every mask and option") {
  std::size_t turn = 0;
  const shape s{2, 4, 2, 25, 60, 20, 12};
  const mask_set set(s);
  for (const auto& [mask_name, mask] : set.masks)
    for (const auto& [place_name, align] : set.alignments) {
      if (turn++ % thinning != 0) continue;
      INFO(mask_name << ", " << place_name);
      check_half(type_mix::all(half_types[turn % 2]), s, {.mask = mask, .align = align});
    }
  const option_parts<float> parts(s);
  for (const auto& each : parts.all) {
    if (turn++ % thinning != 0) continue;
    INFO(each.name);
    for (const stored type : half_types) check_half(type_mix::all(type), s, parts.of({&each}, parts.whole()));
  }
}

TEST_CASE("16 bit: gradients in every layout have the same bits") {
  for (const stored type : half_types)
    for (const shape& s : {some_shapes[0], some_shapes[3]}) {
      half_backward plain(type_mix::all(type), type, s, {.mask = heed::causal()});
      check_half(plain);
      for (std::size_t turn = 0; turn < std::size(output_layouts); ++turn) {
        const auto pick = [&](std::size_t step) {
          return output_layouts[(turn * step + step) % std::size(output_layouts)];
        };
        const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
        half_backward x(type_mix::all(type), type, s, {.mask = heed::causal()}, in,
                        {pick(3), pick(2), pick(1), pick(4), pick(5), pick(1)});
        check_half(x);
        CHECK(same_gradients(x, plain));
      }
    }
}

TEST_CASE("16 bit: gradients have the same bits for any executor") {
  for (const shape& s : {shape{2, 4, 2, 70, 90, 16, 16}, shape{1, 1, 1, 150, 200, 16, 16}}) {
    half_backward serial(type_mix::all(stored::bf16), stored::bf16, s, {.mask = heed::causal()});
    check_half(serial);
    for (index_t workers = 1; workers <= 5; ++workers)
      for (const bool threads : {false, true}) {
        test_executor executor(workers, order::shuffled, threads);
        half_backward x(type_mix::all(stored::bf16), stored::bf16, s, {.mask = heed::causal()});
        x.forward_in_float(), x.backward({.executor = executor});
        CHECK(same_gradients(x, serial));
      }
  }
}

TEST_CASE("16 bit: hidden keys hold anything, without effect on gradients; what is seen arrives") {
  for (const stored type : half_types)
    for (const shape& s : {some_shapes[0], some_shapes[1]}) {
      const std::vector<std::int32_t> half(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.keys / 2));
      const heed::softmax::options<float> how{.mask = heed::key_lengths(half) & heed::causal()};
      half_backward clean(type_mix::all(type), type, s, how), x(type_mix::all(type), type, s, how);
      check_half(clean);
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < s.kv_heads; ++h)
          for (index_t j = s.keys / 2; j < s.keys; ++j) x.k(b, h, j, 1) = x.v(b, h, j, 2) = not_a_number;
      x.forward_in_float(), x.backward();
      CHECK(same_gradients(x, clean));
      for (int kind = 0; kind < 4; ++kind) {
        half_backward y(type_mix::all(type), type, s, {.mask = heed::causal()});
        (kind == 0   ? y.k
         : kind == 1 ? y.v
         : kind == 2 ? y.q
                     : y.dout)(0, 0, (kind < 2 ? s.keys : s.queries) / 2, 1) = not_a_number;
        check_half(y);
      }
    }
}
