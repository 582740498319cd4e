// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/mixture_of_head/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/mixture_of_head.hpp"
#else
#include "heed/mixture_of_head/forward_call.hpp"
#endif

namespace heed::mixture_of_head {
inline namespace HEED_ISA {

// Says what forward would do with the same arguments, or why it would throw; never throws itself. Tasks, path and why
// say what these gates make of it; the workspace is enough for any gates of this shape.
template <viewable Q, viewable K, viewable V, viewable G, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const G& gates, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>() && heed::detail::summed_elements<Q, G>());
  return tile::plan_call(detail::forward_of(q, k, v, gates, o, opt), context);
}

// Computes o = gate * softmax attention, head by head; what has gate 0 (of either sign) is not computed: o = 0,
// lse = -inf, and its q is not read. A gate of NaN is active. q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), gates
// (B, H, N) in any strides, o (B, H, N, E); H is a multiple of Hk. options::lse is that of the head, without its gate.
// Masks, options and errors as softmax::forward; with all gates 1 its bits too. Jin et al., MoH (arXiv 2410.11842).
template <viewable Q, viewable K, viewable V, viewable G, viewable O>
void forward(const Q& q, const K& k, const V& v, const G& gates, O&& o, const options<acc_of<Q>>& opt = {},
             const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>() && heed::detail::summed_elements<Q, G>());
  tile::run_call(detail::forward_of(q, k, v, gates, o, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class G, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const G&, const O&, const Options& = {}, const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O>());
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head
