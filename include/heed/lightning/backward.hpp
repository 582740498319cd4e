// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/state.hpp"
#include "heed/lightning/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/lightning.hpp"
#else
#include "heed/lightning/backward_call.hpp"
#endif

namespace heed::lightning {
inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const D& dout,
                   const gradients<acc_of<Q>>& out, const options<acc_of<Q>>& opt = {},
                   const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  return tile::plan_call(detail::backward_of(q, k, v, decay, dout, out, opt), context);
}

// The gradients of sum(dout * o) + sum(dfinal_state * final state), for o of forward with the same options; forward
// need not have run. dout (B, H, N, E) is of any type that o may have; gradients (in float, or double for double) have
// the shapes of what they are the gradients of: dq, dk, dv with unit stride on the last axis, dslopes (heads of the
// decay) for slopes, dlog_gates (B, heads of the decay, N) for log_gates, dinitial_state and dfinal_state those of
// states, which may be the same memory. They are overwritten, never added to; what is null is not computed. dk and dv
// sum over the query heads of a group, dslopes over the batch; gradients are 0 where key_lengths hides a token, and
// that of a gate of -inf is 0. initial_state is read: final_state must not be its memory, and is not written. Scratch
// does not grow with N, but for at most E / 4 numbers per token and head of the decay where dlog_gates is asked for.
// Throws heed::error, before anything is written, where shapes or options do not fit.
template <viewable Q, viewable K, viewable V, viewable D>
void backward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const D& dout,
              const gradients<acc_of<Q>>& out, const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  tile::run_call(detail::backward_of(q, k, v, decay, dout, out, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class A, class D, class Gradients = gradients<>, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, D>
void backward(const Q&, const K&, const V&, const A&, const D&, const Gradients& = {}, const Options& = {},
              const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, D>());
}

}  // namespace HEED_ISA
}  // namespace heed::lightning
