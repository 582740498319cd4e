// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The slopes per head of published models: ALiBi subtracts slope |place - key| from scores, lightning attention decays
// by lambda = exp(-slope) per token.

#include <cmath>
#include <vector>

#include "heed/core/message.hpp"
#include "heed/core/types.hpp"

namespace heed {

namespace detail {
inline namespace HEED_ISA {

// Returns slope(head) for every head.
template <class F> std::vector<double> slopes_of(const char* name, index_t heads, F slope) {
  if (heads < 0) fail("%: heads is %, must be at least 0", name, heads);
  constexpr index_t most = index_t{1} << 24;
  if (heads > most) fail("%: heads is %, must be at most %", name, heads, most);
  std::vector<double> all;
  for (index_t h = 0; h < heads; ++h) all.push_back(slope(static_cast<double>(h)));
  return all;
}
inline void check_layer(const char* name, index_t layer, index_t layers) {
  if (layers < 1) fail("%: layers is %, must be at least 1", name, layers);
  if (layer < 0 || layer >= layers) fail("%: layer is %, must be 0 to %", name, layer, layers - 1);
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// 2^(-8 (h + 1) / heads) where heads is a power of two; else the slopes of the next lower power of two, then every
// other slope of the next higher. ALiBi (arXiv 2108.12409), Lightning Attention (arXiv 2401.04658).
inline std::vector<double> alibi_slopes(index_t heads) {
  double whole = 1;
  while (2 * whole <= static_cast<double>(heads)) whole *= 2;
  return detail::slopes_of("alibi_slopes", heads, [whole](double h) {
    return h < whole ? std::exp2(-8 / whole * (h + 1)) : std::exp2(-4 / whole * (2 * (h - whole) + 1));
  });
}

// alibi_slopes times 1 - layer / (layers - 1) + 1e-5: the last layers hardly decay. TransNormerLLM (arXiv 2307.14995).
inline std::vector<double> transnormer_slopes(index_t heads, index_t layer, index_t layers) {
  detail::check_layer("transnormer_slopes", layer, layers);
  const double depth = layers == 1 ? 0 : static_cast<double>(layer) / static_cast<double>(layers - 1);
  std::vector<double> all = alibi_slopes(heads);
  for (double& slope : all) slope *= 1 - depth + 1e-5;
  return all;
}

// 8 / heads (1 - layer / layers) h: no decay in head 0, then linear in the head.
inline std::vector<double> fla_slopes(index_t heads, index_t layer, index_t layers) {
  detail::check_layer("fla_slopes", layer, layers);
  const double factor = 8 / static_cast<double>(heads) * (1 - static_cast<double>(layer) / static_cast<double>(layers));
  return detail::slopes_of("fla_slopes", heads, [factor](double h) { return factor * h; });
}

// lambda = 1 - 2^(-5 - h). RetNet (arXiv 2307.08621).
inline std::vector<double> retention_slopes(index_t heads) {
  return detail::slopes_of("retention_slopes", heads, [](double h) { return -std::log1p(-std::exp2(-5 - h)); });
}

}  // namespace HEED_ISA
}  // namespace heed
