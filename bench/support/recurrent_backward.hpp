// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of the recurrent kernels: tensors, and two neighbours, chunked matrix products by Eigen and the recurrence
// in plain loops. Those of linear attention have elu + 1 features, causal and normalised with eps 1e-6.

// Include it before anything else that includes Eigen or intrinsics.

#include "recurrent.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace heed_bench {

// Counts nominal work: 2.5 times forward's.
struct backward_shape : recurrent_shape {
  double flops() const { return 2.5 * recurrent_shape::flops(); }
  template <class T> double bytes() const {  // each sweep reads q, k, v and dout (lightning: the first no q)
    return tokens() * static_cast<double>(sizeof(T)) * static_cast<double>(6 * d + 5 * e);
  }
};

template <class T> struct backward_tensors : recurrent_tensors<T> {
  using recurrent_tensors<T>::at;
  pages<T> dout, dq, dk, dv;

  explicit backward_tensors(const recurrent_shape& s)
      : recurrent_tensors<T>(s),
        dout(s.heads * s.n * s.e, false),
        dq(s.heads * s.n * s.d, false),
        dk(s.heads * s.n * s.d, false),
        dv(s.heads * s.n * s.e, false) {
    std::uint32_t seed = 7;
    for (T& x : dout) seed = seed * 1664525u + 1013904223u, x = static_cast<T>(seed >> 8) * T(0x1p-23) - T(1);
  }

  heed::tensor_view<const T, 4> dout_view() const { return of<const T>(dout, at.e); }
  template <class Gradients> Gradients gradients() const {
    return {.dq = of<T>(dq, at.d), .dk = of<T>(dk, at.d), .dv = of<T>(dv, at.e)};
  }

 private:
  template <class S> heed::tensor_view<S, 4> of(const pages<T>& x, index_t dim) const {
    return heed::bhsd(static_cast<S*>(x.data()), 1, at.heads, at.n, dim);
  }
};

template <class T> T elu_plus_one(T x) { return x > T(0) ? x + T(1) : std::exp(x); }
template <class T> T elu_slope(T x) { return x > T(0) ? T(1) : std::exp(x); }

// Computes chunks of 64 tokens by Eigen's matrix products, as a careful user writes them.
template <class T> class eigen_backward {
 public:
  using matrix = typename eigen_lightning<T>::matrix;
  using column = Eigen::Matrix<T, Eigen::Dynamic, 1>;
  static constexpr index_t chunk = eigen_lightning<T>::chunk;

  // normalised: linear attention, else lightning
  eigen_backward(const recurrent_shape& s, bool normalised)
      : normalised_(normalised), s_(s.d, s.e), g_(s.n, s.e), delta_(s.n), z_(s.d) {}

  void operator()(backward_tensors<T>& x) {
    for (index_t h = 0; h < x.at.heads; ++h) {
      set_powers(normalised_ ? T(1) : static_cast<T>(std::exp(-x.slopes[static_cast<std::size_t>(h)])));
      s_.setZero(), z_.setZero();
      for (index_t t = 0; t < x.at.n; t += chunk) go_forward(x, h * x.at.n, t, std::min(chunk, x.at.n - t));
      s_.setZero(), z_.setZero();
      for (index_t t = (x.at.n - 1) / chunk * chunk; t >= 0; t -= chunk)
        go_back(x, h * x.at.n, t, std::min(chunk, x.at.n - t));
    }
  }

 private:
  using rows = Eigen::Map<matrix>;

  static rows map(const pages<T>& x, index_t row, index_t count, index_t dim) {
    return rows(x.data() + row * dim, count, dim);
  }
  matrix features(const rows& x) const {
    return normalised_ ? matrix(x.array().min(T(0)).exp() + x.array().max(T(0))) : matrix(x);
  }
  static matrix slopes(const rows& x) { return x.array().min(T(0)).exp().matrix(); }
  void set_powers(T lambda) {
    power_.resize(chunk + 1);
    for (index_t i = 0; i <= chunk; ++i) power_(i) = static_cast<T>(std::pow(lambda, static_cast<T>(i)));
    weight_ = matrix::Zero(chunk, chunk);
    for (index_t i = 0; i < chunk; ++i)
      for (index_t j = 0; j <= i; ++j) weight_(i, j) = power_(i - j);
  }

  void go_forward(backward_tensors<T>& x, index_t head, index_t t, index_t c) {
    const index_t d = x.at.d, e = x.at.e, row = head + t;
    const rows q = map(x.q, row, c, d), v = map(x.v, row, c, e), dout = map(x.dout, row, c, e);
    const matrix k = features(map(x.k, row, c, d));
    auto g = g_.middleRows(t, c);
    auto delta = delta_.segment(t, c);
    g = dout;
    if (normalised_) {
      const matrix fq = features(q);
      scores_.noalias() = fq * k.transpose();
      scores_.array() *= weight_.topLeftCorner(c, c).array();
      const column denominator = ((fq * z_) + scores_.rowwise().sum()).array() + T(1e-6);
      g.array().colwise() /= denominator.array();
      delta = (g.array() * map(x.o, row, c, e).array()).rowwise().sum();
    }
    dscores_.noalias() = g * v.transpose();
    if (normalised_) dscores_.colwise() -= delta;
    dscores_.array() *= weight_.topLeftCorner(c, c).array();
    rows dq = map(x.dq, row, c, d);
    dq.noalias() = g * s_.transpose();
    if (normalised_) dq.noalias() -= delta * z_.transpose();
    dq.array().colwise() *= power_.segment(1, c).array();
    dq.noalias() += dscores_ * k;
    if (normalised_) dq.array() *= slopes(q).array();
    const matrix decayed = k.array().colwise() * power_.head(c).reverse().array();
    s_ *= power_(c);
    s_.noalias() += decayed.transpose() * v;
    if (normalised_) z_ += k.colwise().sum().transpose();
  }

  void go_back(backward_tensors<T>& x, index_t head, index_t t, index_t c) {
    const index_t d = x.at.d, e = x.at.e, row = head + t;
    const matrix q = features(map(x.q, row, c, d)), k = features(map(x.k, row, c, d));
    const rows v = map(x.v, row, c, e);
    const auto g = g_.middleRows(t, c);
    const auto delta = delta_.segment(t, c);
    scores_.noalias() = q * k.transpose();
    scores_.array() *= weight_.topLeftCorner(c, c).array();
    dscores_.noalias() = g * v.transpose();
    if (normalised_) dscores_.colwise() -= delta;
    dscores_.array() *= weight_.topLeftCorner(c, c).array();
    rows dk = map(x.dk, row, c, d), dv = map(x.dv, row, c, e);
    dk.noalias() = v * s_.transpose(), dv.noalias() = k * s_;
    if (normalised_) dk.rowwise() += z_.transpose();
    dk.array().colwise() *= power_.head(c).reverse().array(), dv.array().colwise() *= power_.head(c).reverse().array();
    dk.noalias() += dscores_.transpose() * q, dv.noalias() += scores_.transpose() * g;
    if (normalised_) dk.array() *= slopes(map(x.k, row, c, d)).array();
    const matrix decayed = q.array().colwise() * power_.segment(1, c).array();
    s_ *= power_(c);
    s_.noalias() += decayed.transpose() * g;
    if (normalised_) z_.noalias() -= q.transpose() * delta;
  }

  bool normalised_;
  matrix s_, g_, scores_, dscores_, weight_;  // g: dout over the denominator
  column delta_, z_, power_;                  // delta: g.o
};

// The recurrence in plain loops, token by token: S and z forward, then R and r back.
template <class T> class naive_backward {
 public:
  explicit naive_backward(bool normalised) : normalised_(normalised) {}

  void operator()(backward_tensors<T>& x) {
    const recurrent_shape& at = x.at;
    g_.resize(static_cast<std::size_t>(at.n * at.e)), delta_.assign(static_cast<std::size_t>(at.n), T(0));
    for (index_t h = 0; h < at.heads; ++h) {
      lambda_ = normalised_ ? T(1) : static_cast<T>(std::exp(-x.slopes[static_cast<std::size_t>(h)]));
      clear(at);
      for (index_t t = 0; t < at.n; ++t) go_forward(x, h * at.n, t);
      clear(at);
      for (index_t t = at.n - 1; t >= 0; --t) go_back(x, h * at.n, t);
    }
  }

 private:
  void clear(const recurrent_shape& at) {
    s_.assign(static_cast<std::size_t>(at.d * at.e), T(0)), z_.assign(static_cast<std::size_t>(at.d), T(0));
  }
  T phi(T x) const { return normalised_ ? elu_plus_one(x) : x; }
  T slope(T x) const { return normalised_ ? elu_slope(x) : T(1); }

  void go_forward(backward_tensors<T>& x, index_t head, index_t t) {
    const index_t d = x.at.d, e = x.at.e, row = head + t;
    const T *q = x.q.data() + row * d, *k = x.k.data() + row * d, *v = x.v.data() + row * e;
    T *const g = g_.data() + t * e, *const dq = x.dq.data() + row * d;
    T sum = 0, delta = 0;
    for (index_t a = 0; a < d; ++a) {
      z_[static_cast<std::size_t>(a)] += phi(k[a]);
      sum += phi(q[a]) * z_[static_cast<std::size_t>(a)];
      for (index_t b = 0; b < e; ++b) s_[at(a, b, e)] = lambda_ * s_[at(a, b, e)] + phi(k[a]) * v[b];
    }
    for (index_t b = 0; b < e; ++b) {
      g[b] = x.dout.data()[row * e + b] / (normalised_ ? sum + T(1e-6) : T(1));
      delta += g[b] * x.o.data()[row * e + b];
    }
    delta_[static_cast<std::size_t>(t)] = delta = normalised_ ? delta : T(0);
    for (index_t a = 0; a < d; ++a) {
      T dphi = -delta * z_[static_cast<std::size_t>(a)];
      for (index_t b = 0; b < e; ++b) dphi += s_[at(a, b, e)] * g[b];
      dq[a] = slope(q[a]) * dphi;
    }
  }
  void go_back(backward_tensors<T>& x, index_t head, index_t t) {
    const index_t d = x.at.d, e = x.at.e, row = head + t;
    const T *q = x.q.data() + row * d, *k = x.k.data() + row * d, *v = x.v.data() + row * e;
    const T* const g = g_.data() + t * e;
    T *const dk = x.dk.data() + row * d, *const dv = x.dv.data() + row * e;
    std::fill(dv, dv + e, T(0));
    for (index_t a = 0; a < d; ++a) {
      T& z = z_[static_cast<std::size_t>(a)];
      T dphi = z -= delta_[static_cast<std::size_t>(t)] * phi(q[a]);
      for (index_t b = 0; b < e; ++b) {
        T& s = s_[at(a, b, e)];
        s = lambda_ * s + phi(q[a]) * g[b];
        dphi += s * v[b];
        dv[b] += s * phi(k[a]);
      }
      dk[a] = slope(k[a]) * dphi;
    }
  }
  static std::size_t at(index_t a, index_t b, index_t e) { return static_cast<std::size_t>(a * e + b); }

  bool normalised_;
  T lambda_ = 1;
  std::vector<T> s_, z_, g_, delta_;
};

}  // namespace heed_bench
