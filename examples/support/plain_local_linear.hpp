// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Computes local linear attention of one query as a textbook does, with a D x D matrix and its Cholesky factor, in
// double.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace next_byte {

class plain_local_linear {
 public:
  plain_local_linear(std::ptrdiff_t d, std::ptrdiff_t e)
      : d_(at(d)), e_(at(e)), mean_(d_), y_(d_), x_(d_), c_(d_ * d_) {}

  // Reads q (d), k (keys, d) and v (keys, e) and writes o (e); rows lie end to end.
  void attend(const float* q, const float* k, const float* v, float* o, std::ptrdiff_t keys, double scale,
              double ridge) {
    weigh(q, k, at(keys), scale);
    std::fill(c_.begin(), c_.end(), 0.0);
    for (std::size_t j = 0; j < at(keys); ++j) {
      for (std::size_t a = 0; a < d_; ++a) x_[a] = static_cast<double>(k[j * d_ + a]) - mean_[a];
      for (std::size_t a = 0; a < d_; ++a) {
        const double px = p_[j] * x_[a];
        for (std::size_t b = 0; b <= a; ++b) c_[a * d_ + b] += px * x_[b];
      }
    }
    for (std::size_t a = 0; a < d_; ++a) c_[a * d_ + a] += ridge, y_[a] = static_cast<double>(q[a]) - mean_[a];
    solve();
    std::vector<double> sum(e_);
    for (std::size_t j = 0; j < at(keys); ++j) {
      double t = 1;
      for (std::size_t a = 0; a < d_; ++a) t += (static_cast<double>(k[j * d_ + a]) - mean_[a]) * y_[a];
      for (std::size_t b = 0; b < e_; ++b) sum[b] += p_[j] * t * static_cast<double>(v[j * e_ + b]);
    }
    for (std::size_t b = 0; b < e_; ++b) o[b] = static_cast<float>(sum[b]);
  }

 private:
  static std::size_t at(std::ptrdiff_t i) { return static_cast<std::size_t>(i); }

  void weigh(const float* q, const float* k, std::size_t keys, double scale) {
    p_.assign(keys, 0);
    for (std::size_t j = 0; j < keys; ++j)
      for (std::size_t a = 0; a < d_; ++a)
        p_[j] += scale * static_cast<double>(q[a]) * static_cast<double>(k[j * d_ + a]);
    const double most = *std::max_element(p_.begin(), p_.end());
    double total = 0;
    for (double& p : p_) total += p = std::exp(p - most);
    std::fill(mean_.begin(), mean_.end(), 0.0);
    for (std::size_t j = 0; j < keys; ++j) {
      p_[j] /= total;
      for (std::size_t a = 0; a < d_; ++a) mean_[a] += p_[j] * static_cast<double>(k[j * d_ + a]);
    }
  }
  // Computes y <- C^-1 y. c_ holds the lower triangle of C, then its Cholesky factor.
  void solve() {
    for (std::size_t a = 0; a < d_; ++a)
      for (std::size_t b = 0; b <= a; ++b) {
        double& x = c_[a * d_ + b];
        for (std::size_t i = 0; i < b; ++i) x -= c_[a * d_ + i] * c_[b * d_ + i];
        x = a == b ? std::sqrt(x) : x / c_[b * d_ + b];
      }
    for (std::size_t a = 0; a < d_; ++a) {
      for (std::size_t b = 0; b < a; ++b) y_[a] -= c_[a * d_ + b] * y_[b];
      y_[a] /= c_[a * d_ + a];
    }
    for (std::size_t a = d_; a-- > 0;) {
      for (std::size_t b = a + 1; b < d_; ++b) y_[a] -= c_[b * d_ + a] * y_[b];
      y_[a] /= c_[a * d_ + a];
    }
  }

  std::size_t d_, e_;
  std::vector<double> mean_, y_, x_, c_, p_;
};

}  // namespace next_byte
