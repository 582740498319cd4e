// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of linear::backward.

#include "heed/linear/problem.hpp"
#include "heed/recurrent/backward_partition.hpp"

namespace heed::linear::detail {
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
HEED_INLINE recurrent::backward_call<acc_of<Q>, backward_kernel> backward_call(const Q& q, const K& k, const V& v,
                                                                               const O& o, const D& dout,
                                                                               const gradients<acc_of<Q>>& out,
                                                                               const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return {recurrent::backward_problem<T>(make_problem(opt, tile::rows_of_call(q, k, v, o)),
                                         recurrent::gradient_rows(dout), out),
          opt.final_state};
}

template <class Q, class K, class V, class O, class D>
HEED_INLINE recurrent::backward_call<acc_of<Q>, backward_kernel> backward_of(const Q& q, const K& k, const V& v,
                                                                             const O& o, const D& dout,
                                                                             const gradients<acc_of<Q>>& out,
                                                                             const options<acc_of<Q>>& opt) {
  return backward_call(q, k, v, o, dout, out, opt);
}

}  // namespace HEED_ISA
}  // namespace heed::linear::detail
