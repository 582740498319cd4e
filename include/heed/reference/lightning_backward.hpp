// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The gradients of lightning attention by the chain rule, in double, one token t after the other, from
//
//   S_t = lambda_t S_{t-1} + k_t v_t^T;  o_t = scale S_t^T q_t,  lambda_t = exp(log_gate_t) or exp(-slope)
//
// onwards for the states S_t, and back for R_t, the gradient of S_t by all outputs from t on and by the final state:
//
//   R_t = scale q_t dout_t^T + lambda_{t+1} R_{t+1}, after the last token T plus dfinal_state
//   dq_t = scale S_t dout_t;  dk_t = R_t v_t;  dv_t = R_t^T k_t;  dinitial_state = lambda_1 R_1
//   dlog_gate_t = lambda_t <R_t, S_{t-1}>;  dslope = -sum_t dlog_gate_t, or 0 where lambda_t is 0
//
// Padding reads S_T: it adds to R_T and has no k, v or gate of its own.

#include <vector>

#include "heed/reference/gradient_sum.hpp"
#include "heed/reference/lightning.hpp"

namespace heed::reference::lightning {
namespace detail {
inline namespace HEED_ISA {

// Multiplies a state or its gradient by lambda. Nothing is left by 0, even of what is not finite.
inline void fade(row_major& s, double lambda) {
  if (heed::detail::equals(lambda, 0))
    s.setZero();
  else
    s *= lambda;
}

// Returns S_0 to S_T.
template <class Acc, class K, class V>
std::vector<row_major> states_of(const recurrence<Acc>& r, const row_major& initial, index_t kv_head,
                                 const tensor_view<K, 4>& k, const tensor_view<V, 4>& v) {
  std::vector<row_major> all{initial};
  for (index_t t = 0; t < r.tokens; ++t) {
    row_major s = all.back();
    fade(s, r.lambda(t));
    s += row_of(k, r.s.batch, kv_head, r.s.first_query + t) *
         row_of(v, r.s.batch, kv_head, r.s.first_query + t).transpose();
    all.push_back(s);
  }
  return all;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::lightning::backward without context: q (B, H, N, D), k (B, Hk, N, D), v (B, Hk, N, E), dout (B, H, N, E), each
// of float, double or a 16-bit type, and the gradients that are asked for, of the shapes of what they belong to.
// Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable D>
void backward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const D& dout,
              const heed::lightning::gradients<acc_of<Q>>& gradients,
              const heed::lightning::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto dout4 = view(dout);
  const auto& parts = heed::detail::parts(decay);
  const index_t d = q4.extent(3), e = v4.extent(3), states = parts.gated ? 0 : parts.slopes.size();
  const bool has_state = options.initial_state.s.data() != nullptr;
  detail::gradient_sum dq(gradients.dq), dk(gradients.dk), dv(gradients.dv);
  Eigen::VectorXd dslopes = Eigen::VectorXd::Zero(states);

  const auto head = [&](const auto& r, index_t from, index_t to, index_t kv_head) {
    const index_t batch = r.s.batch, first = r.s.first_query;
    const auto s =
        detail::states_of(r, detail::load_state(options.initial_state.s, r.s.number, r.head, d, e), kv_head, k4, v4);
    detail::row_major ds = detail::load_state(gradients.dfinal_state.s, r.s.number, r.head, d, e);
    for (index_t i = r.s.queries - 1; i >= 0; --i) {
      const index_t at = first + i, seen = std::min(i + 1, r.tokens);
      for (index_t h = from; h < to; ++h) {
        const Eigen::VectorXd g = options.scale * detail::row_of(dout4, batch, h, at);
        ds += detail::row_of(q4, batch, h, at) * g.transpose();
        if (seen > 0 || has_state)
          dq.add_row(1.0, Eigen::VectorXd(s[static_cast<std::size_t>(seen)] * g), batch, h, at);
      }
      double dgate = 0;
      if (i < r.tokens) {
        dk.add_row(1.0, Eigen::VectorXd(ds * detail::row_of(v4, batch, kv_head, at)), batch, kv_head, at);
        dv.add_row(1.0, Eigen::VectorXd(ds.transpose() * detail::row_of(k4, batch, kv_head, at)), batch, kv_head, at);
        detail::fade(ds, r.lambda(i));
        const bool is_cut = heed::detail::equals(r.lambda(i), 0);
        if (!is_cut && (i > 0 || has_state)) dgate = ds.cwiseProduct(s[static_cast<std::size_t>(i)]).sum();
      }
      if (parts.gated && gradients.dlog_gates.data() != nullptr)
        detail::store(gradients.dlog_gates(batch, r.head, at), dgate);
      if (!parts.gated) dslopes(r.head) -= dgate;
    }
    detail::store_state(gradients.dinitial_state.s, r.s.number, r.head, ds);
  };
  detail::each_state(q4, k4, parts, options, head);

  dq.write(), dk.write(), dv.write();
  for (index_t h = 0; h < states && gradients.dslopes.data() != nullptr; ++h)
    detail::store(gradients.dslopes(h), dslopes(h));
}

}  // namespace HEED_ISA
}  // namespace heed::reference::lightning
