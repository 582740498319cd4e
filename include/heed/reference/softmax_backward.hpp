// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of softmax attention as its derivation reads, in double, one row (query i of a head) after the other. For
// the loss L with dL/do_i = dout_i and dL/dlse_i = dlse_i, over the keys j that the row sees:
//
//   p_ij = exp(s_ij - lse_i);  b_ij = dout_i.v_j;  delta_i = sum_j p_ij b_ij - dlse_i     (the sum is dout_i.o_i)
//   ds_ij = p_ij (b_ij - delta_i)
//   dv_j += p_ij dout_i;  dsink -= exp(sink - lse_i) delta_i
//   dx_ij = ds_ij f'(x_ij)              x: the scores before the caller's function f
//   dbias += dx_ij;  dslope -= dx_ij |place_i - j|
//   dy_ij = dx_ij (1 - tanh(y_ij/c)^2)  y: the scaled products, where they are soft-capped at c
//   dq_i += scale dy_ij k_j;  dk_j += scale dy_ij q_i
//
// The kernels are tested against it, and it against central differences of forward. It shares no arithmetic with them:
// see reference/rules.hpp. Slow on purpose.

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/reference/gradient_sum.hpp"
#include "heed/reference/rules.hpp"
#include "heed/softmax/options.hpp"

namespace heed::reference::softmax {
namespace detail {
inline namespace HEED_ISA {

using namespace reference::detail;

// One key that a row sees
struct seen_key {
  index_t key;
  double score, p, b, ds = 0;
  double dx = 0, dy = 0;  // dL by the terms that are added to the score, and by the scaled product
};

// One row and its gradients. Indices of queries and keys count within the sequence.
struct gradient_row {
  const sequence& s;
  index_t head, q_head, kv_head, query, place;
  double gate;                   // of mixture-of-head attention; else 1
  std::vector<seen_key> seen;    // no elements: every gradient is 0, but that of the sink
  double head_gradient = 0;      // sum_j p_ij b_ij: dout . o without the gate
  double delta = 0, p_sink = 0;  // p_sink: exp(sink - lse)
  Eigen::VectorXd q, dout;
};

// Sets p, b and ds of a row whose scores are known.
template <class Values> void differentiate(gradient_row& row, const Values& values, double sink, double dlse) {
  double row_max = sink, sum = 0;
  for (const seen_key& x : row.seen) row_max = std::max(row_max, x.score);
  const bool has_sink = !heed::detail::equals(sink, -infinity);
  if (has_sink) sum += row.p_sink = std::exp(sink - row_max);
  for (seen_key& x : row.seen) sum += x.p = std::exp(x.score - row_max);
  if (has_sink) row.p_sink /= sum;
  for (seen_key& x : row.seen) {
    x.p /= sum, x.b = row.dout.dot(values.row(x.key));
    row.head_gradient += x.p * x.b;
  }
  row.delta = row.gate * row.head_gradient - dlse;
  for (seen_key& x : row.seen) x.ds = x.p * (row.gate * x.b - row.delta);
}

// Calls visit(row, keys, values) for every row that gates(batch, head, query of the tensor), 1 or a gate, does not
// switch off.
// Null dlse: zeros.
template <class Q, class K, class V, class D, class Acc, class Gates, class Visit>
void each_gradient_row(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
                       const tensor_view<D, 4>& dout, const tensor_view<const Acc, 3>& dlse,
                       const heed::softmax::options<Acc>& options, const Gates& gates, const Visit& visit) {
  const pair_rules<Acc, heed::softmax::options<Acc>> rules{options, q.extent(3)};
  const auto sequences = sequences_of(options.mask, q.extent(0), q.extent(2), k.extent(2));
  if (q.extent(1) == 0 || k.extent(1) == 0) return;
  const index_t heads = std::max(q.extent(1), k.extent(1));
  for (const sequence& s : sequences)
    for (index_t head = 0; head < heads; ++head) {
      const index_t q_head = head / (heads / q.extent(1)), kv_head = head / (heads / k.extent(1));
      const row_major keys = rows_of(k, s.batch, kv_head, s.first_key, s.keys),
                      values = rows_of(v, s.batch, kv_head, s.first_key, s.keys);
      for (index_t i = 0; i < s.queries; ++i) {
        const index_t query = s.first_query + i;
        const double gate = gates(s.batch, head, query);
        if (heed::detail::equals(gate, 0)) continue;
        gradient_row row{s, head, q_head, kv_head, i, rules.place_of(s, i), gate, {}, 0, 0, 0, {}, {}};
        row.q = row_of(q, s.batch, q_head, query), row.dout = row_of(dout, s.batch, head, query);
        for (index_t j = 0; j < s.keys; ++j) {
          const position at = rules.at(s, head, i, j);
          if (!rules.visible(s, at)) continue;
          const double score = rules.score(s, at, keys.row(j).dot(row.q));
          if (!heed::detail::equals(score, -infinity)) row.seen.push_back({j, score, 0, 0});
        }
        differentiate(row, values, sink_of(options, head),
                      dlse.data() != nullptr ? number(dlse(s.batch, head, query)) : 0);
        for (seen_key& x : row.seen) {
          const auto d = rules.derivatives_of(s, rules.at(s, head, i, x.key), keys.row(x.key).dot(row.q));
          x.dx = x.ds * d.by_terms, x.dy = x.ds * d.by_product;
        }
        visit(row, keys, values);
      }
    }
}

// dq, dk, dv and dbias, which softmax and mixture-of-head attention have in common
template <class T> class tensor_gradients {
 public:
  template <class Gradients>
  tensor_gradients(const Gradients& to, double scale)
      : scale_(scale), dq_(to.dq), dk_(to.dk), dv_(to.dv), dbias_(to.dbias) {}

  void add(const gradient_row& row, const row_major& keys) {
    const sequence& s = row.s;
    const index_t query = s.first_query + row.query;
    for (const seen_key& x : row.seen) {
      const index_t key = s.first_key + x.key;
      dv_.add_row(row.gate * x.p, row.dout, s.batch, row.kv_head, key);
      dbias_.add(x.dx, s.batch, row.head, query, key);
      dq_.add_row(scale_ * x.dy, keys.row(x.key), s.batch, row.q_head, query);
      dk_.add_row(scale_ * x.dy, row.q, s.batch, row.kv_head, key);
    }
  }
  void write() const { dq_.write(), dk_.write(), dv_.write(), dbias_.write(); }

 private:
  double scale_;
  gradient_sum<T, 4> dq_, dk_, dv_, dbias_;
};

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::softmax::backward without context: tensors as in forward, dout (B, max(H, Hk), N, E), gradients as their
// comments say. It computes everything anew from q, k, v and dout: it reads neither o nor options.lse. A row that sees
// nothing but a sink has lse = sink, so its dlse goes to dsink_logits. dsink_logits and dalibi_slopes have an entry per
// head of o, also where the option is one number or none. dbias sums over its axes of extent 1. Shapes are the caller's
// duty; a score function without a derivative is an error.
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
void backward(const Q& q, const K& k, const V& v, [[maybe_unused]] const O& o, const D& dout,
              const heed::softmax::gradients<acc_of<Q>>& gradients,
              const heed::softmax::options<acc_of<Q>>& options = {}) {
  using T = acc_of<Q>;
  const detail::pair_rules<T, heed::softmax::options<T>> rules{options, view(q).extent(3)};
  rules.check_derivative();
  detail::tensor_gradients<T> sums(gradients, rules.scale());
  detail::gradient_sum<T, 1> dsinks(gradients.dsink_logits), dslopes(gradients.dalibi_slopes);
  detail::each_gradient_row(
      view(q), view(k), view(v), view(dout), gradients.dlse, options, [](index_t, index_t, index_t) { return 1.0; },
      [&](const detail::gradient_row& row, const detail::row_major& keys, const detail::row_major&) {
        sums.add(row, keys);
        if (!heed::detail::equals(row.p_sink, 0)) dsinks.add(-row.p_sink * row.delta, row.head);
        for (const detail::seen_key& x : row.seen)
          dslopes.add(-x.dx * static_cast<double>(std::abs(row.place - x.key)), row.head);
      });
  sums.write(), dsinks.write(), dslopes.write();
}

}  // namespace HEED_ISA
}  // namespace heed::reference::softmax
