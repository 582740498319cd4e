// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of bf16 as operands of a matrix unit, in the pairs that matrix_unit.hpp defines.

#include <algorithm>

#include "heed/simd/half.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/pack.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Rows of bf16 in memory, `row_bytes` from one to the next
struct bf16_rows {
  const std::byte* first;
  index_t row_bytes, count, dim;

  const bf16_t* row(index_t r) const { return row_as<bf16_t>(first + r * row_bytes); }
};

namespace detail {

// The pairs of rows r and r + 1 at columns [c, c + width); zeros behind the last row and the last column. finite: 0,
// and NaN from the first value on that is not finite. Clean: replaces such values by 0.
template <bool Clean>
HEED_INLINE simd::batch<float> row_pairs(const bf16_rows& x, index_t r, index_t c, simd::batch<float>& finite) {
  using batch = simd::batch<float>;
  const batch zero = simd::rounded(batch(0.0f)), most(std::numeric_limits<float>::max());
  const index_t left = x.dim - c;
  const auto read = [&](index_t row) {
    if (row >= x.count) return zero;
    batch v = left >= simd::width<float> ? simd::load_as<float>(x.row(row) + c)
                                         : simd::load_partial_as<float>(x.row(row) + c, left);
    if constexpr (Clean) v = simd::select<float>(simd::abs(v) <= most, v, zero);
    return v;
  };
  const batch even = read(r), odd = read(r + 1);
  if constexpr (!Clean) finite = simd::fma(zero, odd, simd::fma(zero, even, finite));
  return simd::pair_bf16(even, odd);
}

template <bool Clean> HEED_NOINLINE bool transpose_pairs(const bf16_rows& x, bf16_t* out, index_t out_row) {
  constexpr index_t w = simd::width<float>;
  simd::batch<float> finite(0.0f);
  for (index_t c = 0; c < x.dim; c += w)
    for (index_t r = 0; r < x.count; r += 2 * w) {
      simd::square<float> pairs;
      [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        ((pairs[I] = row_pairs<Clean>(x, r + 2 * I, c, finite)), ...);
        simd::transpose<float>(pairs);
        (simd::store(reinterpret_cast<float*>(out + (c + I) * out_row + r), pairs[I]), ...);
      }
      (lanes_of_vector<float>{});
    }
  float lanes[std::size_t{w}];
  simd::store(lanes, finite);
  return std::all_of(lanes, lanes + w, [](float v) { return heed::detail::equals(v, 0.0f); });
}

}  // namespace detail

// out[c][r] = x[r][c]: rows of `out`, out_row apart, are operand A of a sum over rows of x. Numbers that are not finite
// become 0; returns whether there are none. Written are whole vectors of columns c, zeros behind the last, and whole
// pairs of vectors of rows r, zeros behind the last: of w numbers each, 2 w <= 32.
HEED_NOINLINE inline bool transpose_pairs(const bf16_rows& x, bf16_t* out, index_t out_row) {
  if (detail::transpose_pairs<false>(x, out, out_row)) return true;
  detail::transpose_pairs<true>(x, out, out_row);
  return false;
}

// out[j][lane] = the pair factor * rows[lane][2j], factor * rows[lane][2j + 1], as operand B: `lanes` lanes, whole
// vectors; j < pairs, zeros behind the last column. format_gather: row_format::gather of the rows
template <class Gather>
void gather_pairs(const std::byte* const* rows, index_t lanes, index_t dim, float factor, float* out, index_t pairs,
                  Gather format_gather) {
  constexpr index_t w = simd::width<float>, most = 64, part = 16;  // lanes; columns at a time
  HEED_ASSERT(lanes <= most);
  alignas(64) float columns[static_cast<std::size_t>(part * most)];
  lane_array<const std::byte*, most> at;
  std::copy(rows, rows + lanes, at.begin());
  for (index_t c = 0; c < 2 * pairs; c += part) {
    const index_t count = std::clamp<index_t>(dim - c, 0, part);
    format_gather(at.data(), lanes, count, factor, columns, lanes);
    fill(columns + count * lanes, lanes, part - count, lanes, 0.0f);
    for (index_t j = 0; j < std::min(part / 2, pairs - c / 2); ++j)
      for (index_t l = 0; l < lanes; l += w)
        simd::store(out + (c / 2 + j) * lanes + l, simd::pair_bf16(simd::load(columns + 2 * j * lanes + l),
                                                                   simd::load(columns + (2 * j + 1) * lanes + l)));
    for (index_t l = 0; l < lanes; ++l)
      if (c + part < dim) at[l] += part * static_cast<index_t>(sizeof(bf16_t));
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
