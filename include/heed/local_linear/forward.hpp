// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/local_linear.hpp"
#else
#include "heed/local_linear/forward_call.hpp"
#endif

namespace heed::local_linear {
inline namespace HEED_ISA {

// Says what forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const per_head& ridge, const O& o,
                  const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return tile::plan_call(detail::forward_of(q, k, v, ridge, o, opt), context);
}

// Computes o_i = sum_j p_j (1 + (k_j - mean) . y_i) v_j: the value at q_i of the linear regression of the values on the
// keys, weighted by the softmax weights p, with a free intercept and `ridge` times the squared slope as penalty. q (B,
// H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E), all double, or each float, bf16 or f16 (k and v
// alike), any strides but unit on the last axis; ridge > 0 in units of |k|^2, one or one for each head of o, infinity
// for softmax attention. A row that sees no key: o = 0, lse = -inf, slope = 0. Hidden keys have no effect, even where
// they hold NaN. Throws heed::error, before anything is written, where shapes or options do not fit; not_converged,
// after o is written, where rows stay above the tolerance and no report is there to say so: with solver::automatic only
// where double itself cannot solve for the ridge, see solver. Local linear attention as in FlashLLA (its README and
// code), centred: docs/kernels/local_linear.md.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const per_head& ridge, O&& o, const options<acc_of<Q>>& opt = {},
             const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  tile::run_call(detail::forward_of(q, k, v, ridge, o, opt), context);
}

template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
plan plan_apply(const Q& q, const K& k, const V& v, const Y& slope, const O& o, const options<acc_of<Q>>& opt = {},
                const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>() && heed::detail::summed_elements<Q, Y>());
  return tile::plan_call(detail::apply_of(q, k, v, slope, o, opt), context);
}

// Runs the last pass of forward alone, with slopes (B, max(H, Hk), N, D) of the caller's for y: 0 is softmax attention,
// the slopes of forward give its o again, minus a probe is Parallax (arXiv 2605.29157). Writes lse and mean_key where
// options have them; options::slope and those of the solver have no part in it.
template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
void apply(const Q& q, const K& k, const V& v, const Y& slope, O&& o, const options<acc_of<Q>>& opt = {},
           const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>() && heed::detail::summed_elements<Q, Y>());
  tile::run_call(detail::apply_of(q, k, v, slope, o, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const per_head&, const O&, const Options& = {}, const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O>());
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
