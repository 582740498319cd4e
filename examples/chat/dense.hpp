// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Dense layers y = W x on the threads of an executor. Many tokens at once are products of matrices and belong to Eigen.
// A single token reads every weight once for two operations, so memory bounds it: the loops below read weights as they
// are stored, in bf16 half as many bytes as in float.

#include "heed/interop/eigen_thread_pool.hpp"  // before Eigen: keeps g++ 12 from warning about its own intrinsics

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/cache.hpp"

namespace chat {

using heed::bf16_t;
using heed::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  // a row per token

// 16 floats or their bits, in as many registers as the machine needs for them
using float_lanes = float __attribute__((vector_size(64)));
using bit_lanes = std::uint32_t __attribute__((vector_size(64)));
inline constexpr index_t lanes = 16, pair_lanes = 2 * lanes;

template <class Lanes> void load_lanes(Lanes& to, const void* from) { std::memcpy(&to, from, sizeof(Lanes)); }

inline float sum(const float_lanes& x) {
  float total = 0;
  for (int i = 0; i < lanes; ++i) total += x[i];
  return total;
}

// Returns the sum of w[i] x[i].
inline float dot(const float* w, const float* x, index_t size) {
  float_lanes first{}, second{}, a, b;
  index_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    load_lanes(a, w + i), load_lanes(b, x + i);
    first += a * b;
    load_lanes(a, w + i + lanes), load_lanes(b, x + i + lanes);
    second += a * b;
  }
  float total = sum(first + second);
  for (; i < size; ++i) total += w[i] * x[i];
  return total;
}

// The same for bf16, which is the upper half of a float. 32 bits hold two neighbours: the even one is moved up, and the
// odd one is there already once the other half is cleared. x comes in the order of pair_order.
inline float dot(const bf16_t* w, const float* x, index_t size) {
  float_lanes even{}, odd{}, b;
  bit_lanes pairs;
  index_t i = 0;
  for (; i + pair_lanes <= size; i += pair_lanes) {
    load_lanes(pairs, w + i);
    load_lanes(b, x + i);
    even += reinterpret_cast<float_lanes>(pairs << 16) * b;
    load_lanes(b, x + i + lanes);
    odd += reinterpret_cast<float_lanes>(pairs & 0xffff0000u) * b;
  }
  float total = sum(even + odd);
  for (; i < size; ++i) total += static_cast<float>(w[i]) * x[i];
  return total;
}

// Puts the even ones of each 32 numbers first, then the odd ones. What is left at the end stays as it is.
inline std::vector<float> pair_order(std::span<const float> x) {
  std::vector<float> y(x.begin(), x.end());
  for (std::size_t block = 0; block + pair_lanes <= x.size(); block += pair_lanes)
    for (std::size_t i = 0; i < lanes; ++i) {
      y[block + i] = x[block + 2 * i];
      y[block + lanes + i] = x[block + 2 * i + 1];
    }
  return y;
}

// The weights of a layer: a row of `inputs` numbers for each output. T: float or bf16_t
template <class T> struct dense {
  index_t inputs = 0;
  std::vector<T> weights;

  index_t outputs() const { return std::ssize(weights) / inputs; }
  const T* row(index_t output) const { return weights.data() + output * inputs; }
};

// Calls f(first, count) for pieces of `size` rows out of `rows`. f throws nothing: executors cannot pass that on.
template <class F> void for_pieces(const heed::executor_ref& executor, index_t rows, index_t size, const F& f) {
  auto piece = [&](index_t i) noexcept { f(i * size, std::min(size, rows - i * size)); };
  executor.run((rows + size - 1) / size, piece);
}

// Computes y (outputs) = W x (inputs).
template <class T>
void multiply(const dense<T>& w, std::span<const float> x, float* y, const heed::executor_ref& executor) {
  const std::vector<float> order =
      std::is_same_v<T, bf16_t> ? pair_order(x) : std::vector<float>(x.begin(), x.end());
  const index_t piece = std::max<index_t>(1, w.outputs() / (4 * executor.concurrency()));
  for_pieces(executor, w.outputs(), piece, [&](index_t first, index_t count) {
    for (index_t i = first; i < first + count; ++i) y[i] = dot(w.row(i), order.data(), w.inputs);
  });
}

// Returns x W^T, (tokens, outputs) for x (tokens, inputs). Eigen multiplies floats, so pieces of W are widened to
// float, each once for all tokens.
template <class T> matrix multiply(const matrix& x, const dense<T>& w, const heed::executor_ref& executor) {
  matrix y(x.rows(), w.outputs());
  if (x.rows() == 1) {
    multiply(w, {x.data(), static_cast<std::size_t>(x.size())}, y.data(), executor);
    return y;
  }
  for_pieces(executor, w.outputs(), 96, [&](index_t first, index_t count) {
    matrix floats(count, w.inputs);
    std::copy(w.row(first), w.row(first) + floats.size(), floats.data());
    y.middleCols(first, count).noalias() = x * floats.transpose();
  });
  return y;
}

}  // namespace chat
