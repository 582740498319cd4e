// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The checks that the kernels with a state per head share.

#include <cmath>

#include "heed/core/check.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// The tensors of a state; z is absent where the kernel does not normalise.
struct named_state {
  heed::detail::named_tensor s, z;

  template <class Acc> static named_state of(const char* s, const char* z, const state_view<Acc>& x, bool normalize) {
    return {{s, x.s}, normalize ? heed::detail::named_tensor(z, x.z) : heed::detail::named_tensor()};
  }
};

// A call without its element types
struct recurrence_shapes : heed::detail::call_shapes {
  template <class T>
  explicit recurrence_shapes(const recurrence<T>& p)
      : call_shapes(p),
        rules(p),
        before(named_state::of("initial_state.s", "initial_state.z", p.before, p.normalize)),
        after(named_state::of(p.in_place ? "memory.s" : "final_state.s", p.in_place ? "memory.z" : "final_state.z",
                              p.after, p.normalize)),
        map(static_cast<index_t>(p.map.built_in)),
        taylor(p.taylor()),
        decays(p.decay != nullptr),
        gated(decays && p.decay->gated) {
    if (gated) gates = {"log_gates", p.decay->log_gates};
    if (decays && !gated) slopes = p.decay->slopes;
  }

  const recurrence_rules& rules;
  named_state before, after;
  heed::detail::named_tensor gates = {};
  heed::detail::per_head_view slopes = {};
  index_t map;
  bool taylor, decays, gated;
};

// A state, if there is one: s and, where the kernel normalises, z
HEED_NOINLINE inline void check_state(heed::detail::checker& check, const named_state& state,
                                      const recurrence_shapes& p) {
  if (state.s.data == nullptr && state.z.data == nullptr) return;
  const index_t full[] = {p.sequences.count(), p.rules.states, p.rules.features, p.v.extent(3)};
  check.tensor(state.s, true), check.extents(state.s, full, false);
  if (p.rules.normalize) check.tensor(state.z, false), check.extents(state.z, full, false);
}

inline void check_decay(heed::detail::checker& check, const recurrence_shapes& p) {
  if (!p.decays) return;
  const index_t heads = p.q.extent(1), kv_heads = p.k.extent(1);
  check.require(p.rules.states == heads || p.rules.states == kv_heads,
                "% has heads %, must have % (those of q) or % (those of k)", p.gated ? "log_gates" : "slopes",
                p.rules.states, heads, kv_heads);
  if (!check.ok()) return;
  if (p.gated) {
    const index_t full[] = {p.q.extent(0), p.rules.states, p.q.extent(2)};
    check.tensor(p.gates, false), check.extents(p.gates, full, false);
    return check.distinct(p.o, p.gates);
  }
  check.require(p.rules.states == 0 || p.slopes.set(), "slopes is null but has % elements", p.rules.states);
  for (index_t h = 0; check.ok() && h < p.rules.states; ++h)
    check.require(p.slopes.at(h) >= 0, "slopes[%] is %, must be at least 0", h, p.slopes.at(h));
}

// Whether an output is apart from an input, or the same elements number by number
HEED_NOINLINE inline void check_apart_or_same(heed::detail::checker& check, const heed::detail::named_tensor& a,
                                              const heed::detail::named_tensor& b) {
  if (a.data == nullptr || a.data != b.data || a.empty()) return;
  for (int axis = 0; axis < a.rank; ++axis)
    check.require(a.extent(axis) == b.extent(axis) && a.stride(axis) == b.stride(axis),
                  "% is the same memory as %, but has other strides", a.name, b.name);
}

// What is written must be no other argument's memory, except final_state where initial_state is, number by number.
inline void check_states(heed::detail::checker& check, const recurrence_shapes& p) {
  const auto& [s, z] = p.after;
  const auto& [s0, z0] = p.before;
  if (p.rules.in_place) {
    const bool some = p.sequences.count() > 0 && p.rules.states > 0;  // features and columns there are
    check.require(!some || s.data != nullptr, "memory.s is null, must hold the state");
    check.require(!some || !p.rules.normalize || z.data != nullptr, "memory.z is null, must hold the normaliser");
  } else {
    check_state(check, p.before, p);
  }
  check_state(check, p.after, p);
  check.written(s), check.written(z);
  const heed::detail::named_tensor slopes("slopes", p.slopes);  // read while tasks write
  check.distinct({&s, &z}, {&p.o, &p.q, &p.k, &p.v, &p.gates, &slopes});
  check.distinct(s, z), check.distinct(p.o, slopes);
  if (p.rules.in_place) return;
  check.distinct({&p.o}, {&s0, &z0}), check.distinct(s, z0), check.distinct(z, s0);
  check_apart_or_same(check, s, s0), check_apart_or_same(check, z, z0);
}

// O(1) in the tensors, O(size) in lengths, offsets and slopes; reads no other data.
inline void check_recurrence(heed::detail::checker& check, const recurrence_shapes& p) {
  const index_t heads = p.q.extent(1), kv_heads = p.k.extent(1), d = p.q.extent(3), e = p.v.extent(3);
  heed::detail::check_tensors(check, p);
  check.equal(p.q, p.o, 1, "heads");
  check.require(heads == 0 || (kv_heads > 0 && heads % kv_heads == 0),
                "q has % heads, k has %, must be a divisor of it", heads, kv_heads);
  check.require(d <= most_dim, "q has head dim %, must be at most %", d, most_dim);
  check.require(e <= most_dim, "v has head dim %, must be at most %", e, most_dim);
  check.require(p.map >= 0 && p.map <= static_cast<index_t>(feature::taylor),
                "feature is %, must be one of the enumerators", p.map);
  check.require(!p.taylor || d <= 32767, "q has head dim %, with taylor features must be at most 32767", d);
  check.require(!std::isnan(p.rules.scale), "scale is NaN, must be a number");
  check.require(!std::isnan(p.rules.eps), "eps is NaN, must be a number");
  check.require(p.rules.chunk >= 0, "chunk is %, must be at least 0", p.rules.chunk);
  const heed::detail::mask_parts& mask = p.sequences.mask;
  check.require(mask.conflict == nullptr, "%", mask.conflict != nullptr ? mask.conflict : "");
  if (!check.ok()) return;
  heed::detail::check_packed(check, p.sequences);
  if (check.ok() && mask.has(mask.key_lengths))
    heed::detail::check_lengths(check, "key_lengths", mask.lengths, p.sequences);
  if (check.ok()) check_decay(check, p);
  if (check.ok()) check_states(check, p);
  if (check.ok()) heed::detail::check_alignment(check, *p.rules.align, p.sequences);
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
