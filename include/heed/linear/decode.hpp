// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/state.hpp"
#include "heed/linear/problem.hpp"
#include "heed/recurrent/decode.hpp"

namespace heed::linear {
namespace detail {
inline namespace HEED_ISA {

template <class T> plan make_decode_plan(const recurrent::recurrence<T>& p, const context& where, index_t workers) noexcept {
  plan out{};
  if (!check_call(p, out.problem)) return out;
  heed::detail::checker check(out.problem);
  recurrent::check_tokens(check, p);
  if (!check.ok()) return out;
  out.path = "linear: token by token";
  recurrent::plan_steps(out, p, where, workers);
  return out;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What decode would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_decode(const Q& q, const K& k, const V& v, state_view<acc_of<Q>> memory, const O& o,
                 const options<acc_of<Q>>& opt = {}, const context& where = {}) noexcept {
  static_assert(recurrent::recurrent_storage<Q, K, V, O>());
  using T = heed::detail::value_t<Q>;
  recurrent::recurrence<T> p = detail::make_problem<T>(q, k, v, recurrent::planned_output<T>(o), opt,
                                                  heed::detail::one_axis<Q, K, V, O>);
  recurrent::decode_in_place(p, memory);
  plan how = detail::make_decode_plan(p, where, where.executor.concurrency());
  if (how.ok()) recurrent::explain_steps(how, p);
  return how;
}

// N new tokens after those that memory holds, causal: o_i as forward would give it for the whole sequence; memory (s:
// B, Hk, D', E, unit stride on the last axis, and z: B, Hk, D' where normalize is set) is read and left after the last
// of them. Shapes as in forward; opt.chunk, opt.initial_state, opt.final_state and opt.align are not used, but top_left
// is refused. A token costs O(D' E) per head, and no scratch up to 512 features. Token by token, the same bits however
// many a call brings: dozens at once, with taylor features a few, are faster by forward, with memory as both of its
// states.
template <viewable Q, viewable K, viewable V, viewable O>
void decode(const Q& q, const K& k, const V& v, state_view<acc_of<Q>> memory, O&& o, const options<acc_of<Q>>& opt = {},
            const context& where = {}) {
  static_assert(recurrent::recurrent_storage<Q, K, V, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  recurrent::recurrence<T> p = detail::make_problem<T>(q, k, v, tensor_view<T, 4>(o), opt,
                                                  heed::detail::one_axis<Q, K, V, O>);
  recurrent::decode_in_place(p, memory);
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  const plan how = detail::make_decode_plan(p, where, workers);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  recurrent::run_steps(p, how, where, workers);
}

}  // namespace HEED_ISA
}  // namespace heed::linear
