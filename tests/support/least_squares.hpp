// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Local linear attention as the textbook has it, for every query a weighted ridge regression of the values on the keys
// around it:
//
//   minimise over b, W:  sum_j w_j |v_j - b - W^T (k_j - q)|^2 + ridge * sum_j w_j * |W|^2;   o = b
//
// as one stacked system by Householder QR: no mean key, no covariance, no slope y. Weights and masks are those of the
// softmax reference; nothing is shared with reference/local_linear.hpp.

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/local_linear/options.hpp"
#include "heed/reference/softmax.hpp"

#include <Eigen/QR>

namespace heed_test {

using heed::index_t;

template <class T> heed::softmax::options<T> softmax_options(const heed::local_linear::options<T>& x) {
  return {.mask = x.mask,
          .align = x.align,
          .scale = x.scale,
          .softcap = x.softcap,
          .alibi_slopes = x.alibi_slopes,
          .bias = x.bias,
          .score = x.score};
}

// b of one query. z: keys about the query; w: weights; penalty: on |W|^2
inline Eigen::VectorXd intercept(const Eigen::MatrixXd& z, const Eigen::MatrixXd& v, const Eigen::VectorXd& w,
                                 double penalty) {
  const index_t n = z.rows(), d = z.cols();
  Eigen::MatrixXd system = Eigen::MatrixXd::Zero(n + d, d + 1), right = Eigen::MatrixXd::Zero(n + d, v.cols());
  const Eigen::VectorXd root = w.cwiseSqrt();
  system.topLeftCorner(n, 1) = root;
  system.topRightCorner(n, d) = root.asDiagonal() * z;
  system.bottomRightCorner(d, d).diagonal().setConstant(std::sqrt(penalty));
  right.topRows(n) = root.asDiagonal() * v;
  return Eigen::ColPivHouseholderQR<Eigen::MatrixXd>(system).solve(right).row(0).transpose();
}

// o (B, max(H, Hk), N, E) in double
template <class T>
void least_squares(heed::tensor_view<const T, 4> q, heed::tensor_view<const T, 4> k, heed::tensor_view<const T, 4> v,
                   const heed::per_head& ridge, heed::tensor_view<double, 4> o,
                   const heed::local_linear::options<T>& options) {
  const heed::softmax::options<T> how = softmax_options(options);
  const auto element = [](const auto& x, index_t b, index_t h, index_t i, index_t c) -> auto& {
    return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + c * x.stride(3)];
  };
  const index_t heads = std::max(q.extent(1), k.extent(1)), d = q.extent(3);
  heed::reference::softmax::detail::each_row(
      q, k, v, how,
      [&](const auto& sequence, index_t head, index_t i, const Eigen::VectorXd& scores, const auto& values) {
        std::vector<index_t> seen;
        for (index_t j = 0; j < scores.size(); ++j)
          if (scores(j) != -HUGE_VAL) seen.push_back(j);
        const auto n = static_cast<index_t>(seen.size());
        const index_t b = sequence.batch, query = sequence.first_query + i, q_head = head / (heads / q.extent(1)),
                      kv_head = head / (heads / k.extent(1));
        Eigen::VectorXd w(n), out = Eigen::VectorXd::Zero(v.extent(3));
        Eigen::MatrixXd z(n, d), seen_values(n, v.extent(3));
        for (index_t r = 0; r < n; ++r) {
          const index_t j = seen[static_cast<std::size_t>(r)];
          w(r) = scores(j);
          seen_values.row(r) = values.row(j);
          for (index_t c = 0; c < d; ++c)
            z(r, c) = static_cast<double>(element(k, b, kv_head, sequence.first_key + j, c)) -
                      static_cast<double>(element(q, b, q_head, query, c));
        }
        if (n > 0) {
          w = (w.array() - w.maxCoeff()).exp();  // any common factor of the weights is one of the penalty too
          const double penalty = ridge.at(head) * w.sum();
          out = std::isinf(penalty) ? Eigen::VectorXd(seen_values.transpose() * w / w.sum())
                                    : intercept(z, seen_values, w, penalty);
        }
        for (index_t e = 0; e < out.size(); ++e) element(o, b, head, query, e) = out(e);
      });
}

}  // namespace heed_test
