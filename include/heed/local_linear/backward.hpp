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
#include "heed/local_linear/backward_call.hpp"
#endif

namespace heed::local_linear {
inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
                   const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt = {},
                   const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  return tile::plan_call(detail::backward_of(q, k, v, ridge, dout, wanted, opt), context);
}

// Computes the gradients of a loss with respect to the inputs of forward, from dout (B, max(H, Hk), N, E), the gradient
// with respect to o. q, k, v, ridge and the options are those of forward; of lse, slope and mean_key those that the
// options have are read, as forward wrote them, and the others made anew. A second solve with the matrices of forward
// goes by solver, tolerance and max_iterations; report counts it, and the solves for slopes that are not given.
// Gradients are overwritten; those left out are not computed. dq, dk, dv and dbias have the shapes of q, k, v and bias
// (sums where heads or a bias are broadcast), dridge one number for each head of o. Rows that see no key, and keys that
// no row sees, get 0, even where q, k, v or dout hold NaN. All workers share scratch of two vectors of D for each row.
// Throws heed::error, before anything is written, where shapes or options do not fit or a score function has no
// derivative; not_converged as forward, after the gradients are written. docs/kernels/local_linear.md has the formulas.
template <viewable Q, viewable K, viewable V, viewable D>
void backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
              const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  tile::run_call(detail::backward_of(q, k, v, ridge, dout, wanted, opt), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class D, class Gradients = gradients<>, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, D>
void backward(const Q&, const K&, const V&, const per_head&, const D&, const Gradients& = {}, const Options& = {},
              const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, D>());
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
