// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of linear and lightning attention as loops in float over the tokens of one head, causal, with the states of
// all tokens stored: what anyone would write first. The rounding errors of the kernels are held against its errors.

#include <cmath>
#include <vector>

#include "support/lightning_backward_case.hpp"

namespace heed_test {

struct naive_gradients {
  buffer<float> dq, dk, dv, dgates;
};

// lambda(t): decay before token t. c(t, z.q): the denominator of token t's row. z and the normaliser's gradient are
// 0 where c is 1.
template <class Lambda, class Denominator>
naive_gradients naive_backward(const gradient_buffers<float>& g, const recurrent_tensors<float>& x,
                               const buffer<float>& q, const buffer<float>& k, float scale, bool normalize,
                               const Lambda& lambda, const Denominator& c) {
  const index_t n = x.s.queries, d = q.size()[3], e = x.s.value_dim;
  const auto at = [](index_t i) { return static_cast<std::size_t>(i); };
  std::vector<float> s(at((n + 1) * d * e)), z(at((n + 1) * d)), r(at(d * e)), rz(at(d));
  naive_gradients out{buffer<float>::output(q.size()), buffer<float>::output(k.size()),
                      buffer<float>::output(x.v.size()), buffer<float>::output({1, 1, n, 1})};
  for (index_t a = 0; a < d; ++a) {
    z[at(a)] = x.z0(0, 0, a), rz[at(a)] = g.dz1(0, 0, a);
    for (index_t b = 0; b < e; ++b) s[at(a * e + b)] = x.s0(0, 0, a, b), r[at(a * e + b)] = g.ds1(0, 0, a, b);
  }
  for (index_t t = 0; t < n; ++t)
    for (index_t a = 0; a < d; ++a) {
      z[at((t + 1) * d + a)] = lambda(t) * z[at(t * d + a)] + k(0, 0, t, a);
      for (index_t b = 0; b < e; ++b)
        s[at(((t + 1) * d + a) * e + b)] = lambda(t) * s[at((t * d + a) * e + b)] + k(0, 0, t, a) * x.v(0, 0, t, b);
    }
  for (index_t t = n - 1; t >= 0; --t) {
    const float *const state = &s[at((t + 1) * d * e)], *const sums = &z[at((t + 1) * d)];
    float weights = 0, delta = 0;
    for (index_t a = 0; a < d; ++a) weights += sums[a] * q(0, 0, t, a);
    const float factor = normalize ? scale / c(weights) : scale;
    for (index_t b = 0; b < e && normalize; ++b) delta += factor * g.dout(0, 0, t, b) * x.o(0, 0, t, b);
    for (index_t a = 0; a < d; ++a) {
      float sum = normalize ? -delta * sums[a] : 0;
      for (index_t b = 0; b < e; ++b) {
        sum += state[a * e + b] * factor * g.dout(0, 0, t, b);
        r[at(a * e + b)] += q(0, 0, t, a) * factor * g.dout(0, 0, t, b);
      }
      out.dq(0, 0, t, a) = sum;
      if (normalize) rz[at(a)] -= delta * q(0, 0, t, a);
    }
    for (index_t a = 0; a < d; ++a) {
      float sum = normalize ? rz[at(a)] : 0;
      for (index_t b = 0; b < e; ++b) sum += r[at(a * e + b)] * x.v(0, 0, t, b);
      out.dk(0, 0, t, a) = sum;
    }
    for (index_t b = 0; b < e; ++b) {
      float sum = 0;
      for (index_t a = 0; a < d; ++a) sum += r[at(a * e + b)] * k(0, 0, t, a);
      out.dv(0, 0, t, b) = sum;
    }
    float gate = 0;
    for (index_t i = 0; i < d * e; ++i) gate += (r[at(i)] *= lambda(t)) * s[at(t * d * e + i)];
    out.dgates(0, 0, t) = gate;
  }
  return out;
}

// Root of the mean squared error, over that of the numbers
inline double relative_error(const buffer<float>& x, const buffer<double>& exact) {
  double error = 0, size = 0;
  for (index_t b = 0; b < x.size()[0]; ++b)
    for (index_t h = 0; h < x.size()[1]; ++h)
      for (index_t i = 0; i < x.size()[2]; ++i)
        for (index_t d = 0; d < x.size()[3]; ++d) {
          error += std::pow(static_cast<double>(x(b, h, i, d)) - exact(b, h, i, d), 2);
          size += std::pow(exact(b, h, i, d), 2);
        }
  return std::sqrt(error / size);
}

// The kernel's error is at most twice that of the loops.
inline void check_accuracy(const char* what, const buffer<float>& got, const buffer<float>& naive,
                           const buffer<double>& exact) {
  const double mine = relative_error(got, exact), its = relative_error(naive, exact);
  INFO(what << ": error " << mine << ", of naive loops " << its);
  CHECK(its > 1e-8);  // float loops do have errors
  CHECK(mine <= 2 * its);
}

}  // namespace heed_test
