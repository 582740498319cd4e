// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/mixture_of_head/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/mixture_of_head.hpp"
#else
#include "heed/mixture_of_head/backward_call.hpp"
#endif

namespace heed::mixture_of_head {
inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable G, viewable O, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const G& gates, const O& o, const D& dout,
                   const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt = {},
                   const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>() && heed::detail::summed_elements<Q, G>());
  return tile::plan_call(detail::backward_of(q, k, v, gates, o, dout, wanted, opt), context);
}

// Computes the gradients of a loss with respect to q, k, v, bias and gates of forward, from dout (B, H, N, E), the
// gradient with respect to o. q, k, v, gates and the options are those of forward; o and lse are what it wrote, and
// without lse it is computed once more. Gradients are overwritten; those left out are not computed. Rows whose gate is
// 0 cost nothing: their dq and dgate are 0. dgates is (B, H, N) in any strides. Throws heed::error, before anything is
// written, where shapes or options do not fit, or a score function has no derivative. Jin et al. (arXiv 2410.11842).
template <viewable Q, viewable K, viewable V, viewable G, viewable O, viewable D>
void backward(const Q& q, const K& k, const V& v, const G& gates, const O& o, const D& dout,
              const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>() && heed::detail::summed_elements<Q, G>());
  tile::run_call(detail::backward_of(q, k, v, gates, o, dout, wanted, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class G, class O, class D, class Gradients = gradients<>,
          class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, G, O, D>
void backward(const Q&, const K&, const V&, const G&, const O&, const D&, const Gradients& = {}, const Options& = {},
              const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, G, O, D>());
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head
