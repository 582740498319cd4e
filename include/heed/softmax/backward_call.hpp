// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of softmax::backward.

#include "heed/pairwise/gradient_call.hpp"
#include "heed/softmax/options.hpp"
#include "heed/tile/verb.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T, class Options>
pairwise::gradient_problem<T> backward_problem(const Options& opt, const pairwise::gradient_rows<T>& x,
                                               const gradients<T>& wanted) {
  pairwise::gradient_problem<T> p(opt, x);
  p.dq = wanted.dq, p.dk = wanted.dk, p.dv = wanted.dv, p.dbias = wanted.dbias;
  p.dsink_logits = wanted.dsink_logits, p.dalibi_slopes = wanted.dalibi_slopes, p.dlse = wanted.dlse;
  return p;
}

template <class T> struct backward_call : pairwise::gradient_call<T> {
  void check(heed::detail::checker& check) const { pairwise::check_softmax_gradients(check, this->p); }
};

template <class Q, class K, class V, class O, class D>
HEED_INLINE backward_call<acc_of<Q>> backward_of(const Q& q, const K& k, const V& v, const O& o, const D& dout,
                                                 const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  return {{backward_problem<acc_of<Q>>(opt, pairwise::rows_of_gradients(q, k, v, o, dout), wanted)}};
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
