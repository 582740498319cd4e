// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The recurrence of chunk_forward.hpp one token after the other, on the state in place: for decoding.
//
//   S <- lambda S + phi(k) v^T,   o = scale phi(q) S / denominator
//
// One pass over S per token: 2 F E numbers of traffic, F features, and 4 F E FLOPs. Columns are lanes, with as many
// accumulators at a time as hold a row of 128. Further query heads of the same state read it once more each, from
// cache.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/recurrent/checks.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/verb.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// One token for one state, all rows of S: S = lambda S + k v^T where the token writes, then o = gate q S.
template <class T> struct state_update {
  tile::lane_block<T> s;                             // [feature][column]
  const T *k = nullptr, *v = nullptr, *q = nullptr;  // phi(k), phi(q)
  T* o = nullptr;
  T lambda = T(1), gate = T(1);
};

// Updates and reads NV vectors of columns; of a single one, its first `count` columns.
template <int NV, bool Writes, bool Decays, class T>
HEED_NOINLINE void update_columns(const state_update<T>& p, index_t column, index_t count = simd::width<T>) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  const auto run = [&]<int... N>(auto load, auto store, std::integer_sequence<int, N...>)
      __attribute__((always_inline)) {
    const batch lambda(p.lambda), zero(T(0));
    std::array<batch, std::size_t{NV}> v, sum;
    ((sum[N] = zero), ...);
    if constexpr (Writes) ((v[N] = load(p.v + column + N * w)), ...);
    T* s = p.s.data + column;
    for (index_t f = 0; f < p.s.rows; ++f, s += p.s.stride) {
      std::array<batch, std::size_t{NV}> x{load(s + N * w)...};
      if constexpr (Writes) {
        const batch k(p.k[f]);
        if constexpr (Decays) ((x[N] = x[N] * lambda), ...);
        ((x[N] = simd::fma(k, v[N], x[N])), ...);
      }
      const batch q(p.q[f]);
      ((sum[N] = simd::fma(q, x[N], sum[N])), ...);
      if constexpr (Writes) (store(s + N * w, x[N]), ...);
    }
    (store(p.o + column + N * w, sum[N] * batch(p.gate)), ...);
  };
  if (NV > 1 || count == w)
    run([](const T* x) { return simd::load(x); }, [](T* to, batch x) { simd::store(to, x); },
        std::make_integer_sequence<int, NV>{});
  else if constexpr (NV == 1)
    run([count](const T* x) { return simd::load_partial(x, count); },
        [count](T* to, batch x) { simd::store_partial(to, x, count); }, std::make_integer_sequence<int, 1>{});
}

template <bool Writes, bool Decays, class T> void update_state(const state_update<T>& p) {
  constexpr index_t w = simd::width<T>;
  constexpr int most = tile::max_vectors == 4 ? 8 : 4;  // vectors of v and sums that fit in registers, with two more
  index_t c = 0;
  const index_t columns = p.s.lanes;
  for (; c + most * w <= columns; c += most * w) update_columns<most, Writes, Decays>(p, c);
  if constexpr (most > 4)
    if (c + 4 * w <= columns) update_columns<4, Writes, Decays>(p, c), c += 4 * w;
  if (c + 2 * w <= columns) update_columns<2, Writes, Decays>(p, c), c += 2 * w;
  if (c + w <= columns) update_columns<1, Writes, Decays>(p, c), c += w;
  if (c < columns) update_columns<1, Writes, Decays>(p, c, columns - c);
}

template <class T> class decode_driver {
 public:
  static constexpr index_t most_small = 512;  // features or columns that need no scratch

  // p.before and p.after are the same state, with unit stride.
  decode_driver(const recurrence<T>& p, heed::detail::arena& memory) : p_(p) {
    const bool in_place = !p.mapped() && heed::detail::equals(p.q_scale, T(1));
    const bool k_is_t = p.kv_format->is_t, q_is_t = p.q_format->is_t;
    const auto row = [&](bool needed, index_t count, auto& fixed) {
      return !needed || count <= most_small ? fixed.data() : memory.take<T>(count);
    };
    k_ = row(!in_place || !k_is_t, p.features, small_k_), q_ = row(!in_place || !q_is_t, p.features, small_q_);
    v_ = row(!k_is_t, p.e, small_v_), o_ = row(!p.o_format->is_t || p.query_heads == 0, p.e, small_o_);
  }

  // Takes all tokens of a sequence through one head of the state.
  void run(const sequence& t, index_t state) {
    const tensor_view<T, 4>& s = p_.after.s;
    const tensor_view<T, 3>& z = p_.after.z;
    const index_t kv_head = state / p_.states_per_kv_head;
    state_update<T> update{.s = {&s(t.number, state, 0, 0), s.stride(2), p_.features, p_.e}};
    T* const sums = p_.normalize ? &z(t.number, state, 0) : nullptr;
    for (index_t i = 0; i < t.queries; ++i) {
      const bool writes = i < t.keys;
      if (writes) {
        update.k = features(*p_.kv_format, p_.key(t, kv_head, i), k_, T(1));
        update.v = value(p_.value(t, kv_head, i));
        update.lambda = lambda(t, state, i);
        if (heed::detail::equals(update.lambda, T(0))) clear(update.s);
        for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) sums[f * z.stride(2)] += update.k[f];
        if (p_.queries_per_state == 0) {  // nobody reads the state, which takes the token all the same
          update.q = update.k, update.o = o_;
          update_state<true, true>(update);
        }
      }
      for (index_t g = 0; g < p_.queries_per_state; ++g) {
        const index_t head = state * p_.queries_per_state + g;
        std::byte* const o = p_.output(t, head, i);
        update.q = features(*p_.q_format, p_.query(t, head, i), q_, p_.q_scale);
        update.o = p_.o_format->is_t ? tile::row_as<T>(o) : o_;
        const output_factors<T> factors = output_factor(p_, weight_sum(update.q, sums, z.stride(2)));
        update.gate = factors.two() ? factors.first : factors.last;
        if (!writes || g > 0)
          update_state<false, false>(update);
        else if (p_.decay != nullptr && (p_.decay->gated || update.lambda < T(1)))
          update_state<true, true>(update);
        else
          update_state<true, false>(update);
        for (index_t e = 0; factors.two() && e < p_.e; ++e) update.o[e] *= factors.last;
        if (!p_.o_format->is_t) p_.o_format->write(o_, T(1), o, p_.e);
      }
    }
  }

 private:
  T lambda(const sequence& s, index_t state, index_t i) const {
    if (p_.decay == nullptr) return T(1);
    const double log = p_.decay->gated ? static_cast<double>(*p_.gate(s, state, i)) : -p_.decay->slopes.at(state);
    const double lambda = std::exp(log);
    return lambda < static_cast<double>(std::numeric_limits<T>::min()) ? T(0) : static_cast<T>(lambda);
  }
  // A reset removes even what is not finite.
  static void clear(const tile::lane_block<T>& s) {
    for (index_t f = 0; f < s.rows; ++f) std::fill(s.row(f), s.row(f) + s.lanes, T(0));
  }
  T weight_sum(const T* q, const T* sums, index_t stride) const {
    T sum = 0;
    for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) sum += q[f] * sums[f * stride];
    return sum;
  }
  // Returns a row of v as numbers of type T, in place or in scratch.
  const T* value(const std::byte* row) const {
    if (p_.kv_format->is_t) return tile::row_as<T>(row);
    p_.kv_format->read(row, 0, 1, p_.e, v_, 0);
    return v_;
  }
  // Copies a row of q or k to out, as numbers of type T.
  void copy_row(const tile::row_format<T>& format, const std::byte* row, T* out) const {
    if (!format.is_t) return format.read(row, 0, 1, p_.d, out, 0);
    const T* const x = tile::row_as<T>(row);
    std::copy(x, x + p_.d, out);
  }
  // Returns factor phi(x) of a row x, in place or in out; factor is 1 for taylor.
  const T* features(const tile::row_format<T>& format, const std::byte* row, T* out, T factor) const {
    if (!p_.mapped() && format.is_t && heed::detail::equals(factor, T(1))) return tile::row_as<T>(row);
    if (!p_.taylor()) {
      copy_row(format, row, out);
      if (p_.mapped()) map_rows(p_.map, out, 1, p_.d);
      if (!heed::detail::equals(factor, T(1))) scale_values(out, p_.d, factor, out);
      return out;
    }
    const T* const x = out + 1;
    out[0] = T(1);
    copy_row(format, row, out + 1);
    for (index_t a = 0; a < p_.d; ++a)
      for (index_t b = 0; b < p_.d; ++b) out[1 + p_.d + a * p_.d + b] = x[a] * static_cast<T>(root_half) * x[b];
    return out;
  }

  const recurrence<T>& p_;
  T *k_, *q_, *v_, *o_;  // rows of scratch: features, and rows of v and o whose elements are not of type T
  alignas(64) tile::lane_array<T, most_small> small_k_, small_q_, small_v_, small_o_;
};

// Makes a call update its state in place. memory: the state
template <class T> void decode_in_place(recurrence<T>& p, const state_view<T>& memory) {
  p.after = {heed::detail::with_canonical_strides(memory.s), heed::detail::with_canonical_strides(memory.z)};
  p.before = p.after, p.in_place = true;
  if (!p.align->top_left) p.align = &heed::detail::parts(bottom_right);
  p.causal = true;
}

// A call that takes token after token; tasks are (sequence, head of the state). Kernel: as for chunk_call.
template <class T, class Kernel> struct decode_call {
  recurrence<T> p;

  void check(heed::detail::checker& checker) const {
    const recurrence_shapes shapes(p);
    Kernel::check(checker, shapes);
    if (!checker.ok()) return;
    checker.require(!p.align->top_left, "align is top_left: decode takes new tokens for those after its memory's");
    checker.require(!p.packed() || heed::detail::equal(p.mask.query_offsets, p.mask.key_offsets),
                    "packed: query_offsets and key_offsets differ, decode has one token axis");
    checker.equal(shapes.q, shapes.k, 2, "tokens");
  }

  tile::workload measure(index_t) const {
    const bool nothing = p.q.extent(2) == 0 || (p.o.empty() && !p.writes_state());
    const index_t tasks = nothing ? 0 : p.sequences() * p.states;
    return {.tasks = tasks, .slot_bytes = tasks == 0 ? 0 : tile::scratch_of<decode_driver<T>>(p)};
  }

  void describe(plan& out) const {
    out.path = Kernel::decode_path;
    out.query_tile = out.key_tile = out.chunk = 1;
    heed::detail::message text(out.why);
    if (out.tasks == 0) {
      text << "no rows";
      return;
    }
    text << out.tasks << " memories, updated in place, token by token";
    if (p.packed()) text << "; packed: each sequence as a call of its own";
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      decode_driver<T> driver(p, scratch);
      claim([&](index_t task) { driver.run(p.sequence_at(task / p.states), task % p.states); });
    });
  }
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
