// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// bf16 dot products as a matrix unit: the register blocks of multiply.hpp, a pair of A per 32-bit broadcast.

#include <algorithm>

#include "heed/tile/matrix_unit.hpp"

#if defined(HEED_AVX512) && defined(__GNUC__)
namespace heed::tile {
inline namespace HEED_ISA {

// Computes p over `lanes` lanes, any number of whole vectors. The background is left to the caller.
inline void multiply_dots(const pair_product& p, index_t lanes, background&) {
  for (index_t lane = 0; lane < lanes; lane += max_lanes<float>) {
    matrix_product<float, bf16_t> part{p.a, p.a_row, 2, p.b + lane, p.b_row, p.c + lane, p.c_row, p.rows, p.pairs};
    part.accumulate = p.accumulate;
    part.factor = p.factor == nullptr ? nullptr : p.factor + lane;
    part.row_max = p.row_max == nullptr ? nullptr : p.row_max + lane;
    const index_t vectors = std::min(lanes - lane, max_lanes<float>) / simd::width<float>;
    if (p.prefetch != nullptr) p.prefetch->multiply_full_blocks(part, vectors);
    if (part.rows > 0) multiply(part, vectors);
  }
}

namespace detail {
inline void no_setup() {}
}  // namespace detail

inline constexpr matrix_unit dot_unit{
    "bf16 dot products", 1, 1, simd::width<float>, max_lanes<float>, false, multiply_dots, detail::no_setup,
    detail::no_setup};

}  // namespace HEED_ISA
}  // namespace heed::tile
#endif
