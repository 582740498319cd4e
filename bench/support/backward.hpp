// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of softmax attention as it is written without a library: with Eigen's products, and in plain loops. Include
// support/eigen_baseline.hpp first.

#include <cmath>
#include <vector>

#include "support/eigen_baseline.hpp"
#include "support/shapes.hpp"

namespace heed_bench {

// FLOPs of five products of the size of forward's two
inline double backward_flops(const shape& s) {
  return s.pairs() * (6 * static_cast<double>(s.d) + 4 * static_cast<double>(s.e));
}

// Holds the tensors of backward beside those of forward, whose o and lse are computed.
template <class T> struct gradient_tensors {
  tensors<T> x;
  std::vector<T> dout, lse, dq, dk, dv;

  explicit gradient_tensors(const shape& s)
      : x(s),
        dout(x.o.size()),
        lse(x.o.size() / static_cast<std::size_t>(s.e)),
        dq(x.q.size()),
        dk(x.k.size()),
        dv(x.v.size()) {
    std::uint32_t seed = 99;
    for (T& value : dout) {
      std::int32_t sum = -2 * 65535;
      for (int i = 0; i < 4; ++i) seed = seed * 1664525u + 1013904223u, sum += static_cast<std::int32_t>(seed >> 16);
      value = static_cast<T>(sum) * T(2.64e-5);
    }
    forward();
  }
  const shape& at() const { return x.at; }
  heed::softmax::options<T> options() {
    auto options = options_of<T>(x.at);
    options.lse = lse_view();
    return options;
  }
  heed::tensor_view<T, 3> lse_view() { return heed::contiguous(lse.data(), {index_t{1}, x.at.heads, x.at.n}); }
  heed::tensor_view<const T, 4> dout_view() const { return heed::bhsd(dout.data(), 1, x.at.heads, x.at.n, x.at.e); }
  heed::softmax::gradients<T> wanted() {
    const shape& s = x.at;
    return {.dq = heed::bhsd(dq.data(), 1, s.heads, s.n, s.d),
            .dk = heed::bhsd(dk.data(), 1, s.kv_heads, s.m, s.d),
            .dv = heed::bhsd(dv.data(), 1, s.kv_heads, s.m, s.e)};
  }
  void forward() { heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options()); }
  void backward(const heed::context& context = {}) {
    heed::softmax::backward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), dout_view(), wanted(), options(), context);
  }
};

// The same gradients with Eigen: two N x M matrices, five products over all pairs, hidden ones with weight 0.
template <class T> class eigen_backward {
 public:
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  explicit eigen_backward(const shape& s) : p_(s.n, s.m), ds_(s.n, s.m) {}

  void operator()(gradient_tensors<T>& x) {
    const shape& s = x.at();
    const T scale = T(1) / std::sqrt(static_cast<T>(s.d));
    for (index_t h = 0; h < s.heads; ++h) {
      const index_t g = h / (s.heads / s.kv_heads);
      const bool first = h % (s.heads / s.kv_heads) == 0;
      const Eigen::Map<const matrix> q(x.x.q.data() + h * s.n * s.d, s.n, s.d),
          k(x.x.k.data() + g * s.m * s.d, s.m, s.d), v(x.x.v.data() + g * s.m * s.e, s.m, s.e),
          o(x.x.o.data() + h * s.n * s.e, s.n, s.e), dout(x.dout.data() + h * s.n * s.e, s.n, s.e);
      Eigen::Map<matrix> dq(x.dq.data() + h * s.n * s.d, s.n, s.d), dk(x.dk.data() + g * s.m * s.d, s.m, s.d),
          dv(x.dv.data() + g * s.m * s.e, s.m, s.e);
      if (first) dk.setZero(), dv.setZero();
      p_.noalias() = q * k.transpose();
      ds_.noalias() = dout * v.transpose();
      for (index_t i = 0; i < s.n; ++i) {
        const index_t a = s.first(i), b = s.end(i);
        const T delta = (dout.row(i).array() * o.row(i).array()).sum();
        const T lse = x.lse[static_cast<std::size_t>(h * s.n + i)];
        auto p = p_.row(i).segment(a, b - a).array();
        auto ds = ds_.row(i).segment(a, b - a).array();
        p = (p * scale - lse).exp();
        ds = p * (ds - delta) * scale;
        p_.row(i).head(a).setZero(), p_.row(i).tail(s.m - b).setZero();
        ds_.row(i).head(a).setZero(), ds_.row(i).tail(s.m - b).setZero();
      }
      dv.noalias() += p_.transpose() * dout;
      dq.noalias() = ds_ * k;
      dk.noalias() += ds_.transpose() * q;
    }
  }

 private:
  matrix p_, ds_;
};

// The same gradients in plain loops, each sum in T
template <class T> void naive_backward(gradient_tensors<T>& x) {
  const shape& s = x.at();
  const T scale = T(1) / std::sqrt(static_cast<T>(s.d));
  std::fill(x.dq.begin(), x.dq.end(), T(0)), std::fill(x.dk.begin(), x.dk.end(), T(0)),
      std::fill(x.dv.begin(), x.dv.end(), T(0));
  for (index_t h = 0; h < s.heads; ++h) {
    const index_t g = h / (s.heads / s.kv_heads);
    for (index_t i = 0; i < s.n; ++i) {
      const T *q = x.x.q.data() + (h * s.n + i) * s.d, *o = x.x.o.data() + (h * s.n + i) * s.e,
              *dout = x.dout.data() + (h * s.n + i) * s.e;
      T delta = 0;
      for (index_t c = 0; c < s.e; ++c) delta += dout[c] * o[c];
      for (index_t j = s.first(i); j < s.end(i); ++j) {
        const T *k = x.x.k.data() + (g * s.m + j) * s.d, *v = x.x.v.data() + (g * s.m + j) * s.e;
        T score = 0, dp = 0;
        for (index_t c = 0; c < s.d; ++c) score += q[c] * k[c];
        for (index_t c = 0; c < s.e; ++c) dp += dout[c] * v[c];
        const T p = std::exp(score * scale - x.lse[static_cast<std::size_t>(h * s.n + i)]);
        const T ds = p * (dp - delta) * scale;
        for (index_t c = 0; c < s.d; ++c)
          x.dq[static_cast<std::size_t>((h * s.n + i) * s.d + c)] += ds * k[c],
              x.dk[static_cast<std::size_t>((g * s.m + j) * s.d + c)] += ds * q[c];
        for (index_t c = 0; c < s.e; ++c) x.dv[static_cast<std::size_t>((g * s.m + j) * s.e + c)] += p * dout[c];
      }
    }
  }
}

}  // namespace heed_bench
