// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Linear and lightning attention of the last tokens of a sequence: pair by pair in double, and token by token in float
// as a textbook has it.

#include <cmath>
#include <vector>

#include "accuracy_pairwise.hpp"

namespace heed_bench::accuracy {

inline constexpr index_t checked_tokens = 8;  // the last ones

// One head, one sequence of m tokens: o_i = sum of lambda^(i - j) f(q_i).f(k_j) v_j over j <= i. normalized: f is
// elu + 1, and o_i is divided by its sum of weights + 1e-6; otherwise f(x) = x.
struct recurrent_case {
  index_t m, d;
  double lambda;
  bool normalized;

  // value of the feature map
  template <class T> T feature(T x) const { return !normalized ? x : x > T(0) ? x + T(1) : std::exp(x); }

  std::vector<double> exact(const problem& x) const {
    std::vector<double> o, q(static_cast<std::size_t>(d)), k(q.size());
    for (index_t i = m - std::min(m, checked_tokens); i < m; ++i) {
      for (index_t c = 0; c < d; ++c)
        q[static_cast<std::size_t>(c)] = feature(static_cast<double>(x.q[static_cast<std::size_t>(i * d + c)]));
      long double l = 0;
      std::vector<long double> sum(static_cast<std::size_t>(d));
      for (index_t j = i; j >= 0; --j) {
        const double decayed = std::pow(lambda, static_cast<double>(i - j));
        if (decayed < 1e-40) break;
        for (index_t c = 0; c < d; ++c)
          k[static_cast<std::size_t>(c)] = feature(static_cast<double>(x.k[static_cast<std::size_t>(j * d + c)]));
        const double s = decayed * dot<double>(q.data(), k.data(), d);
        l += static_cast<long double>(s);
        for (std::size_t c = 0; c < sum.size(); ++c)
          sum[c] += static_cast<long double>(s * static_cast<double>(x.v[static_cast<std::size_t>(j * d) + c]));
      }
      for (const long double value : sum) o.push_back(static_cast<double>(normalized ? value / (l + 1e-6L) : value));
    }
    return o;
  }

  // S = lambda S + f(k) v, z = lambda z + f(k), o = f(q) S, token by token
  std::vector<float> naive(const problem& x) const {
    const auto by = static_cast<float>(lambda);
    std::vector<float> state(static_cast<std::size_t>(d * d)), z(static_cast<std::size_t>(d)), o, sum(z.size());
    for (index_t t = 0; t < m; ++t) {
      const float *q = x.q.data() + t * d, *k = x.k.data() + t * d, *v = x.v.data() + t * d;
      for (index_t c = 0; c < d; ++c) {
        float* const to = state.data() + c * d;
        const float f = feature(k[c]);
        z[static_cast<std::size_t>(c)] = by * z[static_cast<std::size_t>(c)] + f;
        for (index_t e = 0; e < d; ++e) to[e] = by * to[e] + f * v[e];
      }
      if (t < m - checked_tokens) continue;
      std::fill(sum.begin(), sum.end(), 0.0f);
      float l = 1e-6f;
      for (index_t c = 0; c < d; ++c) {
        const float f = feature(q[c]);
        l += f * z[static_cast<std::size_t>(c)];
        for (index_t e = 0; e < d; ++e)
          sum[static_cast<std::size_t>(e)] += f * state[static_cast<std::size_t>(c * d + e)];
      }
      for (const float value : sum) o.push_back(normalized ? value / l : value);
    }
    return o;
  }
};

}  // namespace heed_bench::accuracy
