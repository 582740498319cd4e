// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Computes softmax attention as a careful user of Eigen writes it: two matrix products around a score matrix that is
// allocated once, with exponentials that Eigen vectorises, on one thread, with the flags of the rest. Hidden keys cost
// their share of both products (their weight is set to 0). The exponentials run over visible scores only.

// Include it before anything else that includes Eigen or intrinsics.

#define EIGEN_DONT_PARALLELIZE
#include <cmath>

#include "heed/reference/eigen.hpp"
#include "shapes.hpp"

namespace heed_bench {

template <class T> class eigen_attention {
 public:
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  explicit eigen_attention(const shape& s) : scores_(s.n, s.m), sums_(s.n) {}

  // bias, if not null: (bias_heads, N, M), added to the scaled scores of head h % bias_heads
  void operator()(tensors<T>& x, const T* bias = nullptr, index_t bias_heads = 1) {
    const shape& s = x.at;
    const T scale = T(1) / std::sqrt(static_cast<T>(s.d));
    for (index_t h = 0; h < s.heads; ++h) {
      const index_t g = h / (s.heads / s.kv_heads);
      const Eigen::Map<const matrix> q(x.q.data() + h * s.n * s.d, s.n, s.d), k(x.k.data() + g * s.m * s.d, s.m, s.d),
          v(x.v.data() + g * s.m * s.e, s.m, s.e);
      Eigen::Map<matrix> o(x.o.data() + h * s.n * s.e, s.n, s.e);
      scores_.noalias() = q * k.transpose();
      if (bias != nullptr)
        scores_.array() += Eigen::Map<const matrix>(bias + h % bias_heads * s.n * s.m, s.n, s.m).array() / scale;
      for (index_t i = 0; i < s.n; ++i) {
        const index_t first = s.first(i), end = s.end(i);
        auto row = scores_.row(i);
        auto seen = row.segment(first, end - first).array();
        const T most = seen.maxCoeff();
        seen = ((seen - most) * scale).exp();
        sums_(i) = seen.sum();
        row.head(first).setZero();
        row.tail(s.m - end).setZero();
      }
      o.noalias() = scores_ * v;
      o.array().colwise() /= sums_.array();
    }
  }

 private:
  matrix scores_;
  Eigen::Matrix<T, Eigen::Dynamic, 1> sums_;
};

}  // namespace heed_bench
