// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/linear/problem.hpp"
#include "heed/recurrent/partition.hpp"

namespace heed::linear {
namespace detail {
inline namespace HEED_ISA {

template <class T>
plan make_plan(const recurrent::recurrence<T>& p, const context& where, index_t workers, recurrent::chunk_cut& cut) noexcept {
  plan out{};
  if (!check_call(p, out.problem)) return out;
  cut = recurrent::make_chunk_cut(p, workers);
  out.path = p.causal ? "linear: chunks" : "linear: one pass writes, one reads";
  recurrent::plan_chunks(out, p, cut, where, workers);
  return out;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& where = {}) noexcept {
  static_assert(recurrent::recurrent_storage<Q, K, V, O>());
  using T = heed::detail::value_t<Q>;
  const recurrent::recurrence<T> p = detail::make_problem<T>(q, k, v, recurrent::planned_output<T>(o), opt,
                                                        heed::detail::one_axis<Q, K, V, O>);
  recurrent::chunk_cut cut;
  plan how = detail::make_plan(p, where, where.executor.concurrency(), cut);
  if (how.ok()) recurrent::explain_chunks(how, p, cut);
  return how;
}

// o_i = scale sum_j (phi(q_i).phi(k_j)) v_j / (scale sum_j phi(q_i).phi(k_j) + eps) over the keys that query i sees;
// the denominator only where normalize is set, and exactly 0 makes the row 0. q (B, H, N, D), k (B, Hk, M, D), v (B,
// Hk, M, E), o (B, H, N, E), float or double, any strides but unit on the last axis; Hk divides H. States, s (B, Hk,
// D', E), unit stride on the last axis, and z (B, Hk, D') where normalize is set: final_state holds initial_state and
// all keys; D' = D, or 1 + D + D^2 for taylor. packed: one state per sequence. A row that sees no key reads the initial
// state. Throws heed::error, before anything is written, where shapes or options do not fit. Katharopoulos et al.
// (arXiv 2006.16236); taylor: Arora et al., Based (arXiv 2402.18668).
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, O&& o, const options<acc_of<Q>>& opt = {}, const context& where = {}) {
  static_assert(recurrent::recurrent_storage<Q, K, V, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  const recurrent::recurrence<T> p = detail::make_problem<T>(q, k, v, tensor_view<T, 4>(o), opt,
                                                        heed::detail::one_axis<Q, K, V, O>);
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  recurrent::chunk_cut cut;
  const plan how = detail::make_plan(p, where, workers, cut);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  recurrent::run_chunks(p, how, cut, where, workers);
}

// A pointer in place of a tensor
template <class Q, class K, class V, class O, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const O&, const Options& = {}, const context& = {}) {
  static_assert(!heed::detail::any_pointer<Q, K, V, O>,
                "heed: a pointer has no shape: give a view, heed::bhsd(pointer, batch, heads, seq, dim)");
}

}  // namespace HEED_ISA
}  // namespace heed::linear
