// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Forward and backward as plain loops in T, one number after the other, dense or causal without options: how far off
// such loops are is what kernels are measured by.

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/softmax_backward_case.hpp"

namespace heed_test {

// Writes o, lse, dq, dk and dv of the case, whose mask is causal() or none.
template <class T> void naive_backward(const backward_case<T>& x, bool causal) {
  const shape& s = x.s;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(s.dim)));
  x.dq.each([](T& element) { element = 0; });
  x.dk.each([](T& element) { element = 0; });
  x.dv.each([](T& element) { element = 0; });
  std::vector<T> p(static_cast<std::size_t>(s.keys));
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.out_heads(); ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        const index_t qh = h * s.heads / s.out_heads(), kh = h * s.kv_heads / s.out_heads();
        const index_t seen = causal ? std::clamp<index_t>(i + s.keys - s.queries + 1, 0, s.keys) : s.keys;
        T row_max = -std::numeric_limits<T>::infinity(), sum = 0;
        for (index_t j = 0; j < seen; ++j) {
          T dot = 0;
          for (index_t d = 0; d < s.dim; ++d) dot += x.q(b, qh, i, d) * x.k(b, kh, j, d);
          row_max = std::max(row_max, p[static_cast<std::size_t>(j)] = scale * dot);
        }
        for (index_t j = 0; j < seen; ++j)
          sum += p[static_cast<std::size_t>(j)] = std::exp(p[static_cast<std::size_t>(j)] - row_max);
        x.lse(b, h, i) = row_max + std::log(sum);
        T delta = -x.dlse(b, h, i);
        for (index_t e = 0; e < s.value_dim; ++e) {
          T o = 0;
          for (index_t j = 0; j < seen; ++j) o += p[static_cast<std::size_t>(j)] * x.v(b, kh, j, e);
          x.o(b, h, i, e) = seen > 0 ? o / sum : 0;
          delta += x.dout(b, h, i, e) * x.o(b, h, i, e);
        }
        for (index_t j = 0; j < seen; ++j) {
          const T weight = p[static_cast<std::size_t>(j)] / sum;
          T gain = 0;
          for (index_t e = 0; e < s.value_dim; ++e) {
            gain += x.dout(b, h, i, e) * x.v(b, kh, j, e);
            x.dv(b, kh, j, e) += weight * x.dout(b, h, i, e);
          }
          const T ds = scale * weight * (gain - delta);
          for (index_t d = 0; d < s.dim; ++d) {
            x.dq(b, qh, i, d) += ds * x.k(b, kh, j, d);
            x.dk(b, kh, j, d) += ds * x.q(b, qh, i, d);
          }
        }
      }
}

// Root of the mean square of the errors of a gradient
template <class T> double rms_error(const buffer<T>& got, const expected_gradient& want) {
  double sum = 0;
  std::size_t at = 0;
  got.each([&](const T& x) { sum += std::pow(static_cast<double>(x) - want.value[at++], 2); });
  return std::sqrt(sum / static_cast<double>(std::max<std::size_t>(at, 1)));
}

}  // namespace heed_test
