// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of float as 8-bit integers and one scale: x = q * scale, scale = max |x| / 127. A row may come in pieces.
// A row with a NaN has scale NaN. A row with an infinity and no NaN has scale infinity; its infinities have q = 127 of
// their sign, all other numbers 0. A row of numbers below 127 * 2^-126 has scale 0.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "heed/core/types.hpp"
#include "heed/simd/batch.hpp"
#include "heed/simd/store_int8.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/row_reader.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Returns the larger of two sizes, NaN where one of them is.
HEED_INLINE float larger_size(float a, float b) { return std::isnan(a) || a > b ? a : b; }

// Returns the largest |x| of n numbers, at least 0; NaN where one of them is.
HEED_NOINLINE inline float largest_size(const float* x, index_t n) {
  constexpr index_t w = simd::width<float>;
  const simd::batch<float> zero = simd::rounded(simd::batch<float>(0.0f));  // as in all_finite
  simd::batch<float> largest = zero, bad = zero;  // 0 * x is NaN where x is not finite
  for (index_t i = 0; i < n; i += w) {
    const simd::batch<float> each = n - i < w ? simd::load_partial(x + i, n - i) : simd::load(x + i);
    largest = simd::max(largest, simd::abs(each)), bad = simd::fma(zero, each, bad);
  }
  largest = simd::fold<1, float>(largest, [](auto a, auto b) { return simd::max(a, b); });
  bad = simd::fold<1, float>(bad, [](auto a, auto b) { return a + b; });
  float out[w], flag[w];
  simd::store(&out[0], largest), simd::store(&flag[0], bad);
  if (!std::isnan(flag[0])) return out[0];
  float size = 0;
  for (index_t i = 0; i < n; ++i) size = larger_size(size, std::fabs(x[i]));
  return size;
}

// Returns the scale of a row whose largest size that is, such that 127 * scale is finite where the row is.
HEED_INLINE float int8_scale(float largest) {
  constexpr float most = 0x1.020406p+121f;  // max / 127, rounded down
  const float scale = largest / 127.0f;
  if (scale > most && !std::isinf(scale)) return most;
  return scale < std::numeric_limits<float>::min() ? 0.0f : scale;
}

// q[i] = x[i] / scale, rounded to nearest, for a piece of n numbers of a row with that scale
HEED_NOINLINE inline void quantize_piece(const float* x, index_t n, float scale, std::int8_t* q) {
  if (!(scale > 0.0f) || std::isinf(scale)) {
    std::memset(q, 0, static_cast<std::size_t>(n));
    for (index_t i = 0; i < n && std::isinf(scale); ++i)
      if (std::isinf(x[i])) q[i] = x[i] > 0 ? 127 : -127;
    return;
  }
  constexpr index_t w = simd::width<float>;
  const simd::batch<float> inverse(1.0f / scale);
  index_t i = 0;
  for (; i + w <= n; i += w) simd::store_int8(q + i, simd::load(x + i) * inverse);
  if (i < n) simd::store_partial_int8(q + i, simd::load_partial(x + i, n - i) * inverse, n - i);
}

// Writes a row of dim numbers to q and returns its scale.
HEED_INLINE float quantize_row(row_reader<float>& reader, const std::byte* row, index_t dim, std::int8_t* q) {
  float size = 0;
  reader.each(dim, [&](index_t c, index_t n) {
    size = larger_size(size, largest_size(reader.numbers(row, c, n), n));
  });
  const float scale = int8_scale(size);
  reader.each(dim, [&](index_t c, index_t n) { quantize_piece(reader.numbers(row, c, n), n, scale, q + c); });
  return scale;
}

}  // namespace HEED_ISA
}  // namespace heed::tile
