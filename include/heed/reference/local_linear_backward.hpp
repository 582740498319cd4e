// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of local linear attention as its derivation reads: the true gradient of forward, one row after the other.
// For the loss L with dL/do = g, over the keys j that the row sees, with the names of reference/local_linear.hpp:
//
//   b_j = g.v_j;  mean_b = sum_j p_j b_j
//   u = sum_j p_j (b_j - mean_b) x_j;  C w = u         (w: dL/dr, the second solve with the same C)
//   t_j = x_j.y;  r_j = x_j.w
//   dp_j = b_j + (b_j - mean_b) t_j - r_j - r_j t_j;   ds_j = p_j (dp_j - sum p dp)
//   dv_j += p_j (1 + t_j) g
//   dk_j += p_j ((b_j - mean_b) y - w - t_j w - r_j y)
//   dq += w;  dridge -= w.y                            (w = y = 0 under an infinite ridge: softmax)
//
// and from ds on as in softmax: through the score function to dbias, through the soft-cap to dq and dk.

#include <cmath>

#include "heed/core/per_head.hpp"
#include "heed/reference/gradient_sum.hpp"
#include "heed/reference/local_linear_rows.hpp"

namespace heed::reference::local_linear {
namespace detail {
inline namespace HEED_ISA {

// dL by what a row depends on; one element or row per key that it sees
struct row_gradient {
  vector y, w;  // w = dL/dq but for the scores
  vector dv;    // the factor of g in dL/dv
  matrix dk;    // dL/dk but for the scores
  vector ds;    // dL by the scores
  double dridge;
};

inline row_gradient differentiate(const row& x, const vector& g, double ridge) {
  const vector y = slope_of(x, ridge).y, b = x.v * g;
  const vector centred = b.array() - x.p.dot(b);
  const vector w = solve(x, x.x.transpose() * x.p.cwiseProduct(centred), ridge).y;
  const vector t = x.x * y, r = x.x * w, weight = t.array() + 1;
  const vector dp = b + centred.cwiseProduct(t) - r.cwiseProduct(weight);
  const matrix dk = (centred - r) * y.transpose() - weight * w.transpose();
  return {y,
          w,
          x.p.cwiseProduct(weight),
          x.p.asDiagonal() * dk,
          x.p.cwiseProduct((dp.array() - x.p.dot(dp)).matrix()),
          -static_cast<double>(w.dot(y))};
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::local_linear::backward without context: tensors as in forward, dout (B, max(H, Hk), N, E). It computes
// everything anew and reads no output of forward. dridge has an entry per head of o, also where the ridge is one
// number; dbias sums over its axes of extent 1. Shapes and values are the caller's duty; a score function without a
// derivative is an error.
template <viewable Q, viewable K, viewable V, viewable D>
void backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
              const heed::local_linear::gradients<acc_of<Q>>& gradients,
              const heed::local_linear::options<acc_of<Q>>& options = {}) {
  using T = acc_of<Q>;
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto dout4 = view(dout);
  const detail::pair_rules<T, heed::local_linear::options<T>> rules{options, q4.extent(3)};
  rules.check_derivative();
  detail::gradient_sum<T, 4> dq(gradients.dq), dk(gradients.dk), dv(gradients.dv), dbias(gradients.dbias);
  detail::gradient_sum<T, 1> dridge(gradients.dridge);
  detail::each_row(q4, k4, view(v), options, [&](const detail::row& x) {
    if (x.at.empty()) return;
    const index_t heads = dout4.extent(1), q_head = x.head * q4.extent(1) / heads,
                  kv_head = x.head * k4.extent(1) / heads;
    const detail::vector g = detail::row_of<detail::real>(dout4, x.batch, x.head, x.query);
    const detail::row_gradient d = detail::differentiate(x, g, ridge.at(x.head));
    dq.add_row(detail::real{1}, d.w, x.batch, q_head, x.query);
    dridge.add(d.dridge, x.head);
    for (std::size_t j = 0; j < x.at.size(); ++j) {
      const auto row = static_cast<index_t>(j), key = x.s->first_key + x.at[j].key;
      const auto chain = rules.derivatives_of(*x.s, x.at[j], x.dots[j]);
      const detail::real of_product = detail::real{rules.scale() * chain.by_product} * d.ds(row);
      dv.add_row(d.dv(row), g, x.batch, kv_head, key);
      dk.add_row(detail::real{1}, d.dk.row(row), x.batch, kv_head, key);
      dk.add_row(of_product, x.q, x.batch, kv_head, key);
      dq.add_row(of_product, x.k.row(row), x.batch, q_head, x.query);
      dbias.add(detail::real{chain.by_terms} * d.ds(row), x.batch, x.head, x.query, key);
    }
  });
  dq.write(), dk.write(), dv.write(), dbias.write(), dridge.write();
}

}  // namespace HEED_ISA
}  // namespace heed::reference::local_linear
