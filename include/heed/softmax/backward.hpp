// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/softmax/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/softmax.hpp"
#else
#include "heed/softmax/backward_call.hpp"
#endif

namespace heed::softmax {
inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const O& o, const D& dout, const gradients<acc_of<Q>>& wanted,
                   const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  return tile::plan_call(detail::backward_of(q, k, v, o, dout, wanted, opt), context);
}

// Computes the gradients of a loss with respect to the inputs of forward, from dout (B, max(H, Hk), N, E), the gradient
// with respect to o, and dlse, if given, that with respect to lse. q, k, v and the options are those of forward; o and
// lse are what it wrote, and without lse it is computed once more. Gradients are overwritten; those left out are not
// computed. dq, dk, dv and dbias have the shapes of q, k, v and bias: sums where a bias is broadcast, or where pairs
// share a number of dbias by its strides. dsink_logits and dalibi_slopes have one number for each head of o. Rows that
// see no key, and keys that no row sees, get 0, even where q, k, v or dout hold NaN. Scratch: a few numbers per row.
// Throws heed::error, before anything is written, where shapes or options do not fit, or a score function has no
// derivative. Dao et al. (arXiv 2205.14135), Dao (arXiv 2307.08691).
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
void backward(const Q& q, const K& k, const V& v, const O& o, const D& dout, const gradients<acc_of<Q>>& wanted,
              const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  tile::run_call(detail::backward_of(q, k, v, o, dout, wanted, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class D, class Gradients = gradients<>, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O, D>
void backward(const Q&, const K&, const V&, const O&, const D&, const Gradients& = {}, const Options& = {},
              const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O, D>());
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
