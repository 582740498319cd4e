// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of linear and lightning attention out of bytes: double, or float with tensors of any storage types.

#include <string>
#include <type_traits>

#include "fuzz/recurrent_target.hpp"
#include "support/recurrent_half_backward.hpp"

namespace heed_test {

template <class Options> void set_scale_and_chunk(bytes& in, Options& how) {
  if (in.one_in(3)) how.scale = in.of({0.5, -0.3, 2.0, 1e-10, 0.0});
  if (in.one_in(3)) how.chunk = in.one_in(6) ? 100000 : in.between(1, 70);
  tell("scale ", how.scale, ", chunk ", how.chunk);
}

// Runs backward of a case and holds the gradients against compare_all(). outputs: what it may write; reads_o: whether
// it reads the output of forward
template <class T, class Case, class Compare>
void check_gradients(bytes& in, Case& x, const buffers<T>& outputs, bool reads_o, const Compare& compare_all) {
  constexpr bool is_double = std::is_same_v<T, double>;
  spoil(in, "q", x.q, gentle), spoil(in, "k", x.k, gentle), spoil(in, "v", x.v, gentle);
  spoil(in, "state", x.s0, gentle), spoil(in, "dout", x.dout, gentle), spoil(in, "dfinal_state", x.ds1, gentle);
  const unsigned left_out = in.of({0u, 0u, in.byte()});
  if (left_out & 1) x.asked.dq = {};
  if (left_out & 2) x.asked.dk = {};
  if (left_out & 4) x.asked.dv = {};
  if (left_out & 8) x.asked.dinitial_state = {};
  if (left_out & 16) x.asked.dfinal_state = {};
  if (left_out & 32) x.options.initial_state = {};
  if (left_out != 0) tell("left out: ", left_out);

  auto inputs = [&] {
    if constexpr (is_double)
      return x.forward(), 0;
    else
      return stored_inputs<Case>(x, read_types(in));
  }();
  x.options.final_state = {};
  std::string wrong;
  if (in.one_in(12)) {
    const index_t kind = in.below(7);
    if (kind == 0 && x.asked.dq.data() != nullptr) break_view(in, x.asked.dq, true), wrong = "dq";
    if (kind == 1 && x.asked.dk.data() != nullptr) break_view(in, x.asked.dk, true), wrong = "dk";
    if (kind == 2 && x.asked.dv.data() != nullptr) break_view(in, x.asked.dv, true), wrong = "dv";
    if (x.asked.dq.data() == nullptr && kind == 0) wrong.clear();
    if (x.asked.dk.data() == nullptr && kind == 1) wrong.clear();
    if (x.asked.dv.data() == nullptr && kind == 2) wrong.clear();
    if (kind == 3) x.options.scale = std::numeric_limits<double>::quiet_NaN(), wrong = "scale";
    if (kind == 4) x.options.chunk = -7, wrong = "chunk";
    if (kind == 5) x.options.mask = x.options.mask & heed::window(2), wrong = "mask";
    if (kind == 6) x.asked.dinitial_state.s = {&x.ds0(0, 0, 0), {x.sequences + 1, 1, 1, 1}, {}}, wrong = "s";
    if (!wrong.empty()) tell("wrong ", wrong);
  }
  const auto plan = [&](const heed::context& ctx) {
    if constexpr (is_double)
      return x.plan_backward(ctx);
    else
      return plan_stored(inputs.call(), x, ctx);
  };
  const auto run = [&](const heed::context& ctx) {
    if constexpr (is_double)
      x.backward(ctx);
    else
      run_stored(inputs.call(), x, ctx);
  };
  const auto written = [&] { return hash_of<T>(outputs); };
  place at(in);
  const bool ran = run_at(at, wrong, plan, run, written);
  for (const buffer<T>* each : outputs) demand(each->canaries_alive(), "backward writes outside a gradient");
  if (!ran) return;
  const std::uint64_t bits = written();
  bool exact = true;
  if constexpr (!is_double) exact = !reads_o || std::holds_alternative<input<float>>(inputs.call().o);
  if (exact) {
    const verdict result = compare_all();
    demand(result.worst <= 1, result.where);
  }
  if (exact && !in.one_in(8)) return;
  test_executor others(in.between(1, 5), order::shuffled);
  x.backward({.executor = others});  // of the same numbers as floats
  demand(written() == bits, "bits of gradients depend on the executor, or on what tensors are stored as");
}

}  // namespace heed_test
