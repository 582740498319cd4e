// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/linear/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/linear.hpp"
#else
#include "heed/linear/forward_call.hpp"
#endif

namespace heed::linear {
inline namespace HEED_ISA {

// Says what forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return tile::plan_call(detail::forward_of(q, k, v, o, opt), context);
}

// o_i = scale sum_j (phi(q_i).phi(k_j)) v_j / (scale sum_j phi(q_i).phi(k_j) + eps) over the keys that query i sees;
// the denominator only where normalize is set, and exactly 0 makes the row 0. q (B, H, N, D), k (B, Hk, M, D), v (B,
// Hk, M, E), o (B, H, N, E), all double, or each float, bf16 or f16 (k and v alike), any strides but unit on the last
// axis; Hk divides H. States, s (B, Hk, D', E), unit stride on the last axis, and z (B, Hk, D') where normalize is set:
// final_state holds initial_state and all keys; D' = D, or 1 + D + D^2 for taylor. packed: one state per sequence. A
// row that sees no key reads the initial state. Throws heed::error, before anything is written, where shapes or options
// do not fit. Katharopoulos et al. (arXiv 2006.16236); taylor: Arora et al., Based (arXiv 2402.18668).
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, O&& o, const options<acc_of<Q>>& opt = {},
             const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  tile::run_call(detail::forward_of(q, k, v, o, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const O&, const Options& = {}, const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O>());
}

}  // namespace HEED_ISA
}  // namespace heed::linear
