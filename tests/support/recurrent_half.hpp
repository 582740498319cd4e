// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Calls of linear and lightning attention with tensors of any storage types; states and gates are float. Widening is
// exact and all sums are those of the float call: a result must have its bits, o rounded to what it is stored as, and
// be within the float call's tolerance of the reference, plus that rounding.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"
#include "support/recurrent_case.hpp"
#include "support/stored.hpp"
#include "support/stored_run.hpp"

namespace heed_test {

inline void run_stored(const stored_call& c, const linear_case<float>& x, bool decode, const heed::context& ctx) {
  decode ? run_stored_decode(c, x.memory(), x.options, ctx) : run_stored(c, x.options, ctx);
}
inline void run_stored(const stored_call& c, const lightning_case<float>& x, bool decode, const heed::context& ctx) {
  decode ? run_stored_decode(c, x.decay(), x.memory(), x.options, ctx) : run_stored(c, x.decay(), x.options, ctx);
}
inline heed::plan plan_stored(const stored_call& c, const linear_case<float>& x, bool decode,
                              const heed::context& ctx) {
  return decode ? plan_stored_decode(c, x.memory(), x.options, ctx) : plan_stored(c, x.options, ctx);
}
inline heed::plan plan_stored(const stored_call& c, const lightning_case<float>& x, bool decode,
                              const heed::context& ctx) {
  return decode ? plan_stored_decode(c, x.decay(), x.memory(), x.options, ctx)
                : plan_stored(c, x.decay(), x.options, ctx);
}

// Base: linear_case<float> or lightning_case<float>. q, k and v hold what is stored.
template <class Base> struct half_recurrence : Base {
  stored_tensors at;
  bool decode;  // or forward

  template <class... More>
  half_recurrence(const type_mix& types, bool decodes, const layouts& in, const More&... more)
      : Base(more...), at(*this, types, in), decode(decodes) {}

  stored_call call() const { return {at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()}; }
  void run(const heed::context& ctx = {}) {
    at.take(*this);
    run_stored(call(), static_cast<const Base&>(*this), decode, ctx);
    at.o.copy_to(this->o);
  }
  heed::plan stored_plan(const heed::context& ctx = {}) const {
    return plan_stored(call(), static_cast<const Base&>(*this), decode, ctx);
  }
  const buffer<float>& s_after() const { return decode ? this->s0 : this->s1; }
  const buffer<float>& z_after() const { return decode ? this->z0 : this->z1; }
};

// Writes NaN into the padding of a call: behind seen[b] keys of sequence b.
template <class Base> void spoil_keys(const half_recurrence<Base>& x, const std::vector<std::int32_t>& seen) {
  for (index_t b = 0; b < x.s.batch; ++b)
    for (index_t j = seen[static_cast<std::size_t>(b)]; j < x.s.keys; ++j)
      x.k(b, 1, j, x.s.dim - 1) = x.v(b, 1, j, x.s.value_dim - 1) = std::numeric_limits<float>::quiet_NaN();
}

template <class Base> bool same_results(const half_recurrence<Base>& a, const half_recurrence<Base>& b) {
  return same_bits(a.o, b.o) && same_bits(a.s_after(), b.s_after()) && same_bits(a.z_after(), b.z_after());
}

template <class F> bool all_are(const buffer<float>& x, F f) {
  bool all = true;
  x.each([&](float each) { all = all && f(each); });
  return all;
}

// Holds x.run()'s results against the reference's forward of the same numbers; initial: a case with the states before,
// which takes those results.
template <class Base> verdict compare_half(half_recurrence<Base>& x, Base& initial) {
  std::swap(initial.o, x.o), std::swap(initial.s1, x.decode ? x.s0 : x.s1);
  std::swap(initial.z1, x.decode ? x.z0 : x.z1);
  if constexpr (std::is_same_v<Base, linear_case<float>>)
    if (x.decode) initial.options.mask = initial.options.mask & heed::causal();
  return compare(initial, rounding_of(x.at.types.o));
}

// What must hold of every call; arguments: of the case. edit(case) changes its numbers or options.
template <class Base, class Edit, class... Arguments>
void check_edited(const type_mix& types, bool decode, const Edit& edit, const Arguments&... arguments) {
  half_recurrence<Base> x(types, decode, {}, arguments...),
      as_float(type_mix::all(stored::f32), decode, {}, arguments...);
  Base initial(arguments...);
  edit(x), edit(as_float), edit(initial);
  x.at.take(as_float), x.at.take(initial), x.at.take(x);
  const std::uint64_t before = x.at.hash();
  x.run(), as_float.run();
  as_float.o.each([&](float& each) { each = rounded(types.o, each); });
  INFO(to_string(x.s) << ", " << to_string(types) << (decode ? ", decode" : ", forward") << ", chunk "
                      << x.options.chunk);
  CHECK(same_results(x, as_float));
  const bool kept = x.at.hash() == before && x.s1.canaries_alive() && x.z1.canaries_alive();
  const bool filled = x.at.o.canaries_alive() && x.at.o.all_written() && all_written(x.s_after());
  const verdict result = compare_half(x, initial);
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK(kept);
  CHECK(filled);
}
template <class Base, class... Arguments>
void check_half(const type_mix& types, bool decode, const Arguments&... arguments) {
  check_edited<Base>(types, decode, [](auto&) {}, arguments...);
}

// Tests of both kernels. make(types, decode, layouts): a case whose v has fewer columns than its k.
template <class Make> void check_layouts(const Make& make) {
  for (const stored type : half_types)
    for (const bool decode : {false, true}) {
      auto plain = make(type_mix::all(type), decode, layouts{});
      plain.run();
      for (const layout how : output_layouts) {
        auto x = make(type_mix::all(type), decode, layouts{how, how, how, how, how, 1});
        x.run();
        INFO(name_of(how) << ", " << name_of(type));
        CHECK((same_results(x, plain) && x.at.o.canaries_alive() && x.at.o.all_written()));
      }
    }
}

template <class Make> void check_executors(const Make& make) {
  for (const stored type : half_types)
    for (const bool decode : {false, true}) {
      auto plain = make(type_mix::all(type), decode, layouts{});
      plain.run();
      for (index_t workers = 1; workers <= 4; ++workers) {
        test_executor executor(workers, order::shuffled, workers > 2);
        auto x = make(type_mix::all(type), decode, layouts{});
        std::vector<std::byte> memory(x.stored_plan({.executor = executor}).workspace_bytes);
        x.run({.executor = executor, .workspace = memory});
        CHECK(same_results(x, plain));
      }
    }
}

// The plan is that of a float call, but for the scratch; a refusal is thrown before anything is written.
template <class Make> void check_plans(const Make& make) {
  each_mix([&](const type_mix& types) {
    for (const bool decode : {false, true}) {
      const auto x = make(types, decode, layouts{});
      const heed::plan plan = x.stored_plan(),
                       plain = make(type_mix::all(stored::f32), decode, layouts{}).stored_plan();
      REQUIRE(plan.ok());
      CHECK((std::string(plan.path) == plain.path && plan.chunk == plain.chunk && plan.tasks == plain.tasks));
      stored_call bad = x.call();
      bad.v = bad.k;  // with more columns than o
      const std::string text = thrown_by([&] { run_stored(bad, x, decode, {}); });
      INFO(text);
      CHECK(!text.empty());
      CHECK(text == plan_stored(bad, x, decode, {}).problem.data());
      CHECK(x.at.o.untouched());
    }
  });
}

// Subnormal floats, and with them bf16 numbers, count as 0; those of f16 are exact. Beyond f16 is infinite.
template <class Make> void check_range(const Make& make) {
  const auto is_zero = [](float x) { return x == 0; };
  for (const bool decode : {false, true}) {
    auto zero = make(type_mix::all(stored::bf16), decode, layouts{});
    zero.v.fill(std::ldexp(1.0f, -130)), zero.s0.fill(0), zero.run();
    CHECK(all_are(zero.o, is_zero));
    const type_mix widened{stored::f16, stored::f16, stored::f32};
    auto kept = make(widened, decode, layouts{}), unit = make(widened, decode, layouts{});
    kept.v.fill(0x1p-24f), kept.s0.fill(0), unit.v.fill(1), unit.s0.fill(0);
    kept.run(), unit.run();
    unit.o.each([](float& each) { each *= 0x1p-24f; });
    CHECK_FALSE(all_are(unit.o, is_zero));
    CHECK(same_bits(kept.o, unit.o));
    auto wide = make({stored::f32, stored::f32, stored::f16}, decode, layouts{});
    wide.v.fill(1e30f), wide.run();
    CHECK(all_are(wide.o, [](float x) { return std::isinf(x); }));
  }
}

}  // namespace heed_test
