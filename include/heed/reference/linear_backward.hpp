// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The gradients of linear attention by the chain rule, in double, one query i after the other. With x_i = phi(q_i),
// y_j = phi(k_j), the keys j that query i sees, and the state S0, z0 before the first key:
//
//   w_ij = x_i.y_j                                   forward, once more
//   c_i  = scale (x_i.z0 + sum_j w_ij) + eps         or 1, where nothing normalises
//   o_i  = scale (S0^T x_i + sum_j w_ij v_j) / c_i
//
//   g_i  = dout_i / c_i;  d_i = g_i.o_i              or 0, where nothing normalises
//   dw_ij = scale (g_i.v_j - d_i)
//   dx_i = sum_j dw_ij y_j + scale (S0 g_i - d_i z0)
//   dy_j = sum_i dw_ij x_i + dS1 v_j + dz1
//   dv_j = scale sum_i w_ij g_i + dS1^T y_j
//   dS0  = scale sum_i x_i g_i^T + dS1;  dz0 = -scale sum_i d_i x_i + dz1
//
// dS1, dz1 are the gradients of the final state, which holds all keys. dq_i and dk_j are dx_i and dy_j times the
// derivative of phi. Nothing is read of what forward computed.

#include "heed/reference/gradient_sum.hpp"
#include "heed/reference/linear.hpp"

namespace heed::reference::linear {
namespace detail {
inline namespace HEED_ISA {

// Returns the derivative of a feature map of single elements. A NaN stays one.
inline double derivative(feature map, double a) {
  switch (map) {
    case feature::elu_plus_one:
      return a > 0 ? 1 : std::exp(a);
    case feature::relu:
      return std::isnan(a) ? a : a > 0 ? 1 : 0;
    case feature::relu_squared:
      return a < 0 ? 0 : 2 * a;
    case feature::silu: {
      if (std::isinf(a)) return a > 0 ? 1 : 0;
      const double sigmoid = 1 / (1 + std::exp(-a));
      return sigmoid * (1 + a * (1 - sigmoid));
    }
    case feature::exp:
      return std::exp(a);
    default:
      return 1;
  }
}

// Returns the gradient of a row x of q or k from that of phi(x).
template <class Acc>
Eigen::VectorXd features_backward(const heed::detail::feature_parts<Acc>& map, const Eigen::VectorXd& x,
                                  const Eigen::VectorXd& dphi) {
  const Eigen::Index d = x.size();
  Eigen::VectorXd dx(d);
  if (map.map_value != nullptr) {
    for (Eigen::Index a = 0; a < d; ++a) {
      Acc element = static_cast<Acc>(x(a));
      map.map_derivative(map.derivative.bytes, &element, 1);
      dx(a) = static_cast<double>(element) * dphi(a);
    }
  } else if (map.built_in == feature::softmax) {
    const Eigen::VectorXd phi = features(map, x);
    const double mean = phi.dot(dphi);
    for (Eigen::Index a = 0; a < d; ++a) dx(a) = phi(a) * (dphi(a) - mean);
  } else if (map.built_in == feature::taylor) {
    for (Eigen::Index a = 0; a < d; ++a) {
      dx(a) = dphi(1 + a);
      for (Eigen::Index b = 0; b < d; ++b)
        dx(a) += (dphi(1 + d + a * d + b) + dphi(1 + d + b * d + a)) * x(b) / std::sqrt(2.0);
    }
  } else {
    for (Eigen::Index a = 0; a < d; ++a) dx(a) = derivative(map.built_in, x(a)) * dphi(a);
  }
  return dx;
}

// The keys of one key/value head of one sequence, without those that key_lengths hides, and the gradients so far
struct head_gradients {
  bool normalize, has_state;
  double scale, eps;
  memory state, dstate;    // S0, z0
  row_major y, v, dy, dv;  // a row per key
  index_t reached = 0;     // the first so many keys have gradients

  // Adds what a query gives that sees the first `keys` keys. Returns the gradient of x, its features.
  Eigen::VectorXd add(const Eigen::VectorXd& x, const Eigen::VectorXd& dout, index_t keys) {
    const Eigen::VectorXd w = y.topRows(keys) * x;
    Eigen::VectorXd sum = v.topRows(keys).transpose() * w, dx = Eigen::VectorXd::Zero(x.size());
    double weights = w.sum();
    if (has_state) sum += state.s.transpose() * x, weights += state.z.dot(x);
    const double c = normalize ? scale * weights + eps : 1;
    if (heed::detail::equals(c, 0)) return dx;  // o is 0 whatever it is computed from
    reached = std::max(reached, keys);

    const Eigen::VectorXd g = dout / c;
    const double d = normalize ? scale * g.dot(sum) / c : 0;
    const Eigen::VectorXd dw = scale * ((v.topRows(keys) * g).array() - d).matrix();
    dx += y.topRows(keys).transpose() * dw;
    dy.topRows(keys) += dw * x.transpose();
    dv.topRows(keys) += scale * w * g.transpose();
    if (has_state) dx += scale * (state.s * g - d * state.z);
    dstate.s += scale * x * g.transpose();
    dstate.z -= scale * d * x;
    return dx;
  }

  // Adds what the final state gives.
  void add_s(const row_major& ds) {
    reached = y.rows();
    dy += v * ds.transpose(), dv += y * ds, dstate.s += ds;
  }
  void add_z(const Eigen::VectorXd& dz) {
    reached = y.rows();
    dy.rowwise() += dz.transpose(), dstate.z += dz;
  }
};

template <class Acc, class K, class V>
head_gradients keys_of_head(const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
                            const heed::linear::options<Acc>& options, const sequence& s, index_t h, index_t keys) {
  const auto& map = heed::detail::parts(options.feature);
  const index_t width = heed::detail::feature_dim(map, k.extent(3)), e = v.extent(3);
  head_gradients x{options.normalize,
                   options.initial_state.s.data() != nullptr,
                   options.scale,
                   options.eps,
                   load_memory(options.initial_state, s.number, h, width, e),
                   {row_major::Zero(width, e), Eigen::VectorXd::Zero(width)},
                   row_major(keys, width),
                   rows_of(v, s.batch, h, s.first_key, keys),
                   row_major::Zero(keys, width),
                   row_major::Zero(keys, e)};
  if (!options.normalize) x.state.z.setZero();
  for (index_t j = 0; j < keys; ++j) x.y.row(j) = features(map, row_of(k, s.batch, h, s.first_key + j)).transpose();
  return x;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::linear::backward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), dout (B, H, N, E), each of
// float, double or a 16-bit type, and the gradients that are asked for, of the shapes of what they belong to. o is not
// read. Without `normalize` the states have no z. Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O, viewable D>
void backward(const Q& q, const K& k, const V& v, const O&, const D& dout,
              const heed::linear::gradients<acc_of<Q>>& gradients,
              const heed::linear::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto dout4 = view(dout);
  const detail::pair_rules<acc_of<Q>, heed::linear::options<acc_of<Q>>> rules{options};
  const auto& map = heed::detail::parts(options.feature);
  const auto& after = gradients.dfinal_state;
  state_view<acc_of<Q>> before = gradients.dinitial_state;
  if (!options.normalize) before.z = {};
  const index_t heads = q4.extent(1), kv_heads = k4.extent(1);
  detail::gradient_sum dq(gradients.dq), dk(gradients.dk), dv(gradients.dv);
  for (const detail::sequence& s : detail::sequences_of(options.mask, q4.extent(0), q4.extent(2), k4.extent(2)))
    for (index_t h = 0; h < kv_heads; ++h) {
      detail::head_gradients keys = detail::keys_of_head(k4, v4, options, s, h, rules.length(s));
      for (index_t g = h * (heads / kv_heads); g < (h + 1) * (heads / kv_heads); ++g)
        for (index_t i = 0; i < s.queries; ++i) {
          const index_t at = s.first_query + i, seen = detail::seen(rules, s, i);
          const Eigen::VectorXd query = detail::row_of(q4, s.batch, g, at);
          const Eigen::VectorXd dx =
              keys.add(detail::features(map, query), detail::row_of(dout4, s.batch, g, at), seen);
          if (seen > 0 || keys.has_state) dq.add_row(1.0, detail::features_backward(map, query, dx), s.batch, g, at);
        }
      const detail::memory dafter = detail::load_memory(after, s.number, h, keys.y.cols(), v4.extent(3));
      if (after.s.data() != nullptr) keys.add_s(dafter.s);
      if (options.normalize && after.z.data() != nullptr) keys.add_z(dafter.z);
      for (index_t j = 0; j < keys.reached; ++j) {
        const index_t at = s.first_key + j;
        dk.add_row(1.0, detail::features_backward(map, detail::row_of(k4, s.batch, h, at), keys.dy.row(j)), s.batch, h,
                   at);
        dv.add_row(1.0, keys.dv.row(j), s.batch, h, at);
      }
      detail::store_memory(before, s.number, h, keys.dstate);
    }
  dq.write(), dk.write(), dv.write();
}

}  // namespace HEED_ISA
}  // namespace heed::reference::linear
