// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// AMX in scalar code, bit for bit, so that whatever runs on AMX can be tested on every machine.

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "heed/tile/multiply_amx.hpp"

namespace heed::tile {
inline namespace HEED_ISA {
namespace detail {

// x, or 0 of its sign where x is subnormal
HEED_INLINE float flushed(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits);
}
HEED_INLINE float low_half(std::uint32_t pair) { return flushed(std::bit_cast<float>(pair << 16)); }
HEED_INLINE float high_half(std::uint32_t pair) { return flushed(std::bit_cast<float>(pair & 0xffff0000u)); }

using emulated_tile = std::array<std::array<std::uint32_t, 16>, 16>;

// tdpbf16ps: one chain of fused multiply-adds over the even products and one over the odd ones, each from 0. Subnormal
// inputs and results count as 0, whatever the control register of the thread says.
inline void emulate_dot(emulated_tile& c, const emulated_tile& a, const emulated_tile& b) {
  for (std::size_t m = 0; m < 16; ++m) {
    std::array<float, 16> even{}, odd{};
    for (std::size_t j = 0; j < 16; ++j) {
      const float a_even = low_half(a[m][j]), a_odd = high_half(a[m][j]);
      for (std::size_t n = 0; n < 16; ++n) {
        even[n] = flushed(std::fma(a_even, low_half(b[j][n]), even[n]));
        odd[n] = flushed(std::fma(a_odd, high_half(b[j][n]), odd[n]));
      }
    }
    for (std::size_t n = 0; n < 16; ++n) {
      const float sum = simd::rounded(flushed(even[n] + odd[n]));
      c[m][n] = std::bit_cast<std::uint32_t>(flushed(flushed(std::bit_cast<float>(c[m][n])) + sum));
    }
  }
}

// simd::amx_tiles in memory
struct emulated_tiles {
  std::array<emulated_tile, 8> tile;

  template <int N> void zero() { tile[N] = {}; }
  template <int N> void load(const void* p, index_t stride) {
    for (index_t m = 0; m < 16; ++m)
      std::memcpy(&tile[N][static_cast<std::size_t>(m)], static_cast<const char*>(p) + m * stride, 64);
  }
  template <int N> void store(void* p, index_t stride) const {
    for (index_t m = 0; m < 16; ++m)
      std::memcpy(static_cast<char*>(p) + m * stride, &tile[N][static_cast<std::size_t>(m)], 64);
  }
  template <int C, int A, int B> void dot() { emulate_dot(tile[C], tile[A], tile[B]); }
};

inline void no_tiles() {}

}  // namespace detail

inline void multiply_emulated(const pair_product& p, index_t lanes, background& work) {
  detail::emulated_tiles tiles;
  detail::multiply_tiles(tiles, p, lanes, work);
}

inline constexpr matrix_unit emulated_amx_unit{"AMX emulated",     detail::tile_rows,      detail::tile_pairs,
                                               detail::tile_lanes, 2 * detail::tile_lanes, true,
                                               multiply_emulated,  detail::no_tiles,       detail::no_tiles};

}  // namespace HEED_ISA
}  // namespace heed::tile
