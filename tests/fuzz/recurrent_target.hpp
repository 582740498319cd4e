// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Calls of linear and lightning attention out of bytes: forward and decode, double, or float with tensors of any
// storage types. Kernel: the cases and calls of one of the two.

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fuzz/numbers.hpp"
#include "fuzz/place.hpp"
#include "fuzz/tensors.hpp"
#include "fuzz/views.hpp"
#include "support/recurrent_half.hpp"

namespace heed_test {

inline shape read_recurrent_shape(bytes& in, bool one_axis) {
  shape s;
  s.batch = in.of<index_t>({1, 1, 1, 2, 2, 0});
  const auto [heads, kv_heads] =
      in.of<std::pair<index_t, index_t>>({{1, 1}, {2, 1}, {2, 2}, {4, 2}, {3, 1}, {0, 0}, {0, 2}, {6, 3}});
  s.heads = heads, s.kv_heads = kv_heads;
  s.queries = in.tokens(), s.keys = one_axis || in.one_in(2) ? s.queries : in.tokens();
  s.dim = in.dim(), s.value_dim = in.one_in(2) ? s.dim : in.dim();
  tell(to_string(s));
  return s;
}

// Masks that kernels with a state take, with the numbers that they view
struct recurrent_mask {
  heed::mask mask;
  heed::alignment align;
  index_t sequences;
  std::vector<std::int32_t> queries, keys, lengths, first;

  // one_axis: queries and keys are the same tokens
  recurrent_mask(bytes& in, shape& s, bool one_axis) {
    random_numbers random(in.byte() + 1u);
    const auto some = [&](index_t most) { return random.below(static_cast<std::int32_t>(most) + 1); };
    if (s.batch > 0 && in.one_in(5)) {
      s.batch = 1;
      const index_t cuts = in.below(5);
      for (index_t i = 0; i < cuts; ++i) queries.push_back(some(s.queries)), keys.push_back(some(s.keys));
      queries.push_back(0), queries.push_back(static_cast<std::int32_t>(s.queries));
      keys.push_back(0), keys.push_back(one_axis ? static_cast<std::int32_t>(s.keys) : some(s.keys));
      std::sort(queries.begin(), queries.end()), std::sort(keys.begin(), keys.end());
      if (one_axis) keys = queries;
      mask = mask & heed::packed(queries, keys);
      tell("packed, ", queries.size() - 1, " sequences");
    }
    sequences = queries.empty() ? s.batch : static_cast<index_t>(queries.size()) - 1;
    if (in.one_in(4)) {
      for (index_t b = 0; b < sequences; ++b) {
        const auto i = static_cast<std::size_t>(b);
        lengths.push_back(some(queries.empty() ? s.keys : keys[i + 1] - keys[i]));
      }
      mask = mask & heed::key_lengths(lengths), tell("key_lengths");
    }
    if (one_axis) return;
    if (in.one_in(2)) mask = mask & heed::causal(), tell("causal");
    const index_t kind = in.below(6);
    if (kind == 1) align = heed::top_left, tell("top_left");
    if (kind == 2) {
      const auto n = static_cast<std::int32_t>(s.queries), m = static_cast<std::int32_t>(s.keys);
      for (index_t b = 0; b < sequences; ++b) first.push_back(random.below(n + m + 7) - n - 3);
      align = heed::first_place(first), tell("first_place");
    }
    if (kind == 3 && !lengths.empty()) align = heed::end_of_lengths, tell("end_of_lengths");
  }
  recurrent_mask(const recurrent_mask&) = delete;
  recurrent_mask& operator=(const recurrent_mask&) = delete;
};

// Breaks the tensors of a call, or what is common to the options of both kernels. Returns the word of the error.
template <class Call, class Options>
std::string break_recurrent(bytes& in, Call& call, Options& options, const shape& s) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto* const initial = options.initial_state.s.data();
  switch (in.below(8)) {
    case 0:
      return break_view(in, call.q, false), "q";
    case 1:
      return break_view(in, call.k, false), "k";
    case 2:
      return break_view(in, call.v, false), "v";
    case 3:
      return break_view(in, call.o, true), "o";
    case 4:
      return options.scale = nan, "scale";
    case 5:
      return options.mask = options.mask & heed::window(3), "mask";
    case 6:
      if (initial == nullptr || options.initial_state.s.empty()) break;
      break_view(in, options.initial_state.s, false);
      if (options.initial_state.s.data() == nullptr) options.initial_state.s = {initial, {s.batch, 1, 1, -5}, {}};
      return "s";
    default:
      break;
  }
  return options.chunk = -1, "chunk";
}

// The calls of both kernels under one name. memory: of decode
inline void run_any(const stored_call& c, const linear_case<float>& x, bool decode,
                    const heed::state_view<float>& memory, const heed::context& ctx) {
  decode ? run_stored_decode(c, memory, x.options, ctx) : run_stored(c, x.options, ctx);
}
inline heed::plan plan_any(const stored_call& c, const linear_case<float>& x, bool decode,
                           const heed::state_view<float>& memory, const heed::context& ctx) {
  return decode ? plan_stored_decode(c, memory, x.options, ctx) : plan_stored(c, x.options, ctx);
}
inline void run_any(const stored_call& c, const lightning_case<float>& x, bool decode,
                    const heed::state_view<float>& memory, const heed::context& ctx) {
  decode ? run_stored_decode(c, x.decay(), memory, x.options, ctx) : run_stored(c, x.decay(), x.options, ctx);
}
inline heed::plan plan_any(const stored_call& c, const lightning_case<float>& x, bool decode,
                           const heed::state_view<float>& memory, const heed::context& ctx) {
  return decode ? plan_stored_decode(c, x.decay(), memory, x.options, ctx) : plan_stored(c, x.decay(), x.options, ctx);
}
using double_recurrence = recurrent_call<double>;
inline void run_any(const double_recurrence& c, const linear_case<double>& x, bool decode,
                    const heed::state_view<double>& memory, const heed::context& ctx) {
  decode ? run_decode<double>(c, memory, x.options, ctx) : run_forward<double>(c, x.options, ctx);
}
inline heed::plan plan_any(const double_recurrence& c, const linear_case<double>& x, bool decode,
                           const heed::state_view<double>& memory, const heed::context& ctx) {
  return decode ? run_plan_decode<double>(c, memory, x.options, ctx) : run_plan<double>(c, x.options, ctx);
}
inline void run_any(const double_recurrence& c, const lightning_case<double>& x, bool decode,
                    const heed::state_view<double>& memory, const heed::context& ctx) {
  decode ? run_decode<double>(c, x.decay(), memory, x.options, ctx) : run_forward<double>(c, x.decay(), x.options, ctx);
}
inline heed::plan plan_any(const double_recurrence& c, const lightning_case<double>& x, bool decode,
                           const heed::state_view<double>& memory, const heed::context& ctx) {
  return decode ? run_plan_decode<double>(c, x.decay(), memory, x.options, ctx)
                : run_plan<double>(c, x.decay(), x.options, ctx);
}

// Makes a case of `arguments`, changes it by edit(case, case for the reference), runs it, and holds it against the
// reference by compare(case, rounding of o). how: the layouts of stored tensors
template <class Base, class Edit, class Compare, class... Arguments>
void check_recurrence(bytes& in, bool decode, const layouts& how, const Edit& edit, const Compare& compare_results,
                      const Arguments&... arguments) {
  using T =
      std::conditional_t<std::is_same_v<Base, linear_case<double>> || std::is_same_v<Base, lightning_case<double>>,
                         double, float>;
  constexpr bool is_double = std::is_same_v<T, double>;
  using case_type = std::conditional_t<is_double, Base, half_recurrence<Base>>;
  case_type x = [&] {
    if constexpr (is_double)
      return Base(arguments...);
    else
      return half_recurrence<Base>(read_types(in), decode, how, arguments...);
  }();
  Base expected(arguments...);
  spoil(in, "q", x.q, gentle), spoil(in, "k", x.k, gentle), spoil(in, "v", x.v, gentle);
  spoil(in, "state", x.s0, gentle);
  if constexpr (is_double) {
    for (const buffer<T>* each : {&x.q, &x.k, &x.v, &x.s0, &x.z0}) each->poison_padding();
  } else {
    store_anew(x.at, x);
    x.s0.poison_padding(), x.z0.poison_padding();
  }
  copy_numbers(x.q, expected.q), copy_numbers(x.k, expected.k), copy_numbers(x.v, expected.v);
  copy_numbers(x.s0, expected.s0), copy_numbers(x.z0, expected.z0);
  edit(x, expected);
  const bool starts = decode || !in.one_in(4), in_place = decode || (starts && in.one_in(6)), ends = !in.one_in(4);
  x.options.initial_state = starts && !decode ? x.before() : heed::state_view<const T>();
  x.options.final_state = decode || !ends ? heed::state_view<T>() : in_place ? x.memory() : x.after();
  const bool written = decode || ends;
  if (!decode)
    tell(starts ? "" : "no ", "initial state, ", ends ? "" : "no ", "final state", in_place ? ", in place" : "");
  expected.options = x.options;
  expected.options.initial_state = starts ? expected.before() : heed::state_view<const T>();
  expected.options.final_state = written ? expected.after() : heed::state_view<T>();

  auto call = [&] {
    if constexpr (is_double)
      return double_recurrence(x.call());
    else
      return stored_call(x.call());
  }();
  set_absurd_strides(in, call.q), set_absurd_strides(in, call.k), set_absurd_strides(in, call.v);
  set_absurd_strides(in, call.o), set_absurd_strides(in, x.options.initial_state.s);
  heed::state_view<T> memory = x.memory();
  std::string wrong;
  if (in.one_in(12)) {
    if (decode && in.one_in(4))
      memory.s = {memory.s.data(), {x.sequences + 1, 1, 1, 1}, {}}, wrong = "memory";
    else
      wrong = break_recurrent(in, call, x.options, x.s);
    tell("wrong ", wrong);
  }

  const Base& base = x;
  const auto run = [&](const heed::context& ctx) { run_any(call, base, decode, memory, ctx); };
  const auto plan = [&](const heed::context& ctx) { return plan_any(call, base, decode, memory, ctx); };
  const auto outputs = [&] {
    const std::uint64_t states = 3 * x.s1.hash() ^ 5 * x.z1.hash() ^ (in_place ? 7 * x.s0.hash() ^ 9 * x.z0.hash() : 0);
    if constexpr (is_double)
      return x.o.hash() ^ states;
    else
      return x.at.o.hash() ^ states;
  };
  const auto inputs = [&] {
    const std::uint64_t states = in_place ? 0 : 7 * x.s0.hash() ^ 9 * x.z0.hash();
    if constexpr (is_double)
      return x.q.hash() ^ 3 * x.k.hash() ^ 5 * x.v.hash() ^ states;
    else
      return x.at.hash() ^ states;
  };
  place at(in);
  const std::uint64_t before = inputs();
  const bool ran = run_at(at, wrong, plan, run, outputs);
  demand(inputs() == before, "the call changes an input");
  demand(x.o.canaries_alive() && x.s1.canaries_alive() && x.z1.canaries_alive(), "the call writes outside its outputs");
  if constexpr (!is_double) demand(x.at.o.canaries_alive(), "the call writes outside o");
  if (!ran) return;
  storage_rounding rounding;
  if constexpr (!is_double) x.at.o.copy_to(x.o), rounding = rounding_of(x.at.types.o);
  const std::uint64_t bits = outputs();
  copy_numbers(x.o, expected.o);
  copy_numbers(in_place ? x.s0 : x.s1, expected.s1), copy_numbers(in_place ? x.z0 : x.z1, expected.z1);
  const verdict result = compare_results(expected, rounding);
  demand(result.worst <= 1, result.where);
  if (in_place || !in.one_in(8)) return;
  test_executor others(in.between(1, 5), order::shuffled);
  run({.executor = others});
  demand(outputs() == bits, "bits depend on the executor");
}

}  // namespace heed_test
