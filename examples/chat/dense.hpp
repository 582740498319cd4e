// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Dense layers y = W x on the threads of an executor. Many tokens at once are products of matrices, which Eigen
// computes. A single token reads every weight for two operations, so memory bounds it, and bf16 halves the bytes. Eigen
// has no product for that: it rounds sums of bf16 to bf16 as well, or widens all weights to float first, which is slow.

#include "heed/interop/eigen_thread_pool.hpp"  // before Eigen: keeps g++ 12 from warning about its own intrinsics

#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/softmax.hpp"

namespace chat {

using heed::bf16_t;
using heed::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  // a row per token

// 16 floats or their bits, in as many registers as the machine needs for them
using float_lanes = float __attribute__((vector_size(64)));
using bit_lanes = std::uint32_t __attribute__((vector_size(64)));
inline constexpr index_t lanes = 16, step = 2 * lanes;

template <class Lanes> void load_lanes(Lanes& to, const void* from) { std::memcpy(&to, from, sizeof(Lanes)); }

// Loads a step of 32 weights: the first and the second half of floats.
inline void load_step(const float* w, float_lanes& first, float_lanes& second) {
  load_lanes(first, w);
  load_lanes(second, w + lanes);
}

// Of bf16, which is the upper half of a float, the even and the odd ones: 32 bits hold two neighbours. The even one is
// moved up, and the odd one is in its place once the other half is cleared.
inline void load_step(const bf16_t* w, float_lanes& even, float_lanes& odd) {
  bit_lanes pairs;
  load_lanes(pairs, w);
  even = reinterpret_cast<float_lanes>(pairs << 16);
  odd = reinterpret_cast<float_lanes>(pairs & 0xffff0000u);
}

// Returns x in the order in which load_step gives weights of type T.
template <class T> std::vector<float> in_load_order(std::span<const float> x) {
  std::vector<float> y(x.begin(), x.end());
  if constexpr (std::is_same_v<T, bf16_t>)
    for (std::size_t block = 0; block + step <= x.size(); block += step)
      for (std::size_t i = 0; i < lanes; ++i) {
        y[block + i] = x[block + 2 * i];
        y[block + lanes + i] = x[block + 2 * i + 1];
      }
  return y;
}

inline float sum(const float_lanes& x) {
  float part[lanes];
  std::memcpy(part, &x, sizeof(x));
  for (index_t half = lanes / 2; half > 0; half /= 2)
    for (index_t i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// Returns the sum of w[i] x[i], with x in load order.
template <class T> float dot(const T* w, const float* x, index_t size) {
  float_lanes first{}, second{}, a, b, x_lanes;
  index_t i = 0;
  for (; i + step <= size; i += step) {
    load_step(w + i, a, b);
    load_lanes(x_lanes, x + i);
    first += a * x_lanes;
    load_lanes(x_lanes, x + i + lanes);
    second += b * x_lanes;
  }
  float total = sum(first + second);
  for (; i < size; ++i) total += static_cast<float>(w[i]) * x[i];
  return total;
}

// The weights of a layer: a row of `inputs` numbers for each output. T: float or bf16_t
template <class T> struct dense {
  index_t inputs = 0;
  std::vector<T> weights;

  index_t outputs() const { return std::ssize(weights) / inputs; }
  const T* row(index_t output) const { return weights.data() + output * inputs; }
};

// Calls f(first, count) for pieces of `size` rows out of `rows`, which the threads of the executor claim one by one.
// What f throws, such as std::bad_alloc, is thrown again in the calling thread: an executor cannot pass it on.
template <class F> void for_pieces(const heed::executor_ref& executor, index_t rows, index_t size, const F& f) {
  std::atomic<index_t> next{0};
  std::mutex one_at_a_time;
  std::exception_ptr problem;
  auto work = [&](index_t) noexcept {
    try {
      for (index_t first = size * next++; first < rows; first = size * next++) f(first, std::min(size, rows - first));
    } catch (...) {
      const std::lock_guard lock(one_at_a_time);
      problem = std::current_exception();
    }
  };
  executor.run(std::min(executor.concurrency(), (rows + size - 1) / size), work);
  if (problem) std::rethrow_exception(problem);
}

// Computes y (outputs) = W x (inputs).
template <class T>
void multiply(const dense<T>& w, std::span<const float> x, float* y, const heed::executor_ref& executor) {
  const std::vector<float> ordered = in_load_order<T>(x);
  const index_t piece = std::max<index_t>(1, w.outputs() / (4 * executor.concurrency()));
  for_pieces(executor, w.outputs(), piece, [&](index_t first, index_t count) {
    for (index_t i = first; i < first + count; ++i) y[i] = dot(w.row(i), ordered.data(), w.inputs);
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
