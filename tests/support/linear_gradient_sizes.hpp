// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How large the errors of the gradients of linear attention may be, in units of gradient_tolerance: sums of the
// magnitudes of all terms, and of what the normaliser of a row amplifies. With the names of reference/linear_backward,
// C_i = |scale| (|x_i|.(|z0| + sum_j |y_j|)) + |eps| the magnitude of c_i, and [a] the size of an error of a:
//
//   [g_i]  = |g_i| (1 + C_i / |c_i|)                      dout_i over c_i, whose error is C_i
//   [o_i]  = (|scale| |x_i|.(|S0| + sum_j |y_j| |v_j|) + |o_i| C_i) / |c_i|
//   [d_i]  = [g_i].|o_i| + |g_i|.([o_i] + |o_i|)
//   [dw_ij] = |scale| ([g_i].|v_j| + [d_i])
//
// and so on, each formula with magnitudes in place of numbers. Products of two errors are left out.

#include <cmath>

#include "heed/reference/linear.hpp"
#include "support/buffer.hpp"

namespace heed_test {

// Gradients in double, or their sizes
struct linear_gradients {
  buffer<double> dq, dk, dv, ds0, dz0;
};

// A call in double. Null states: none.
struct linear_backward_inputs {
  buffer<double> q, k, v, s0, z0, dout, ds1, dz1;
  heed::linear::options<double> how;
  bool has_before, has_after;

  linear_gradients outputs() const {
    return {buffer<double>::output(q.size()), buffer<double>::output(k.size()), buffer<double>::output(v.size()),
            buffer<double>::output(s0.size()), buffer<double>::output(z0.size())};
  }
};

namespace detail {

namespace linear_reference = heed::reference::linear::detail;
using Eigen::VectorXd;

// The size of the derivative of an element-wise map: |phi'|, of silu the sum of its terms
inline double derivative_size(heed::feature map, double a) {
  if (map != heed::feature::silu) return std::abs(linear_reference::derivative(map, a));
  const double sigmoid = 1 / (1 + std::exp(-a));
  return sigmoid * (1 + std::abs(a) * (1 - sigmoid));
}
// From the size of the gradient of phi(x) to that of x
inline VectorXd size_of_row(const heed::detail::feature_parts<double>& map, const VectorXd& x, const VectorXd& size) {
  if (map.map_value != nullptr) return linear_reference::features_backward(map, x, size).cwiseAbs();
  if (map.built_in == heed::feature::taylor) return linear_reference::features_backward(map, x.cwiseAbs().eval(), size);
  if (map.built_in == heed::feature::softmax) {
    const VectorXd phi = linear_reference::features(map, x);
    return phi.cwiseProduct((size.array() + phi.dot(size)).matrix());
  }
  VectorXd all(x.size());
  for (Eigen::Index a = 0; a < x.size(); ++a) all(a) = derivative_size(map.built_in, x(a)) * size(a);
  return all;
}

// One key/value head of one sequence: magnitudes of its keys and state, and the sizes so far
struct head_sizes {
  const heed::linear::options<double>& how;
  bool has_before;
  linear_reference::memory state, dstate;
  linear_reference::row_major y, v, dy, dv;

  VectorXd add(const VectorXd& x, const VectorXd& dout, index_t keys) {
    const double scale = std::abs(how.scale);
    const auto seen = [keys](const auto& m) { return m.topRows(keys); };
    const VectorXd size_x = x.cwiseAbs();
    VectorXd sum = seen(v).transpose() * (seen(y) * x),
             sum_size = seen(v).cwiseAbs().transpose() * (seen(y).cwiseAbs() * size_x);
    double c = (seen(y) * x).sum(), c_size = (seen(y).cwiseAbs() * size_x).sum();
    if (has_before) {
      sum += state.s.transpose() * x, sum_size += state.s.cwiseAbs().transpose() * size_x;
      c += state.z.dot(x), c_size += state.z.cwiseAbs().dot(size_x);
    }
    c = how.scale * c + how.eps, c_size = scale * c_size + std::abs(how.eps);
    if (!how.normalize) c = 1, c_size = 0;
    if (c == 0) return VectorXd::Zero(x.size());
    const VectorXd o = (scale * sum / c).cwiseAbs(), g = (dout / c).cwiseAbs(), g_size = g * (1 + c_size / std::abs(c));
    const VectorXd o_size = (scale * sum_size + o * c_size) / std::abs(c);
    const double d_size = how.normalize ? g_size.dot(o) + g.dot(o_size + o) : 0;

    const VectorXd dw = scale * ((seen(v).cwiseAbs() * g_size).array() + d_size).matrix();
    VectorXd dx = seen(y).cwiseAbs().transpose() * dw;
    dy.topRows(keys) += dw * size_x.transpose();
    dv.topRows(keys) += scale * (seen(y).cwiseAbs() * size_x) * g_size.transpose();
    if (has_before) dx += scale * (state.s.cwiseAbs() * g_size + d_size * state.z.cwiseAbs());
    dstate.s += scale * size_x * g_size.transpose();
    dstate.z += scale * d_size * size_x;
    return dx;
  }
};

inline void store(const buffer<double>& to, index_t b, index_t h, index_t i, const VectorXd& row) {
  for (index_t d = 0; d < row.size(); ++d) to(b, h, i, d) = row(d);
}

}  // namespace detail

inline linear_gradients gradient_sizes(const linear_backward_inputs& x) {
  namespace reference = detail::linear_reference;
  using detail::VectorXd;
  const reference::pair_rules<double, heed::linear::options<double>> rules{x.how};
  const auto& map = heed::detail::parts(x.how.feature);
  const index_t group = x.k.size()[1] > 0 ? x.q.size()[1] / x.k.size()[1] : 0, width = x.s0.size()[2],
                e = x.v.size()[3];
  linear_gradients out = x.outputs();
  for (buffer<double>* const each : {&out.dq, &out.dk, &out.dv, &out.ds0, &out.dz0}) each->fill(0);
  for (const auto& s : reference::sequences_of(x.how.mask, x.q.size()[0], x.q.size()[2], x.k.size()[2]))
    for (index_t h = 0; h < x.k.size()[1]; ++h) {
      const index_t keys = rules.length(s);
      const heed::state_view<const double> before{x.s0.cview(), x.z0.view3()}, after{x.ds1.cview(), x.dz1.view3()};
      detail::head_sizes head{x.how,
                              x.has_before,
                              reference::load_memory(before, s.number, h, width, e),
                              {reference::row_major::Zero(width, e), VectorXd::Zero(width)},
                              reference::row_major(keys, width),
                              reference::rows_of(x.v.cview(), s.batch, h, s.first_key, keys),
                              reference::row_major::Zero(keys, width),
                              reference::row_major::Zero(keys, e)};
      if (!x.how.normalize) head.state.z.setZero();
      for (index_t j = 0; j < keys; ++j)
        head.y.row(j) =
            reference::features(map, reference::row_of(x.k.cview(), s.batch, h, s.first_key + j)).transpose();
      for (index_t g = h * group; g < (h + 1) * group; ++g)
        for (index_t i = 0; i < s.queries; ++i) {
          const VectorXd query = reference::row_of(x.q.cview(), s.batch, g, s.first_query + i);
          const VectorXd dx =
              head.add(reference::features(map, query),
                       reference::row_of(x.dout.cview(), s.batch, g, s.first_query + i), reference::seen(rules, s, i));
          detail::store(out.dq, s.batch, g, s.first_query + i, detail::size_of_row(map, query, dx));
        }
      if (x.has_after) {
        const reference::memory dafter = reference::load_memory(after, s.number, h, width, e);
        const reference::row_major ds = dafter.s.cwiseAbs();
        head.dy += head.v.cwiseAbs() * ds.transpose(), head.dv += head.y.cwiseAbs() * ds, head.dstate.s += ds;
        if (x.how.normalize) {
          head.dy.rowwise() += dafter.z.cwiseAbs().transpose();
          head.dstate.z += dafter.z.cwiseAbs();
        }
      }
      for (index_t j = 0; j < keys; ++j) {
        const VectorXd key = reference::row_of(x.k.cview(), s.batch, h, s.first_key + j);
        detail::store(out.dk, s.batch, h, s.first_key + j, detail::size_of_row(map, key, head.dy.row(j).transpose()));
        detail::store(out.dv, s.batch, h, s.first_key + j, head.dv.row(j).transpose());
      }
      reference::store_memory(heed::state_view<double>{out.ds0.view(), out.dz0.view3()}, s.number, h, head.dstate);
    }
  return out;
}

}  // namespace heed_test
