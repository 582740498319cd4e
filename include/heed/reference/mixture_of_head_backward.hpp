// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of mixture-of-head attention, in double: with head_hi = sum_j p_hij v_j, the output without its gate,
//
//   dgate_hi = dout_hi.head_hi where the gate is not 0, else 0
//
// and the other gradients are those of softmax attention for gate_hi dout_hi in place of dout_hi. A row whose gate is 0
// has none.

#include "heed/mixture_of_head/options.hpp"
#include "heed/reference/softmax_backward.hpp"

namespace heed::reference::mixture_of_head {
inline namespace HEED_ISA {

// heed::mixture_of_head::backward without context: tensors as in forward, o the gated output, dout (B, H, N, E). It
// computes everything anew from q, k, v, gates and dout: it reads neither o nor options.lse. dbias sums over its axes
// of extent 1. Shapes are the caller's duty; a score function without a derivative is an error.
template <viewable Q, viewable K, viewable V, viewable G, viewable O, viewable D>
void backward(const Q& q, const K& k, const V& v, const G& gates, [[maybe_unused]] const O& o, const D& dout,
              const heed::mixture_of_head::gradients<acc_of<Q>>& gradients,
              const heed::mixture_of_head::options<acc_of<Q>>& options = {}) {
  namespace parts = softmax::detail;
  using T = acc_of<Q>;
  const auto gates3 = view<3>(gates);
  const parts::pair_rules<T, heed::mixture_of_head::options<T>> rules{options, view(q).extent(3)};
  rules.check_derivative();
  parts::tensor_gradients<T> sums(gradients, rules.scale());
  parts::gradient_sum<T, 3> dgates(gradients.dgates);
  parts::each_gradient_row(
      view(q), view(k), view(v), view(dout), tensor_view<const T, 3>{}, options,
      [&](index_t b, index_t h, index_t i) { return parts::number(gates3(b, h, i)); },
      [&](const parts::gradient_row& row, const parts::row_major& keys, const parts::row_major&) {
        sums.add(row, keys);
        dgates.add(row.head_gradient, row.s.batch, row.head, row.s.first_query + row.query);
      });
  sums.write(), dgates.write();
}

}  // namespace HEED_ISA
}  // namespace heed::reference::mixture_of_head
