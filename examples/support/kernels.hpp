// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The kernels of next_byte.cpp, their plain loops, and the settings to choose from.

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "heed/lightning.hpp"
#include "heed/linear.hpp"
#include "heed/local_linear.hpp"
#include "heed/softmax.hpp"
#include "memory.hpp"
#include "plain_local_linear.hpp"

namespace next_byte {

using rows = heed::tensor_view<float, 4>;

struct settings {
  double scale = 0, extra = 0, floor = 0, bits = 1e9;  // extra: ridge or slope; bits: of the text that chose them
};

// Returns the visible pairs of a causal call whose last query is at the last key. The kernels below are such calls and
// return their FLOPs.
inline double visible_pairs(const_rows q, const_rows k) {
  const auto n = static_cast<double>(q.extent(2)), m = static_cast<double>(k.extent(2));
  return n * (m - n) + n * (n + 1) / 2;
}

inline double softmax(const_rows q, const_rows k, const_rows v, rows o, const settings& use) {
  heed::softmax::forward(q, k, v, o, {.mask = heed::causal(), .scale = use.scale});
  return visible_pairs(q, k) * 2 * static_cast<double>(D + E);
}

inline double local_linear(const_rows q, const_rows k, const_rows v, rows o, const settings& use) {
  heed::local_linear::report report;
  heed::local_linear::forward(q, k, v, use.extra, o, {.mask = heed::causal(), .scale = use.scale, .report = &report});
  // scores, mean key, two products an iteration (of the query, not of its tile), weights, output
  return visible_pairs(q, k) * 2 *
         (static_cast<double>(3 * D + E) + 2 * report.mean_iterations * static_cast<double>(D));
}

inline std::vector<float> scaled(const_rows x, double scale) {
  std::vector<float> y(x.data(), x.data() + x.extent(2) * D);
  for (float& a : y) a *= static_cast<float>(scale);
  return y;
}
inline const_rows code_rows(const std::vector<float>& x) {
  return heed::matrix(x.data(), static_cast<index_t>(x.size()) / D, D);
}

// Returns nominal FLOPs: each token reads and updates the state, and two tokens have 65 pairs.
inline double recurrent_flops(const_rows k) {
  return static_cast<double>(k.extent(2)) * static_cast<double>(4 * D * E + 65 * (D + E));
}

// Runs linear attention with phi(x) = softmax of scale * x over its D numbers. The scale must act before phi, because
// normalising cancels a factor of the scores.
inline double linear(const_rows q, const_rows k, const_rows v, rows o, const settings& use) {
  const std::vector<float> sharp_q = scaled(q, use.scale), sharp_k = scaled(k, use.scale);
  heed::linear::forward(code_rows(sharp_q), code_rows(sharp_k), v, o,
                        {.mask = heed::causal(), .feature = heed::feature::softmax});
  return recurrent_flops(k);
}

// Runs the tokens before the first query to get the state that the queries start from.
inline double lightning(const_rows q, const_rows k, const_rows v, rows o, const settings& use) {
  const index_t n = q.extent(2), before = k.extent(2) - n;
  heed::state<float> memory(1, 1, D, E);
  const std::vector<double> slope{use.extra};
  const auto head = [before](const_rows x) { return heed::slice(x, 2, 0, before); };
  const auto tail = [before, n](const_rows x) { return heed::slice(x, 2, before, n); };
  std::vector<float> unread(at(before * E));
  heed::lightning::forward(head(k), head(k), head(v), slope, heed::matrix(unread.data(), before, E),
                           {.final_state = memory});
  heed::lightning::forward(q, tail(k), tail(v), slope, o, {.initial_state = memory});
  return recurrent_flops(k);
}

// Attends to the first `keys` keys from one query, in plain loops: softmax attention as a textbook prints it.
inline void plain_softmax(const float* q, const float* k, const float* v, float* o, index_t keys, float scale) {
  std::vector<float> p(at(keys));
  float row_max = -std::numeric_limits<float>::infinity(), sum = 0;
  for (index_t j = 0; j < keys; ++j) {
    float s = 0;
    for (index_t d = 0; d < D; ++d) s += q[d] * k[j * D + d];
    p[at(j)] = s * scale;
    row_max = std::max(row_max, p[at(j)]);
  }
  for (float& w : p) sum += w = std::exp(w - row_max);
  std::fill(o, o + E, 0.f);
  for (index_t j = 0; j < keys; ++j)
    for (index_t e = 0; e < E; ++e) o[e] += p[at(j)] * v[j * E + e];
  for (index_t e = 0; e < E; ++e) o[e] /= sum;
}

// Runs plain loops for the queries step - 1, 2 step - 1, ...; query i sees the keys 0 .. i.
inline void naive_softmax(const_rows q, const_rows k, const_rows v, rows o, const settings& use, index_t step) {
  for (index_t i = step - 1; i < q.extent(2); i += step)
    plain_softmax(q.data() + i * D, k.data(), v.data(), o.data() + i * E, i + 1, static_cast<float>(use.scale));
}

inline void naive_local_linear(const_rows q, const_rows k, const_rows v, rows o, const settings& use, index_t step) {
  for (index_t i = step - 1; i < q.extent(2); i += step)
    plain_local_linear(D, E).attend(q.data() + i * D, k.data(), v.data(), o.data() + i * E, i + 1, use.scale,
                                    use.extra);
}

// Runs S = lambda S + k v^T, o = S^T q, token by token. With `normalize`, divides o by q times the sum of the keys.
inline void plain_recurrence(const float* q, const float* k, const float* v, float* o, index_t n, float lambda,
                             bool normalize) {
  std::vector<float> state(at(D * E)), ones(at(D));
  for (index_t t = 0; t < n; ++t, q += D, k += D, v += E, o += E) {
    float denominator = normalize ? 1e-6f : 1;
    std::fill(o, o + E, 0.f);
    for (index_t d = 0; d < D; ++d) {
      float* const s = state.data() + d * E;
      for (index_t e = 0; e < E; ++e) {
        s[e] = lambda * s[e] + k[d] * v[e];
        o[e] += q[d] * s[e];
      }
      if (normalize) denominator += q[d] * (ones[at(d)] += k[d]);
    }
    for (index_t e = 0; e < E; ++e) o[e] /= denominator;
  }
}

inline std::vector<float> softmax_features(const_rows x, double scale) {
  std::vector<float> y = scaled(x, scale);
  for (auto row = y.begin(); row != y.end(); row += D) {
    const float most = *std::max_element(row, row + D);
    float sum = 0;
    for (index_t d = 0; d < D; ++d) sum += row[d] = std::exp(row[d] - most);
    for (index_t d = 0; d < D; ++d) row[d] /= sum;
  }
  return y;
}

inline void naive_linear(const_rows q, const_rows k, const_rows v, rows o, const settings& use, index_t) {
  const std::vector<float> phi_q = softmax_features(q, use.scale), phi_k = softmax_features(k, use.scale);
  plain_recurrence(phi_q.data(), phi_k.data(), v.data(), o.data(), q.extent(2), 1, true);
}

inline void naive_lightning(const_rows q, const_rows k, const_rows v, rows o, const settings& use, index_t) {
  plain_recurrence(q.data(), k.data(), v.data(), o.data(), q.extent(2), static_cast<float>(std::exp(-use.extra)),
                   false);
}

inline constexpr double no_extra[] = {0}, scale_one[] = {1};
inline constexpr double softmax_scales[] = {1.0, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0};
inline constexpr double local_linear_scales[] = {1.0, 1.5, 2.0, 2.5, 3.0}, ridges[] = {3, 1, 0.3, 0.1};
inline constexpr double linear_scales[] = {1, 8, 12, 16, 20, 24, 32, 48};
inline constexpr double slopes[] = {0, 1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 1e-2};

struct kernel {
  const char* name;
  double (*forward)(const_rows q, const_rows k, const_rows v, rows o, const settings&);
  void (*naive)(const_rows q, const_rows k, const_rows v, rows o, const settings&, index_t step);
  std::span<const double> scales, extras;  // to choose from; the scales include 1
  const char* extra;                       // its name
  index_t chosen_on;                       // 1/chosen_on of the first half, its end
  int rounds;                              // the best is reported
  index_t naive_step;                      // plain loops for 1/naive_step of the queries
  const char* note;
};

inline constexpr kernel kernels[] = {
    {"softmax", softmax, naive_softmax, softmax_scales, no_extra, "", 1, 3, 16, ""},
    {"local_linear", local_linear, naive_local_linear, local_linear_scales, ridges, "ridge", 8, 1, 512,
     "negative entries clipped at 0, the rest renormalised; x naive: a D x D matrix per query"},
    {"linear", linear, naive_linear, linear_scales, no_extra, "", 1, 3, 1,
     "128 features, softmax of scale x: a state of 128 x 256 numbers, no looking up; x naive: token by token"},
    {"lightning", lightning, naive_lightning, scale_one, slopes, "slope", 1, 3, 1,
     "a state of 128 x 256 numbers that decays by exp(-slope) a byte; clipped at 0 and renormalised, so any scale "
     "does"},
};

}  // namespace next_byte
