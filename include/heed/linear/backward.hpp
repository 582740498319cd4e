// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/linear/problem.hpp"
#include "heed/recurrent/backward_partition.hpp"

namespace heed::linear {
namespace detail {
inline namespace HEED_ISA {

// What the engine asks of this kernel
struct backward_kernel {
  template <class T> static const char* path(const recurrent::recurrence<T>& p) {
    return p.causal ? "linear: backward in chunks, two sweeps" : "linear: backward, all queries, then all keys";
  }
  static void check(heed::detail::checker& checker, const recurrent::backward_shapes& p) {
    kernel::check(checker, p);
    if (checker.ok()) recurrent::check_gradients(checker, p);
  }
};

template <class Q, class K, class V, class O, class D>
HEED_INLINE recurrent::backward_call<acc_of<Q>, backward_kernel> backward_call(
    const Q& q, const K& k, const V& v, const O& o, const D& dout, const gradients<acc_of<Q>>& out,
    const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return {recurrent::backward_problem<T>(make_problem(opt, tile::rows_of_call(q, k, v, o)),
                                         recurrent::gradient_rows(dout), out),
          opt.final_state};
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const O& o, const D& dout, const gradients<acc_of<Q>>& out,
                   const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  return tile::plan_call(detail::backward_call(q, k, v, o, dout, out, opt), context);
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
  tile::run_call(detail::backward_call(q, k, v, o, dout, out, opt), context);
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
