// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of mixture-of-head attention: that of softmax for the rows whose gate is not 0, with gate dout in place of
// dout. Since o is gate times the head, gate dout . head = dout . o, and dgate = dout . o / gate.

#include "heed/mixture_of_head/options.hpp"
#include "heed/pairwise/gradient_call.hpp"
#include "heed/tile/verb.hpp"

namespace heed::mixture_of_head::detail {
inline namespace HEED_ISA {

template <class T> struct backward_call : pairwise::gradient_call<T> {
  template <class Options>
  backward_call(const Options& opt, const pairwise::gradient_rows<T>& x, const tensor_view<const T, 3>& gates,
                const gradients<T>& wanted)
      : pairwise::gradient_call<T>{{opt, x}} {
    this->p.dq = wanted.dq, this->p.dk = wanted.dk, this->p.dv = wanted.dv, this->p.dbias = wanted.dbias;
    this->p.gates = gates, this->p.dgates = wanted.dgates;
  }

  void check(heed::detail::checker& check) const {
    const pairwise::gradient_problem<T>& x = this->p;
    const heed::detail::named_tensor q("q", x.q), gates("gates", x.gates), dgates("dgates", x.dgates);
    check.require(x.query_heads == 0 || (x.kv_heads > 0 && x.query_heads % x.kv_heads == 0),
                  "q has % heads, k has %, q's must be a multiple of k's", x.query_heads, x.kv_heads);
    check.tensor(gates, false);
    const double group_rows = static_cast<double>(x.group) * static_cast<double>(q.extent(2));
    check.require(group_rows < 0x1p31, "q has % rows for a head of k, must have less than 2147483648", group_rows);
    for (int axis = 0; axis < 3; ++axis)
      check.require(gates.extent(axis) == q.extent(axis), "gates has extent % on axis %, q has %", gates.extent(axis),
                    axis, q.extent(axis));
    pairwise::check_softmax_gradients(check, x);
    heed::detail::check_gradient(check, dgates, gates, false);
    const pairwise::gradient_shapes shapes(x);
    heed::detail::check_gradients_apart(check, {&dgates, &shapes.dq, &shapes.dk, &shapes.dv, &shapes.dbias}, {&gates});
    check.distinct({&dgates}, {&shapes.q, &shapes.k, &shapes.v, &shapes.o, &shapes.dout, &shapes.lse, &shapes.bias});
  }

  void describe(plan& out) const {
    pairwise::gradient_call<T>::describe(out);
    const bool rows = this->p.has_row_pass(), keys = this->p.has_key_pass();
    if (out.path[0] != 0)
      out.path = this->cut.one_pass ? "mixture of head backward: one pass"
                 : rows && keys     ? "mixture of head backward: by rows and by blocks of keys"
                 : rows             ? "mixture of head backward: by rows"
                 : keys             ? "mixture of head backward: by blocks of keys"
                                    : "mixture of head backward: sums over rows";
  }
};

template <class Q, class K, class V, class G, class O, class D>
HEED_INLINE backward_call<acc_of<Q>> backward_of(const Q& q, const K& k, const V& v, const G& gates, const O& o,
                                                 const D& dout, const gradients<acc_of<Q>>& wanted,
                                                 const options<acc_of<Q>>& opt) {
  return {opt, pairwise::rows_of_gradients(q, k, v, o, dout), tensor_view<const acc_of<Q>, 3>(gates), wanted};
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head::detail
