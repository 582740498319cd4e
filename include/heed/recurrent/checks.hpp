// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The checks of a call of a recurrent kernel.

#include <cmath>

#include "heed/core/check.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// For loops over inputs in the checks: std::pair of them would be a symbol without the tag at -O0
template <class T> struct named_input {
  const char* name;
  const tensor_view<const T, 4>* x;
};

template <class T> void check_tracks(heed::detail::checker& check, const recurrence<T>& p) {
  using kind = heed::detail::mask_parts;
  const kind& mask = p.mask;
  if (mask.has(kind::packed)) {
    check.require(p.q.extent(0) == 1, "packed: q has batch ", p.q.extent(0), ", must be 1");
    heed::detail::check_offsets(check, "packed query_offsets", mask.query_offsets, p.q.extent(2), true);
    heed::detail::check_offsets(check, "packed key_offsets", mask.key_offsets, p.k.extent(2), false);
    check.require(mask.query_offsets.size() == mask.key_offsets.size(), "packed: query_offsets has ",
                  mask.query_offsets.size(), " entries, key_offsets has ", mask.key_offsets.size());
  }
  if (!check.ok() || !mask.has(kind::key_lengths)) return;
  const lengths n = mask.lengths;
  check.require(static_cast<index_t>(n.size()) == p.sequences(), "key_lengths has ", n.size(), " entries, ",
                p.packed() ? "packed has " : "q has ", p.sequences(), p.packed() ? " sequences" : " in its batch");
  for (std::size_t b = 0; check.ok() && b < n.size(); ++b) {
    const index_t keys = p.packed() ? mask.key_offsets[b + 1] - mask.key_offsets[b] : p.k.extent(2);
    check.require(n[b] >= 0 && n[b] <= keys, "key_lengths[", b, "] is ", n[b], ", must be 0 to ", keys,
                  " (the keys of ", p.packed() ? "its sequence)" : "k)");
  }
}

// A state, if there is one: s and, where the kernel normalises, z
template <class T, class U>
void check_state(heed::detail::checker& check, const char* s_name, const char* z_name, const state_view<U>& x,
                 const recurrence<T>& p) {
  const bool wanted = x.s.data() != nullptr || (p.normalize && x.z.data() != nullptr);
  if (!wanted) return;
  check.tensor(s_name, x.s, true);
  heed::detail::check_extents(check, s_name, x.s, {p.sequences(), p.states, p.features, p.e}, false);
  if (!p.normalize) return;
  check.tensor(z_name, x.z, false);
  heed::detail::check_extents(check, z_name, x.z, {p.sequences(), p.states, p.features}, false);
}

template <class T> void check_decay(heed::detail::checker& check, const recurrence<T>& p) {
  if (p.decay == nullptr) return;
  const char* const name = p.decay->gated ? "log_gates" : "slopes";
  check.require(p.states == p.heads || p.states == p.kv_heads, name, " has heads ", p.states, ", must have ", p.heads,
                " (those of q) or ", p.kv_heads, " (those of k)");
  if (!check.ok()) return;
  if (p.decay->gated) {
    const auto& g = p.decay->log_gates;
    check.tensor(name, g, false);
    heed::detail::check_extents(check, name, g, {p.q.extent(0), p.states, p.q.extent(2)}, false);
    check.distinct("o", p.o, name, g);
    return;
  }
  check.require(p.states == 0 || p.decay->slopes.set(), "slopes is null but has ", p.states, " elements");
  for (index_t h = 0; check.ok() && h < p.states; ++h)
    check.require(p.decay->slopes.at(h) >= 0, "slopes[", h, "] is ", p.decay->slopes.at(h), ", must be at least 0");
}

// What is written must be no other argument's memory, except final_state where initial_state is, number by number.
template <class T> void check_states(heed::detail::checker& check, const recurrence<T>& p) {
  const char *const s_name = p.in_place ? "memory.s" : "final_state.s", *const z_name =
                                                                            p.in_place ? "memory.z" : "final_state.z";
  const tensor_view<const T, 3> none;
  const tensor_view<T, 4>& s = p.after.s;
  const tensor_view<const T, 3> z = p.normalize ? tensor_view<const T, 3>(p.after.z) : none;
  const tensor_view<const T, 4>& s0 = p.before.s;
  const tensor_view<const T, 3> z0 = p.normalize ? p.before.z : none;
  if (p.in_place) {
    const bool some = p.sequences() > 0 && p.states > 0;  // features and columns there are
    check.require(!some || s.data() != nullptr, "memory.s is null, must hold the state");
    check.require(!some || !p.normalize || z.data() != nullptr, "memory.z is null, must hold the normaliser");
  } else {
    check_state(check, "initial_state.s", "initial_state.z", p.before, p);
  }
  check_state(check, s_name, z_name, p.after, p);
  check.written(s_name, s);
  if (p.normalize) check.written(z_name, p.after.z);
  check.distinct(s_name, s, z_name, z);
  check.distinct(s_name, s, "o", p.o), check.distinct(z_name, z, "o", p.o);
  const named_input<T> inputs[] = {{"q", &p.q}, {"k", &p.k}, {"v", &p.v}};
  for (const auto& [name, x] : inputs)
    check.distinct(s_name, s, name, *x), check.distinct(z_name, z, name, *x);
  if (p.decay != nullptr && p.decay->gated) check.distinct(s_name, s, "log_gates", p.decay->log_gates);
  if (p.decay != nullptr && !p.decay->gated)  // read while tasks write
    check.distinct("o", p.o, "slopes", p.decay->slopes), check.distinct(s_name, s, "slopes", p.decay->slopes);
  if (p.in_place) return;

  check.distinct("o", p.o, "initial_state.s", s0), check.distinct("o", p.o, "initial_state.z", z0);
  check.distinct(s_name, s, "initial_state.z", z0), check.distinct(z_name, z, "initial_state.s", s0);
  const auto whole_or_apart = [&](const char* a, const auto& x, const char* b, const auto& y) {
    check.require(x.empty() || x.data() != y.data() || heed::detail::same(x, y), a, " is the same memory as ", b,
                  ", but has other strides");
  };
  whole_or_apart(s_name, tensor_view<const T, 4>(s), "initial_state.s", s0);
  whole_or_apart(z_name, z, "initial_state.z", z0);
}

// O(1) in the tensors, O(size) in lengths, offsets and slopes; reads no other data.
template <class T> void check_recurrence(heed::detail::checker& check, const recurrence<T>& p) {
  heed::detail::check_one_axis(check, p);
  check.tensor("q", p.q, true), check.tensor("k", p.k, true), check.tensor("v", p.v, true),
      check.tensor("o", p.o, true);
  check.written("o", p.o);
  const named_input<T> inputs[] = {{"k", &p.k}, {"v", &p.v}};
  for (const auto& [name, x] : inputs)
    check.equal("q", p.q.extent(0), name, x->extent(0), "batch");
  check.equal("q", p.q.extent(0), "o", p.o.extent(0), "batch");
  check.equal("k", p.k.extent(1), "v", p.v.extent(1), "heads");
  check.equal("q", p.heads, "o", p.o.extent(1), "heads");
  check.equal("k", p.k.extent(2), "v", p.v.extent(2), "keys");
  check.equal("q", p.q.extent(2), "o", p.o.extent(2), "queries");
  check.require(p.d > 0, "q has head dim ", p.d, ", must be at least 1");
  check.require(p.e > 0, "v has head dim ", p.e, ", must be at least 1");
  check.equal("q", p.q.extent(3), "k", p.k.extent(3), "head dim");
  check.equal("v", p.v.extent(3), "o", p.o.extent(3), "head dim");
  check.require(p.heads == 0 || (p.kv_heads > 0 && p.heads % p.kv_heads == 0), "q has ", p.heads, " heads, k has ",
                p.kv_heads, ", must be a divisor of it");
  const double rows =
      static_cast<double>(p.q.extent(0)) * static_cast<double>(p.heads) * static_cast<double>(p.q.extent(2));
  check.require(rows < 9e18, "q has ", rows, " rows in all heads, must have less than 9e18");
  check.require(p.d <= most_dim, "q has head dim ", p.d, ", must be at most ", most_dim);
  check.require(p.e <= most_dim, "v has head dim ", p.e, ", must be at most ", most_dim);
  const auto map = static_cast<index_t>(p.map.built_in);
  check.require(map >= 0 && map <= static_cast<index_t>(feature::taylor), "feature is ", map,
                ", must be one of the enumerators");
  check.require(!p.taylor() || p.d <= 32767, "q has head dim ", p.d, ", with taylor features must be at most 32767");
  check.require(!std::isnan(p.scale), "scale is NaN, must be a number");
  check.require(!std::isnan(p.eps), "eps is NaN, must be a number");
  check.require(p.chunk >= 0, "chunk is ", p.chunk, ", must be at least 0");
  check.require(p.mask.conflict == nullptr, p.mask.conflict != nullptr ? p.mask.conflict : "");
  check.distinct("o", p.o, "q", p.q), check.distinct("o", p.o, "k", p.k), check.distinct("o", p.o, "v", p.v);
  if (check.ok()) check_tracks(check, p);
  if (check.ok()) check_decay(check, p);
  if (!check.ok()) return;
  check_states(check, p);
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
