// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of lightning::backward.

#include "heed/lightning/problem.hpp"
#include "heed/recurrent/backward_partition.hpp"

namespace heed::lightning::detail {
inline namespace HEED_ISA {

// What the engine asks of this kernel
struct backward_kernel {
  template <class T> static const char* path(const recurrent::recurrence<T>& p) {
    return p.decay->gated ? "lightning: backward in chunks, two sweeps, log_gates"
                          : "lightning: backward in chunks, two sweeps";
  }
  static void check(heed::detail::checker& checker, recurrent::backward_shapes p) {
    p.o.name = "dout";  // there is no o
    kernel::check(checker, p);
    if (checker.ok()) recurrent::check_gradients(checker, p);
  }
};

template <class Q, class K, class V, class D>
HEED_INLINE recurrent::backward_call<acc_of<Q>, backward_kernel> backward_call(const Q& q, const K& k, const V& v,
                                                                               const heed::decay<acc_of<Q>>& decay,
                                                                               const D& dout,
                                                                               const gradients<acc_of<Q>>& out,
                                                                               const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  recurrent::backward_problem<T> x(make_problem(decay, opt, tile::rows_of_call(q, k, v, dout)),
                                   recurrent::gradient_rows(dout), out);
  x.dslopes = heed::detail::with_canonical_strides(out.dslopes);
  x.dlog_gates = heed::detail::with_canonical_strides(out.dlog_gates);
  return {x, opt.final_state};
}

template <class Q, class K, class V, class D>
HEED_INLINE recurrent::backward_call<acc_of<Q>, backward_kernel> backward_of(const Q& q, const K& k, const V& v,
                                                                             const heed::decay<acc_of<Q>>& decay,
                                                                             const D& dout,
                                                                             const gradients<acc_of<Q>>& out,
                                                                             const options<acc_of<Q>>& opt) {
  return backward_call(q, k, v, decay, dout, out, opt);
}

}  // namespace HEED_ISA
}  // namespace heed::lightning::detail
