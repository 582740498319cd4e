// SPDX-License-Identifier: BSD-3-Clause

// mixture_of_head::forward of 16-bit tensors beside the reference, with gates in float.

#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/half_case.hpp"
#include "support/mixture_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

struct half_mixture : stored_case<mixture_case<float>> {
  explicit half_mixture(const type_mix& types, const shape& size, gating how = gating::random,
                        const heed::softmax::options<float>& with = {}, const layouts& in = {})
      : stored_case(types, size, in, how, with, layouts{.lse = in.lse, .skew = in.skew}) {}

  heed::plan plan(const heed::context& ctx = {}) const {
    return plan_stored_mixture(call(), gates.view3(), options, ctx);
  }
  void forward(const heed::context& ctx = {}) {
    run([&](const stored_call& x) { run_stored_mixture(x, gates.view3(), options, ctx); });
  }
};

void check(half_mixture& x, const heed::context& ctx = {}) {
  const exactness how = x.exact(x.plan(ctx));
  x.check([&](const stored_call& c) { run_stored_mixture(c, x.gates.view3(), x.options, ctx); },
          [&] { return compare_mixture(x, x.options, how); });
}
void check(const type_mix& types, const shape& s, gating how, const heed::softmax::options<float>& with = {}) {
  INFO(name_of(how));
  half_mixture x(types, s, how, with);
  check(x);
}

constexpr shape some_shapes[] = {
    {2, 4, 2, 90, 140, 12, 9}, {1, 3, 3, 70, 130, 20, 16}, {2, 4, 2, 3, 90, 33, 24}, {1, 6, 1, 40, 50, 64, 64}};

}  // namespace

TEST_CASE("16 bit: every mix of types, every pattern of gates in turn") {
  std::size_t turn = 0;
  each_mix([&](const type_mix& types) {
    for (const shape& s : some_shapes)
      if (turn++ % thinning == 0)
        check(types, s, gatings[turn % std::size(gatings)], {.mask = turn % 2 == 0 ? heed::causal() : heed::mask{}});
  });
}

TEST_CASE("16 bit: bf16 and f16, the shapes that all kernels share") {
  std::size_t turn = 0;
  for (shape s : shape_list(64, 256)) {
    if (s.heads < s.kv_heads) std::swap(s.heads, s.kv_heads);
    if (turn++ % thinning != 0) continue;
    check(type_mix::all(half_types[turn % 2]), s, gatings[turn / 2 % std::size(gatings)],
          {.mask = turn % 3 == 0 ? heed::causal() : heed::mask{}});
  }
}

TEST_CASE("16 bit: every mask and every option") {
  std::size_t turn = 0;
  for (const shape& s : {some_shapes[0], some_shapes[2]}) {
    const mask_set set(s);
    const option_parts<float> parts(s);
    for (const auto& [name, mask] : set.masks) {
      INFO(name);
      ++turn;
      check(type_mix::all(half_types[turn % 2]), s, gating::random,
            {.mask = mask, .align = set.alignments[turn / 2 % 4].align});
    }
    for (const auto& part : parts.all)
      for (const stored type : half_types) {
        INFO(part.name);
        check(type_mix::all(type), s, gating::random, parts.of({&part}, parts.whole()));
      }
  }
}

TEST_CASE("16 bit: with all gates 1 the bits of softmax; what is off is 0 in o's type, whatever its q holds") {
  constexpr float bad = std::numeric_limits<float>::quiet_NaN();
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      const heed::softmax::options<float> how{.mask = heed::causal()};
      half_mixture all(type_mix::all(type), s, gating::all_ones, how),
          some(type_mix::all(type), s, gating::random, how);
      half_mixture clean(type_mix::all(type), s, gating::random, how);
      half_case softmax(type_mix::all(type), s, how);
      all.forward(), softmax.forward(), clean.forward();
      CHECK((same_bits(all.o, softmax.o) && same_bits(all.lse, softmax.lse)));
      const auto each_off = [&](auto f) {
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.heads; ++h)
            for (index_t i = 0; i < s.queries; ++i)
              if (some.gates(b, h, i) == 0) f(b, h, i);
      };
      each_off([&](index_t b, index_t h, index_t i) { some.q(b, h, i, 0) = bad; });
      some.forward();
      CHECK((same_bits(some.o, clean.o) && same_bits(some.lse, clean.lse)));
      bool zero = some.at.o.canaries_alive();
      each_off([&](index_t b, index_t h, index_t i) {
        for (index_t e = 0; e < s.value_dim; ++e) zero = zero && some.o(b, h, i, e) == 0;
        zero = zero && some.lse(b, h, i) == -HUGE_VALF;
      });
      CHECK(zero);
    }
}

TEST_CASE("16 bit: every layout, off by an element, and any executor: the same bits") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      half_mixture plain(type_mix::all(type), s);
      check(plain);
      for (const layout how : output_layouts) {
        half_mixture x(type_mix::all(type), s, gating::random, {}, {how, how, how, how, how, 1});
        INFO(name_of(how));
        check(x);
        CHECK((same_bits(x.o, plain.o) && same_bits(x.lse, plain.lse)));
      }
      for (index_t workers = 1; workers <= 4; ++workers) {
        test_executor executor(workers, order::shuffled, workers > 2);
        half_mixture x(type_mix::all(type), s);
        std::vector<std::byte> memory(x.plan({.executor = executor}).workspace_bytes);
        x.forward({.executor = executor, .workspace = memory});
        CHECK((same_bits(x.o, plain.o) && same_bits(x.lse, plain.lse)));
      }
    }
}

// Rows that are off are cleared past the caches where o is longer than these.
TEST_CASE("16 bit: a long o in 16 bit is cleared") {
  for (const stored type : half_types) {
    half_mixture x(type_mix::all(type), {1, 64, 1, 600, 3, 8, 72}, gating::few, {}, {.o = layout::bshd, .skew = 1});
    x.forward();
    index_t wrong = 0;
    for (index_t h = 0; h < 64; ++h)
      for (index_t i = 0; i < 600; ++i)
        for (index_t e = 0; e < 72; ++e) wrong += x.gates(0, h, i) == 0 && !(x.o(0, h, i, e) == 0) ? 1 : 0;
    CHECK(wrong == 0);
    CHECK((x.at.o.all_written() && x.at.o.canaries_alive()));
  }
}

TEST_CASE("16 bit: the plan of a 16-bit call") {
  each_mix([](const type_mix& types) {
    const half_mixture x(types, some_shapes[0]);
    const heed::plan plan = x.plan(), as_float = half_mixture(type_mix::all(stored::f32), some_shapes[0]).plan();
    REQUIRE(plan.ok());
    CHECK(plan.tasks > 0);
    CHECK(std::string(plan.isa) == as_float.isa);
    if (!types.all_bf16()) CHECK(std::string(plan.path) == as_float.path);
    CHECK(std::string(plan.why.data()).find("rows active") != std::string::npos);
  });
}
