// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Attention over all keys for a few queries, in a type with more digits than what is measured, and the textbook's float
// loops beside it. Memory: O(M).

#include <array>
#include <cmath>
#include <vector>

#include "accuracy.hpp"
#include "heed/convert.hpp"
#include "heed/reference/eigen.hpp"
#include "naive.hpp"

namespace heed_bench::accuracy {

// Returns a.b of two rows in Real, four sums side by side.
template <class Real, class T> Real dot(const T* a, const T* b, index_t count) {
  std::array<Real, 4> sum{};
  index_t c = 0;
  for (; c + 4 <= count; c += 4)
    for (std::size_t i = 0; i < 4; ++i)
      sum[i] += static_cast<Real>(a[c + static_cast<index_t>(i)]) * static_cast<Real>(b[c + static_cast<index_t>(i)]);
  for (; c < count; ++c) sum[0] += static_cast<Real>(a[c]) * static_cast<Real>(b[c]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Rows of softmax attention: q (rows, d), k and v (m, d). Sums of 1024 keys are made first and added then.
template <class Real, class T>
std::vector<Real> exact_attention(const T* q, const T* k, const T* v, index_t rows, index_t m, index_t d,
                                  double scale) {
  constexpr index_t block = 1024;
  std::vector<Real> o(static_cast<std::size_t>(rows * d)), s(static_cast<std::size_t>(m));
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < m; ++j)
      s[static_cast<std::size_t>(j)] = static_cast<Real>(scale) * dot<Real>(q + i * d, k + j * d, d);
    const Real most = *std::max_element(s.begin(), s.end());
    Real l = 0;
    std::vector<Real> sum(static_cast<std::size_t>(d)), part(sum.size());
    for (index_t first = 0; first < m; first += block) {
      Real part_l = 0;
      std::fill(part.begin(), part.end(), Real(0));
      for (index_t j = first; j < std::min(m, first + block); ++j) {
        const Real p = std::exp(s[static_cast<std::size_t>(j)] - most);
        part_l += p;
        for (std::size_t c = 0; c < part.size(); ++c)
          part[c] += p * static_cast<Real>(v[j * d + static_cast<index_t>(c)]);
      }
      l += part_l;
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += part[c];
    }
    for (std::size_t c = 0; c < sum.size(); ++c) o[static_cast<std::size_t>(i * d) + c] = sum[c] / l;
  }
  return o;
}

// The same as support/naive.hpp computes it in T
template <class T>
std::vector<T> naive_rows(const T* q, const T* k, const T* v, index_t rows, index_t m, index_t d, double scale) {
  std::vector<T> o(static_cast<std::size_t>(rows * d)), p;
  naive_attention<T>(
      q, k, v, o.data(), rows, d, d, static_cast<T>(scale), p, [](std::ptrdiff_t) { return std::ptrdiff_t{0}; },
      [m](std::ptrdiff_t) { return m; });
  return o;
}

// Local linear attention by its definition in float: mean, covariance, its Cholesky factors, output, one sum after the
// other
inline std::vector<float> naive_local_linear(const problem& x, float ridge, index_t rows) {
  using vector = Eigen::VectorXf;
  const auto row = [&](const std::vector<float>& from, index_t i) {
    return Eigen::Map<const vector>(from.data() + i * x.d, x.d);
  };
  std::vector<float> o;
  for (index_t i = 0; i < rows; ++i) {
    vector p(x.m), mean = vector::Zero(x.d), out = mean;
    for (index_t j = 0; j < x.m; ++j) p(j) = row(x.q, i).dot(row(x.k, j)) * static_cast<float>(x.scale());
    p = (p.array() - p.maxCoeff()).exp().matrix().eval();
    float l = 0;
    for (index_t j = 0; j < x.m; ++j) l += p(j), mean += p(j) * row(x.k, j);
    p /= l, mean /= l;
    Eigen::MatrixXf c = Eigen::MatrixXf::Zero(x.d, x.d);
    for (index_t j = 0; j < x.m; ++j) {
      const vector apart = row(x.k, j) - mean;
      c += p(j) * apart * apart.transpose();
    }
    c.diagonal().array() += ridge;
    const vector y = c.llt().solve(row(x.q, i) - mean);
    for (index_t j = 0; j < x.m; ++j) out += p(j) * (1 + (row(x.k, j) - mean).dot(y)) * row(x.v, j);
    o.insert(o.end(), out.begin(), out.end());
  }
  return o;
}

// Numbers as a storage type keeps them, widened; std::int8_t: rows of d with a scale each
template <class S> std::vector<float> stored(const std::vector<float>& x, [[maybe_unused]] index_t d) {
  std::vector<float> y(x.size());
  if constexpr (std::is_same_v<S, std::int8_t>) {
    const auto rows = static_cast<index_t>(x.size()) / d;
    std::vector<std::int8_t> q8(x.size());
    std::vector<float> scale(static_cast<std::size_t>(rows));
    heed::quantize(heed::bhsd(x.data(), 1, 1, rows, d), heed::bhsd(q8.data(), 1, 1, rows, d),
                   heed::contiguous(scale.data(), {index_t{1}, index_t{1}, rows}));
    for (std::size_t i = 0; i < x.size(); ++i)
      y[i] = static_cast<float>(q8[i]) * scale[i / static_cast<std::size_t>(d)];
  } else {
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(static_cast<S>(x[i]));
  }
  return y;
}

}  // namespace heed_bench::accuracy
