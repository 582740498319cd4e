// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/plan.hpp"
#include "heed/lightning/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/lightning.hpp"
#else
#include "heed/lightning/forward_call.hpp"
#endif

namespace heed::lightning {
inline namespace HEED_ISA {

// Says what forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const O& o,
                  const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return tile::plan_call(detail::forward_of(q, k, v, decay, o, opt), context);
}

// o_i = scale sum_{j <= i} lambda^(i - j) (q_i.k_j) v_j with lambda = exp(-slope) per head, or exp(log_gate) per token
// (then lambda^(i - j) is the product over the tokens after j). q (B, H, N, D), k (B, Hk, N, D), v (B, Hk, N, E), o (B,
// H, N, E), all double, or each float, bf16 or f16 (k and v alike), any strides but unit on the last axis; Hk divides
// H. decay: H heads (one memory per query head) or Hk (one per key/value head, shared by its group). The memory, s (B,
// heads of the decay, D, E), unit stride on the last axis, starts from initial_state and is left in final_state after
// the last token. packed: one per sequence. key_lengths: rows from there on neither enter nor fade the memory, and read
// it as it is. Throws heed::error, before anything is written, where shapes or options do not fit. Qin et al.,
// Lightning Attention-2 (arXiv 2401.04658); Sun et al., RetNet (arXiv 2307.08621).
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O&& o,
             const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  tile::run_call(detail::forward_of(q, k, v, decay, o, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class D, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const D&, const O&, const Options& = {}, const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O>());
}

}  // namespace HEED_ISA
}  // namespace heed::lightning
