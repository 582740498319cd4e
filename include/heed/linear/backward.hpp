// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/state.hpp"
#include "heed/linear/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/linear.hpp"
#else
#include "heed/linear/backward_call.hpp"
#endif

namespace heed::linear {
inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const O& o, const D& dout, const gradients<acc_of<Q>>& out,
                   const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  return tile::plan_call(detail::backward_of(q, k, v, o, dout, out, opt), context);
}

// The gradients of sum(dout * o) + sum(dfinal_state * final state), for o as forward wrote it with the same options.
// dout (B, H, N, E) is of any type that o may have; gradients (in float, or double for double) have the shapes of what
// they are the gradients of: dq, dk, dv with unit stride on the last axis, dinitial_state and dfinal_state those of
// states, which may be the same memory. They are overwritten, never added to; what is null is not computed. dk and dv
// sum over the query heads of a group, and are 0 where key_lengths hides a key. eps has no gradient; a row whose
// denominator is 0 gives none. initial_state is read: final_state must not be its memory, and is not written. Takes 2
// numbers of scratch per row of q where normalize is set, and else none that grows with N. Throws heed::error, before
// anything is written, where shapes or options do not fit.
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
void backward(const Q& q, const K& k, const V& v, const O& o, const D& dout, const gradients<acc_of<Q>>& out,
              const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  tile::run_call(detail::backward_of(q, k, v, o, dout, out, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class D, class Gradients = gradients<>, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O, D>
void backward(const Q&, const K&, const V&, const O&, const D&, const Gradients& = {}, const Options& = {},
              const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O, D>());
}

}  // namespace HEED_ISA
}  // namespace heed::linear
