// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The checks of backward that the recurrent kernels share.

#include <algorithm>

#include "heed/core/check.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/checks.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// A backward call without its element types
struct backward_shapes : recurrence_shapes {
  template <class T>
  explicit backward_shapes(const backward_problem<T>& x)
      : recurrence_shapes(x.p),
        dout("dout", x.dout),
        dq("dq", x.dq),
        dk("dk", x.dk),
        dv("dv", x.dv),
        dslopes("dslopes", x.dslopes),
        dlog_gates("dlog_gates", x.dlog_gates),
        dbefore(named_state::of("dinitial_state.s", "dinitial_state.z", x.dbefore, x.p.normalize)),
        dafter(named_state::of("dfinal_state.s", "dfinal_state.z", x.dafter, x.p.normalize)) {
    o_is_read = true;
  }

  heed::detail::named_tensor dout, dq, dk, dv, dslopes, dlog_gates;
  named_state dbefore, dafter;
};

// The gradient of a state, of which s and z may be absent each
HEED_NOINLINE inline void check_state_gradient(heed::detail::checker& check, const named_state& x,
                                               const backward_shapes& p) {
  const index_t full[] = {p.sequences.count(), p.rules.states, p.rules.features, p.v.extent(3)};
  if (x.s.data != nullptr) check.tensor(x.s, true), check.extents(x.s, full, false);
  if (x.z.data != nullptr) check.tensor(x.z, false), check.extents(x.z, full, false);
}

// Whether each gradient fits, and is no other argument's memory; dinitial_state may be that of dfinal_state.
HEED_NOINLINE inline void check_gradients(heed::detail::checker& check, const backward_shapes& p) {
  check.tensor(p.dout, true);
  double rows = 1;
  for (int axis = 0; axis < 3; ++axis) rows *= static_cast<double>(p.q.extent(axis));
  check.require(!p.rules.normalize || rows < 1e17, "q has % rows in all heads, with normalize must have less than 1e17",
                rows);
  if (p.dslopes.data != nullptr || p.dlog_gates.data != nullptr) {
    const double states = static_cast<double>(p.sequences.count()) * static_cast<double>(p.rules.states);
    const double numbers = static_cast<double>(p.k.extent(0)) * static_cast<double>(p.k.extent(2)) *
                           static_cast<double>(p.rules.states) * static_cast<double>(p.v.extent(3));
    check.require(states < 1e17,
                  "the state has % heads in all sequences, with gradients of the decay must have less "
                  "than 1e17",
                  states);
    check.require(p.dlog_gates.data == nullptr || numbers < 1e17,
                  "v has % numbers for all heads of the state, with "
                  "dlog_gates must have less than 1e17",
                  numbers);
  }
  for (int axis = 0; axis < 4; ++axis)
    check.require(p.dout.extent(axis) == p.o.extent(axis), "dout has extent % on axis %, o has %", p.dout.extent(axis),
                  axis, p.o.extent(axis));
  heed::detail::check_gradient(check, p.dq, p.q, true);
  heed::detail::check_gradient(check, p.dk, p.k, true);
  heed::detail::check_gradient(check, p.dv, p.v, true);
  check.require(p.dslopes.data == nullptr || !p.gated, "dslopes is given, but the decay is by log_gates");
  check.require(p.dlog_gates.data == nullptr || p.gated, "dlog_gates is given, but the decay is by slopes");
  if (p.dslopes.data != nullptr) {
    check.tensor(p.dslopes, false), check.written(p.dslopes);
    check.require(p.dslopes.extent(0) == p.rules.states, "dslopes has % entries, the decay has % heads",
                  p.dslopes.extent(0), p.rules.states);
  }
  if (p.gated) heed::detail::check_gradient(check, p.dlog_gates, p.gates, false);
  check_state_gradient(check, p.dbefore, p), check_state_gradient(check, p.dafter, p);
  check.written(p.dbefore.s), check.written(p.dbefore.z);
  const heed::detail::named_tensor slopes("slopes", p.slopes);
  const auto& [s, z] = p.dbefore;
  heed::detail::check_gradients_apart(check, {&p.dq, &p.dk, &p.dv, &p.dslopes, &p.dlog_gates, &s, &z},
                                      {&p.q, &p.k, &p.v, &p.o, &p.dout, &p.gates, &slopes, &p.before.s, &p.before.z});
  check.distinct({&p.dq, &p.dk, &p.dv, &p.dslopes, &p.dlog_gates}, {&p.dafter.s, &p.dafter.z});
  check.distinct(s, p.dafter.z), check.distinct(z, p.dafter.s);
  check_apart_or_same(check, s, p.dafter.s), check_apart_or_same(check, z, p.dafter.z);
}

// after: the final state of forward's options. Where it is the memory of the initial state, that one is gone.
template <class T>
void check_initial_state(heed::detail::checker& check, const recurrence<T>& p, const state_view<T>& after) {
  const bool same = p.before.s.data() != nullptr && p.before.s.data() == after.s.data();
  check.require(!same || p.before.s.empty(),
                "final_state.s is the same memory as initial_state.s: forward has overwritten the state that backward "
                "starts from");
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
