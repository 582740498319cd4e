// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// AMX as a matrix unit. A block of C is 2 x 2 tiles of 16 x 16: tiles 0 to 3 are C, 4 and 5 A, 6 and 7 B. Tails of 16
// rows or lanes take fewer. The tiles are a parameter, so that the emulation runs the same steps in the same order.

#include "heed/simd/amx.hpp"
#include "heed/tile/matrix_unit.hpp"

namespace heed::tile {
inline namespace HEED_ISA {
namespace detail {

inline constexpr index_t tile_rows = 16, tile_lanes = 16, tile_pairs = 16;
inline constexpr index_t word_bytes = sizeof(float), bf16_bytes = sizeof(bf16_t);

// C *= factor per lane
HEED_NOINLINE inline void scale_lanes(const lane_block<float>& c, const float* factor) {
  for (index_t l = 0; l < c.lanes; l += simd::width<float>) {
    const simd::batch<float> f = simd::load(factor + l);
    for (index_t m = 0; m < c.rows; ++m) simd::store(c.row(m) + l, simd::load(c.row(m) + l) * f);
  }
}

// row_max = max(row_max, C) per lane
HEED_NOINLINE inline void raise_row_max(const lane_block<float>& c, float* row_max) {
  for (index_t l = 0; l < c.lanes; l += simd::width<float>) {
    simd::batch<float> most = simd::load(row_max + l);
    for (index_t m = 0; m < c.rows; ++m) most = simd::max(most, simd::load(c.row(m) + l));
    simd::store(row_max + l, most);
  }
}

// The rows of A and B that one step along the depth reads, strides in bytes
struct tile_operands {
  const bf16_t* a;
  index_t a_bytes;
  const float* b;
  index_t b_bytes;
};

// The products of row R of a block with its tiles of B; LoadB: which are loaded on the way
template <int R, int L, bool LoadB, class Tiles> HEED_INLINE void multiply_tile_row(Tiles& tiles, tile_operands x) {
  tiles.template load<4 + R>(x.a, x.a_bytes);
  if constexpr (LoadB) tiles.template load<6>(x.b, x.b_bytes);
  tiles.template dot<2 * R, 4 + R, 6>();
  if constexpr (L == 2) {
    if constexpr (LoadB) tiles.template load<7>(x.b + tile_lanes, x.b_bytes);
    tiles.template dot<2 * R + 1, 4 + R, 7>();
  }
}

// Applies f to every tile number of a block and its place in C.
template <int R, int L, class F> HEED_INLINE void each_tile(float* c, index_t c_row, F f) {
  f(std::integral_constant<int, 0>{}, c);
  if constexpr (L == 2) f(std::integral_constant<int, 1>{}, c + tile_lanes);
  if constexpr (R == 2) f(std::integral_constant<int, 2>{}, c + tile_rows * c_row);
  if constexpr (R == 2 && L == 2) f(std::integral_constant<int, 3>{}, c + tile_rows * c_row + tile_lanes);
}

// One block of R x L tiles at row m and lane l
template <int R, int L, class Tiles>
HEED_INLINE void multiply_tile_block(Tiles& tiles, const pair_product& p, index_t m, index_t l, background& work) {
  const lane_block<float> c{p.c + m * p.c_row + l, p.c_row, R * tile_rows, L * tile_lanes};
  const index_t c_bytes = p.c_row * word_bytes;
  if (p.accumulate == accumulate::scale) scale_lanes(c, p.factor + l);
  if (p.accumulate == accumulate::zero)
    each_tile<R, L>(c.data, c.stride, [&](auto n, float*) __attribute__((always_inline)) { tiles.template zero<n>(); });
  else
    each_tile<R, L>(c.data, c.stride,
                    [&](auto n, float* at) __attribute__((always_inline)) { tiles.template load<n>(at, c_bytes); });
  const index_t next_row = tile_rows * p.a_row, next_b = tile_pairs * p.b_row, pairs = p.pairs;
  tile_operands x{p.a + m * p.a_row, p.a_row * bf16_bytes, p.b + l, p.b_row * word_bytes};
  for (index_t j = 0; j < pairs; j += tile_pairs, x.a += 2 * tile_pairs, x.b += next_b) {
    multiply_tile_row<0, L, true>(tiles, x);
    if constexpr (L == 2) work.step();
    if constexpr (R == 2) multiply_tile_row<1, L, false>(tiles, {x.a + next_row, x.a_bytes, x.b, x.b_bytes});
    if (R == 2 || (L == 1 && j % (2 * tile_pairs) != 0)) work.step();
  }
  each_tile<R, L>(c.data, c.stride,
                  [&](auto n, float* at) __attribute__((always_inline)) { tiles.template store<n>(at, c_bytes); });
  if (p.row_max != nullptr) raise_row_max(c, p.row_max + l);
}

template <class Tiles>
HEED_INLINE void multiply_tiles(Tiles& tiles, const pair_product& p, index_t lanes, background& work) {
  for (index_t l = 0; l < lanes; l += 2 * tile_lanes)
    for (index_t m = 0; m < p.rows; m += 2 * tile_rows) {
      const bool two_rows = p.rows - m > tile_rows, two_lanes = lanes - l > tile_lanes;
      if (two_rows && two_lanes)
        multiply_tile_block<2, 2>(tiles, p, m, l, work);
      else if (two_rows)
        multiply_tile_block<2, 1>(tiles, p, m, l, work);
      else if (two_lanes)
        multiply_tile_block<1, 2>(tiles, p, m, l, work);
      else
        multiply_tile_block<1, 1>(tiles, p, m, l, work);
    }
}

}  // namespace detail

#if defined(HEED_AVX512) && defined(__GNUC__) && defined(__linux__)
[[gnu::target("amx-tile,amx-bf16")]] inline void multiply_amx(const pair_product& p, index_t lanes, background& work) {
  simd::amx_tiles tiles;
  detail::multiply_tiles(tiles, p, lanes, work);
}

// Calls may be nested on a thread: a function of the user's may call heed. The outermost one has no products running
// then, and no live tiles; the configuration stays until it ends.
inline int& amx_depth() {
  static thread_local int depth = 0;
  return depth;
}
inline void begin_amx() {
  if (amx_depth()++ == 0) simd::configure_tiles();
}
inline void end_amx() {
  if (--amx_depth() == 0) simd::release_tiles();
}

inline constexpr matrix_unit amx_unit{
    "AMX", detail::tile_rows, detail::tile_pairs, detail::tile_lanes, 2 * detail::tile_lanes, true, multiply_amx,
    begin_amx, end_amx};
#endif

}  // namespace HEED_ISA
}  // namespace heed::tile
