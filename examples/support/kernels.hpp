// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The kernels of next_byte.cpp, their plain loops, and the settings to choose from.

#include <span>
#include <vector>

#include "../../bench/support/naive.hpp"
#include "heed/local_linear.hpp"
#include "heed/softmax.hpp"
#include "memory.hpp"
#include "plain_local_linear.hpp"

namespace next_byte {

using rows = heed::tensor_view<float, 4>;

struct settings {
  double scale = 0, ridge = 0, floor = 0, bits = 1e9;  // bits: of the text that chose them
};

// Each returns the FLOPs of a visible pair.
inline double softmax(const_rows q, const_rows k, const_rows v, rows o, const settings& use) {
  heed::softmax::forward(q, k, v, o, {.mask = heed::causal(), .scale = use.scale});
  return 2 * static_cast<double>(D + E);
}

inline double local_linear(const_rows q, const_rows k, const_rows v, rows o, const settings& use) {
  heed::local_linear::report report;
  heed::local_linear::forward(q, k, v, use.ridge, o, {.mask = heed::causal(), .scale = use.scale, .report = &report});
  // scores, mean key, two products an iteration (of the query, not of its tile), weights, output
  return 2 * (static_cast<double>(3 * D + E) + 2 * report.mean_iterations * static_cast<double>(D));
}

// Plain loops for the query i, which sees the keys 0 .. i
inline void naive_softmax(const_rows q, const_rows k, const_rows v, rows o, const settings& use, index_t i) {
  std::vector<float> p;
  heed_bench::naive_attention(
      q.data() + i * D, k.data(), v.data(), o.data() + i * E, 1, D, E, static_cast<float>(use.scale), p,
      [](index_t) { return index_t{0}; }, [&](index_t) { return i + 1; });
}

inline void naive_local_linear(const_rows q, const_rows k, const_rows v, rows o, const settings& use, index_t i) {
  plain_local_linear(D, E).attend(q.data() + i * D, k.data(), v.data(), o.data() + i * E, i + 1, use.scale, use.ridge);
}

inline constexpr double softmax_scales[] = {1.0, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0}, no_ridge[] = {0};
inline constexpr double local_linear_scales[] = {1.0, 1.5, 2.0, 2.5, 3.0}, ridges[] = {3, 1, 0.3, 0.1};

struct kernel {
  const char* name;
  double (*forward)(const_rows q, const_rows k, const_rows v, rows o, const settings&);  // causal
  void (*naive)(const_rows q, const_rows k, const_rows v, rows o, const settings&, index_t i);
  std::span<const double> scales, ridges;  // to choose from; 1 is among the scales
  index_t chosen_on;                       // 1/chosen_on of the first half, its end
  int rounds;                              // timed
  index_t naive_step;                      // plain loops for 1/naive_step of the queries
};

inline constexpr kernel kernels[] = {
    {"softmax", softmax, naive_softmax, softmax_scales, no_ridge, 1, 3, 16},
    {"local_linear", local_linear, naive_local_linear, local_linear_scales, ridges, 8, 1, 512},
};

}  // namespace next_byte
