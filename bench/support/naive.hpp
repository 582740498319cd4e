// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Computes softmax attention in plain loops as a textbook prints it: the code of a program without a library. It is
// compiled with the flags of the rest.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace heed_bench {

// Computes one head: q (n, d), k (m, d), v (m, e), o (n, e), rows end to end. Query i sees keys first(i) <= j < end(i).
template <class T, class First, class End>
void naive_attention(const T* q, const T* k, const T* v, T* o, std::ptrdiff_t n, std::ptrdiff_t d, std::ptrdiff_t e,
                     T scale, std::vector<T>& p, First first, End end) {
  for (std::ptrdiff_t i = 0; i < n; ++i) {
    const std::ptrdiff_t j0 = first(i), j1 = end(i);
    if (p.size() < static_cast<std::size_t>(j1)) p.resize(static_cast<std::size_t>(j1));
    T* const w = p.data();
    T most = -std::numeric_limits<T>::infinity();
    for (std::ptrdiff_t j = j0; j < j1; ++j) {
      T s = 0;
      for (std::ptrdiff_t c = 0; c < d; ++c) s += q[i * d + c] * k[j * d + c];
      w[j] = s * scale;
      most = std::max(most, w[j]);
    }
    T sum = 0;
    for (std::ptrdiff_t j = j0; j < j1; ++j) sum += w[j] = std::exp(w[j] - most);
    for (std::ptrdiff_t c = 0; c < e; ++c) o[i * e + c] = 0;
    for (std::ptrdiff_t j = j0; j < j1; ++j)
      for (std::ptrdiff_t c = 0; c < e; ++c) o[i * e + c] += w[j] * v[j * e + c];
    for (std::ptrdiff_t c = 0; c < e && j0 < j1; ++c) o[i * e + c] /= sum;
  }
}

}  // namespace heed_bench
