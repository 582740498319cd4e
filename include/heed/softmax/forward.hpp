// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/softmax/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/softmax.hpp"
#else
#include "heed/softmax/forward_call.hpp"
#endif

namespace heed::softmax {
inline namespace HEED_ISA {

// Says what forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return tile::plan_call(detail::forward_of(q, k, v, o, opt), context);
}

// Computes o = softmax(f(scale q k^T) + masks) v, f: soft-cap, ALiBi, bias and a function of the caller's, in this
// order. q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E), all double, or each float, bf16 or
// f16 (k and v alike), any strides but unit on the last axis. bf16 q, k and v may run on a matrix unit, which rounds
// weights to bf16: docs/sixteen_bit.md. One of H, Hk divides the other. A row that sees no key: o = 0, lse = -inf.
// Hidden keys have no effect, even where they hold NaN. Throws heed::error, before anything is written, where shapes or
// options do not fit. Vaswani et al. (arXiv 1706.03762), in one pass as in Milakov and Gimelshein (arXiv 1805.02867).
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
}  // namespace heed::softmax
