// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of local linear attention as it is written without a library: with Eigen, a matrix and an LDLT for each
// query, and in plain loops. One head, E = D. Include support/eigen_baseline.hpp first.

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/local_linear.hpp"
#include "support/eigen_baseline.hpp"
#include "support/shapes.hpp"

namespace heed_bench {

// The tensors of backward beside those of forward, and what forward leaves for it
template <class T> struct regression_tensors {
  tensors<T> x;
  std::vector<T> dout, lse, slope, mean, dq, dk, dv;

  explicit regression_tensors(const shape& s)
      : x(s),
        dout(x.o.size()),
        lse(static_cast<std::size_t>(s.n)),
        slope(x.q.size()),
        mean(x.q.size()),
        dq(x.q.size()),
        dk(x.k.size()),
        dv(x.v.size()) {
    std::uint32_t seed = 99;
    for (T& value : dout) {
      std::int32_t sum = -2 * 65535;
      for (int i = 0; i < 4; ++i) seed = seed * 1664525u + 1013904223u, sum += static_cast<std::int32_t>(seed >> 16);
      value = static_cast<T>(sum) * T(2.64e-5);
    }
  }
  const shape& at() const { return x.at; }
  heed::local_linear::options<T> options(heed::local_linear::report& report) const {
    heed::local_linear::options<T> options;
    options.mask = options_of<T>(x.at).mask, options.report = &report;
    return options;
  }
  // The same, with the outputs of forward that backward reads
  heed::local_linear::options<T> with_saved(heed::local_linear::options<T> options) {
    options.lse = heed::contiguous(lse.data(), {index_t{1}, index_t{1}, x.at.n});
    options.slope = rows(slope), options.mean_key = rows(mean);
    return options;
  }
  heed::local_linear::gradients<T> wanted() {
    const shape& s = x.at;
    return {.dq = rows(dq), .dk = heed::bhsd(dk.data(), 1, 1, s.m, s.d), .dv = heed::bhsd(dv.data(), 1, 1, s.m, s.e)};
  }
  heed::tensor_view<const T, 4> dout_view() const { return heed::bhsd(dout.data(), 1, 1, x.at.n, x.at.e); }
  void forward(double ridge, const heed::local_linear::options<T>& options) {
    heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), ridge, x.o_view(), options);
  }
  void backward(double ridge, const heed::local_linear::options<T>& options, const heed::context& context = {}) {
    heed::local_linear::backward(x.q_view(), x.k_view(), x.v_view(), ridge, dout_view(), wanted(), options, context);
  }

 private:
  heed::tensor_view<T, 4> rows(std::vector<T>& from) { return heed::bhsd(from.data(), 1, 1, x.at.n, x.at.d); }
};

// The same gradients with Eigen
inline void eigen_regression_backward(regression_tensors<float>& x, float ridge) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const shape& s = x.at();
  const Eigen::Map<const matrix> all_q(x.x.q.data(), s.n, s.d), all_k(x.x.k.data(), s.m, s.d),
      all_v(x.x.v.data(), s.m, s.e), dout(x.dout.data(), s.n, s.e);
  Eigen::Map<matrix> dq(x.dq.data(), s.n, s.d), dk(x.dk.data(), s.m, s.d), dv(x.dv.data(), s.m, s.e);
  const float scale = 1 / std::sqrt(static_cast<float>(s.d));
  dk.setZero(), dv.setZero();
  matrix about(s.m, s.d), c(s.d, s.d);
  for (index_t i = 0; i < s.n; ++i) {
    const index_t m = s.end(i);
    const auto k = all_k.topRows(m);
    const auto v = all_v.topRows(m);
    Eigen::VectorXf p = scale * (k * all_q.row(i).transpose());
    p = (p.array() - p.maxCoeff()).exp();
    p /= p.sum();
    const Eigen::RowVectorXf mean = p.transpose() * k;
    about.topRows(m) = k.rowwise() - mean;
    const auto xs = about.topRows(m);
    c.noalias() = xs.transpose() * p.asDiagonal() * xs;
    c.diagonal().array() += ridge;
    const Eigen::LDLT<matrix> factors(c);
    const Eigen::VectorXf y = factors.solve((all_q.row(i) - mean).transpose());
    Eigen::VectorXf b = v * dout.row(i).transpose();
    b.array() -= p.dot(b);
    const Eigen::VectorXf w = factors.solve(xs.transpose() * p.cwiseProduct(b));
    const Eigen::VectorXf a = 1 + (xs * y).array(), rest = b - xs * w, pa = p.cwiseProduct(a),
                          pc = p.cwiseProduct(rest);
    const Eigen::VectorXf ds = scale * (pa.cwiseProduct(rest) - pa.dot(rest) * p);
    dq.row(i).noalias() = w.transpose() + ds.transpose() * k;
    dk.topRows(m).noalias() += pc * y.transpose() - pa * w.transpose() + ds * all_q.row(i);
    dv.topRows(m).noalias() += pa * dout.row(i);
  }
}

// The same gradients in plain loops, each sum in T. Systems are solved by Cholesky factors, or, with a tolerance above
// 0, by conjugate gradients that stop where heed's do.
template <class T> class naive_regression {
 public:
  naive_regression(regression_tensors<T>& x, double ridge, double tolerance)
      : x_(x), s_(x.at()), ridge_(static_cast<T>(ridge)), tolerance_(tolerance), factors_(at(s_.d * s_.d)) {}

  void operator()() {
    for (auto* to : {&x_.dq, &x_.dk, &x_.dv}) std::fill(to->begin(), to->end(), T(0));
    for (index_t i = 0; i < s_.n; ++i) add_row(i);
  }

 private:
  using numbers = std::vector<T>;
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  static T dot(const T* a, const T* b, index_t n) {
    T sum = 0;
    for (index_t c = 0; c < n; ++c) sum += a[c] * b[c];
    return sum;
  }

  void add_row(index_t i) {
    const index_t d = s_.d, m = s_.end(i);
    const T *q = &x_.x.q[at(i * d)], *dout = &x_.dout[at(i * d)], scale = 1 / std::sqrt(static_cast<T>(d));
    numbers mean(at(d)), b(at(m)), u(at(d)), rest(at(d));
    weigh(q, m, scale);
    for (index_t j = 0; j < m; ++j)
      for (index_t c = 0; c < d; ++c) mean[at(c)] += p_[at(j)] * key(j)[c];
    about_.resize(at(m * d));
    for (index_t j = 0; j < m; ++j)
      for (index_t c = 0; c < d; ++c) about_[at(j * d + c)] = key(j)[c] - mean[at(c)];
    for (index_t c = 0; c < d; ++c) rest[at(c)] = q[c] - mean[at(c)];
    if (!(tolerance_ > 0)) factor();
    const numbers y = solve(rest);
    T mean_b = 0, delta = 0;
    for (index_t j = 0; j < m; ++j) mean_b += p_[at(j)] * (b[at(j)] = dot(dout, &x_.x.v[at(j * d)], d));
    for (index_t j = 0; j < m; ++j) {
      b[at(j)] -= mean_b;
      for (index_t c = 0; c < d; ++c) u[at(c)] += p_[at(j)] * b[at(j)] * about_[at(j * d + c)];
    }
    const numbers w = solve(u);
    numbers a(at(m));
    for (index_t j = 0; j < m; ++j) {
      a[at(j)] = 1 + dot(&about_[at(j * d)], y.data(), d);
      b[at(j)] -= dot(&about_[at(j * d)], w.data(), d);
      delta += p_[at(j)] * a[at(j)] * b[at(j)];
    }
    for (index_t c = 0; c < d; ++c) x_.dq[at(i * d + c)] = w[at(c)];
    for (index_t j = 0; j < m; ++j) {
      const T pa = p_[at(j)] * a[at(j)], pc = p_[at(j)] * b[at(j)],
              ds = scale * p_[at(j)] * (a[at(j)] * b[at(j)] - delta);
      for (index_t c = 0; c < d; ++c) {
        x_.dq[at(i * d + c)] += ds * key(j)[c];
        x_.dk[at(j * d + c)] += pc * y[at(c)] - pa * w[at(c)] + ds * q[c];
        x_.dv[at(j * d + c)] += pa * dout[c];
      }
    }
  }
  const T* key(index_t j) const { return &x_.x.k[at(j * s_.d)]; }

  void weigh(const T* q, index_t m, T scale) {
    p_.resize(at(m));
    T most = 0, sum = 0;
    for (index_t j = 0; j < m; ++j) p_[at(j)] = scale * dot(q, key(j), s_.d), most = std::max(most, p_[at(j)]);
    for (T& p : p_) sum += p = std::exp(p - most);
    for (T& p : p_) p /= sum;
  }
  void factor() {
    const index_t d = s_.d;
    T* const f = factors_.data();
    std::fill(factors_.begin(), factors_.end(), T(0));
    for (std::size_t j = 0; j < p_.size(); ++j)
      for (index_t r = 0; r < d; ++r)
        for (index_t c = 0; c <= r; ++c) f[r * d + c] += p_[j] * about_[j * at(d) + at(r)] * about_[j * at(d) + at(c)];
    for (index_t r = 0; r < d; ++r)
      for (index_t c = 0; c <= r; ++c) {
        const T rest = f[r * d + c] + (r == c ? ridge_ : T(0)) - dot(f + r * d, f + c * d, c);
        f[r * d + c] = r == c ? std::sqrt(rest) : rest / f[c * d + c];
      }
  }
  numbers solve(numbers x) const {
    if (tolerance_ > 0) return iterate(x);
    const index_t d = s_.d;
    const T* const f = factors_.data();
    for (index_t r = 0; r < d; ++r) x[at(r)] = (x[at(r)] - dot(f + r * d, x.data(), r)) / f[r * d + r];
    for (index_t r = d - 1; r >= 0; --r) {
      for (index_t c = r + 1; c < d; ++c) x[at(r)] -= f[c * d + r] * x[at(c)];
      x[at(r)] /= f[r * d + r];
    }
    return x;
  }
  numbers iterate(numbers r) const {
    const index_t d = s_.d;
    numbers x(at(d)), p = r, image(at(d));
    T rr = dot(r.data(), r.data(), d);
    const double bound = tolerance_ * tolerance_ * static_cast<double>(rr);
    for (int n = 0; n < 64 && static_cast<double>(rr) > bound; ++n) {
      for (index_t c = 0; c < d; ++c) image[at(c)] = ridge_ * p[at(c)];
      for (std::size_t j = 0; j < p_.size(); ++j) {
        const T t = p_[j] * dot(&about_[j * at(d)], p.data(), d);
        for (index_t c = 0; c < d; ++c) image[at(c)] += t * about_[j * at(d) + at(c)];
      }
      const T alpha = rr / dot(p.data(), image.data(), d), before = rr;
      for (std::size_t c = 0; c < at(d); ++c) x[c] += alpha * p[c], r[c] -= alpha * image[c];
      rr = dot(r.data(), r.data(), d);
      for (std::size_t c = 0; c < at(d); ++c) p[c] = r[c] + rr / before * p[c];
    }
    return x;
  }

  regression_tensors<T>& x_;
  const shape& s_;
  T ridge_;
  double tolerance_;
  numbers factors_, p_, about_;
};

}  // namespace heed_bench
