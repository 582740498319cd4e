// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The recurrence of tile/chunks.hpp one token after the other, on the state where it is: for decoding.
//
//   S <- lambda S + phi(k) v^T,   o = scale phi(q) S / denominator
//
// One pass over S per token: 2 F E numbers of traffic, F features, and 4 F E FLOPs; columns go in lanes, as many
// accumulators at a time as hold a row of 128. Further query heads of the same state read it once more each, from
// cache.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decode.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// One token for one state: all rows of S, columns of NV vectors.
template <class T> struct state_step {
  T* s = nullptr;
  index_t s_row = 0, features = 0;
  const T *k = nullptr, *v = nullptr, *q = nullptr;  // phi(k), phi(q)
  T* o = nullptr;
  T lambda = T(1), gain = T(1);  // o = gain q S
};

// count: columns of the last vector
template <int NV, bool Writes, bool Fades, class T>
HEED_NOINLINE void step_columns(const state_step<T>& p, index_t column, index_t count) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  const bool whole = count == w;
  const auto run = [&]<int... N>(auto load, auto store, std::integer_sequence<int, N...>)
      __attribute__((always_inline)) {
    const batch lambda(p.lambda), zero(T(0));
    std::array<batch, std::size_t{NV}> v, sum;
    ((sum[N] = zero), ...);
    if constexpr (Writes) ((v[N] = load(p.v + column + N * w, N)), ...);
    T* s = p.s + column;
    for (index_t f = 0; f < p.features; ++f, s += p.s_row) {
      std::array<batch, std::size_t{NV}> x{load(s + N * w, N)...};
      if constexpr (Writes) {
        const batch k(p.k[f]);
        if constexpr (Fades) ((x[N] = x[N] * lambda), ...);
        ((x[N] = simd::fma(k, v[N], x[N])), ...);
      }
      const batch q(p.q[f]);
      ((sum[N] = simd::fma(q, x[N], sum[N])), ...);
      if constexpr (Writes) (store(s + N * w, x[N], N), ...);
    }
    (store(p.o + column + N * w, sum[N] * batch(p.gain), N), ...);
  };
  if (whole)
    run([](const T* x, int) { return simd::load(x); }, [](T* to, batch x, int) { simd::store(to, x); },
        std::make_integer_sequence<int, NV>{});
  else
    run([count](const T* x, int n) { return n == NV - 1 ? simd::load_partial(x, count) : simd::load(x); },
        [count](T* to, batch x, int n) { n == NV - 1 ? simd::store_partial(to, x, count) : simd::store(to, x); },
        std::make_integer_sequence<int, NV>{});
}

template <bool Writes, bool Fades, class T> void step_state(const state_step<T>& p, index_t columns) {
  constexpr index_t w = simd::width<T>;
  constexpr int most = tile::max_vectors == 4 ? 8 : 4;  // v and the sums of so many vectors, and two more, stay in registers
  index_t c = 0;
  for (; c + most * w <= columns; c += most * w) step_columns<most, Writes, Fades>(p, c, w);
  if constexpr (most > 4)
    if (c + 4 * w <= columns) step_columns<4, Writes, Fades>(p, c, w), c += 4 * w;
  if (c + 2 * w <= columns) step_columns<2, Writes, Fades>(p, c, w), c += 2 * w;
  if (c + w <= columns) step_columns<1, Writes, Fades>(p, c, w), c += w;
  if (c < columns) step_columns<1, Writes, Fades>(p, c, columns - c);
}

template <class T> class step_driver {
 public:
  static constexpr index_t most_small = 512;  // features that need no scratch

  // p.before and p.after are the same state, with unit stride.
  step_driver(const recurrence<T>& p, heed::detail::arena& memory) : p_(p) {
    const bool own = (!p.mapped() && heed::detail::equals(p.early, T(1))) || p.features <= most_small;
    k_ = own ? small_k_ : memory.take<T>(p.features);
    q_ = own ? small_q_ : memory.take<T>(p.features);
  }

  void run(const track& t, index_t state) {
    const auto& s = p_.after.s;
    const auto& z = p_.after.z;
    const index_t kv_head = state / p_.writers;
    state_step<T> step{
        .s = s.data() + t.number * s.stride(0) + state * s.stride(1), .s_row = s.stride(2), .features = p_.features};
    T* const sums = p_.normalize ? z.data() + t.number * z.stride(0) + state * z.stride(1) : nullptr;
    for (index_t i = 0; i < t.queries; ++i) {
      const bool writes = i < t.keys;
      if (writes) {
        step.k = features(p_.key(t, kv_head, i), k_, T(1));
        step.v = p_.value(t, kv_head, i);
        step.lambda = lambda(t, state, i);
        if (heed::detail::equals(step.lambda, T(0))) clear(step);
        for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) sums[f * z.stride(2)] += step.k[f];
      }
      for (index_t g = 0; g < p_.readers; ++g) {
        const index_t head = state * p_.readers + g;
        step.q = features(p_.query(t, head, i), q_, p_.early);
        step.o = p_.output(t, head, i);
        const output_factors<T> factors = gain(step.q, sums, z.stride(2));
        step.gain = factors.two() ? factors.first : factors.gain;
        if (!writes || g > 0)
          step_state<false, false>(step, p_.e);
        else if (p_.decay != nullptr && (p_.decay->gated || step.lambda < T(1)))
          step_state<true, true>(step, p_.e);
        else
          step_state<true, false>(step, p_.e);
        for (index_t e = 0; factors.two() && e < p_.e; ++e) step.o[e] *= factors.gain;
      }
    }
  }

 private:
  T lambda(const track& t, index_t state, index_t i) const {
    if (p_.decay == nullptr) return T(1);
    const double log = p_.decay->gated ? static_cast<double>(*p_.gate(t, state, i)) : -p_.decay->slopes.at(state);
    const double lambda = std::exp(log);
    return lambda < static_cast<double>(std::numeric_limits<T>::min()) ? T(0) : static_cast<T>(lambda);
  }
  // The sequence is cut: even of what is not finite
  void clear(const state_step<T>& step) const {
    for (index_t f = 0; f < p_.features; ++f) std::fill(step.s + f * step.s_row, step.s + f * step.s_row + p_.e, T(0));
  }
  output_factors<T> gain(const T* q, const T* sums, index_t stride) const {
    T below = 0;
    for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) below += q[f] * sums[f * stride];
    return output_gain(p_, below);
  }
  // factor phi(x); factor 1 for taylor
  const T* features(const T* x, T* out, T factor) const {
    if (!p_.mapped() && heed::detail::equals(factor, T(1))) return x;
    if (!p_.taylor()) {
      std::copy(x, x + p_.d, out);
      if (p_.mapped()) map_rows(p_.map, out, 1, p_.d);
      scale_values(out, p_.d, factor);
      return out;
    }
    out[0] = T(1);
    std::copy(x, x + p_.d, out + 1);
    for (index_t a = 0; a < p_.d; ++a)
      for (index_t b = 0; b < p_.d; ++b) out[1 + p_.d + a * p_.d + b] = x[a] * static_cast<T>(root_half) * x[b];
    return out;
  }

  const recurrence<T>& p_;
  T *k_, *q_;
  alignas(64) T small_k_[std::size_t{most_small}], small_q_[std::size_t{most_small}];
};

// memory: what decode reads and updates
template <class T> void hold(recurrence<T>& p, const state_view<T>& memory) {
  p.after = {heed::detail::with_canonical_strides(memory.s), heed::detail::with_canonical_strides(memory.z)};
  p.before = p.after, p.in_place = true;
  if (!p.align.top_left) p.align = {};
  p.causal = true;
}
template <class T> void check_tokens(heed::detail::checker& check, const recurrence<T>& p) {
  check.require(!p.align.top_left, "align is top_left: decode takes new tokens for those after its memory's");
  check.require(!p.packed() || heed::detail::equal(p.mask.query_offsets, p.mask.key_offsets),
                "packed: query_offsets and key_offsets differ, decode has one token axis");
  check.equal("q", p.q.extent(2), "k", p.k.extent(2), "tokens");
}

// Into a plan without a problem
template <class T> void plan_steps(plan& out, const recurrence<T>& p, const context& where, index_t workers) {
  out.isa = HEED_NAME(HEED_LEVEL);
  out.tasks = p.o.empty() ? 0 : p.sequences() * p.states;
  out.query_tile = out.key_tile = out.chunk = 1;
  if (out.tasks == 0) return;
  heed::detail::arena one;
  static_cast<void>(step_driver<T>(p, one));
  out.workspace_bytes = heed::detail::scratch_bytes(out.problem, std::min(out.tasks, workers), one.needed());
  if (!out.ok()) return;
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
}

// For plan_decode alone
template <class T> void explain_steps(plan& how, const recurrence<T>& p) {
  heed::detail::message text(how.why);
  if (how.tasks == 0) {
    text << "no rows";
    return;
  }
  text << how.tasks << " memories, updated in place, token by token";
  if (p.packed()) text << "; packed: each sequence as a call of its own";
}

template <class T> void run_steps(const recurrence<T>& p, const plan& how, const context& where, index_t workers) {
  tile::run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena scratch(memory, memory.size());
    step_driver<T> driver(p, scratch);
    claim([&](index_t task) { driver.run(p.track_at(task / p.states), task % p.states); });
  });
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
