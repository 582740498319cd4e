// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Vectors of float rounded to 8-bit integers in memory.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "heed/simd/batch.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

// Stores x rounded to nearest even; every lane must be above -128.5 and below 127.5.
HEED_INLINE void store_int8(std::int8_t* p, batch<float> x) {
#if defined(HEED_AVX512)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
#elif defined(HEED_AVX2)
  const __m256i words = _mm256_cvtps_epi32(x);
  const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(pairs, pairs));
#elif defined(HEED_X86)
  const __m128i words = _mm_cvtps_epi32(x), pairs = _mm_packs_epi32(words, words);
  const std::int32_t four = _mm_cvtsi128_si32(_mm_packs_epi16(pairs, pairs));
  std::memcpy(p, &four, sizeof four);
#elif defined(HEED_NEON)
  const int16x4_t pairs = vmovn_s32(vcvtnq_s32_f32(x));
  const std::int32_t four = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(pairs, pairs))), 0);
  std::memcpy(p, &four, sizeof four);
#else
  float lanes[width<float>];
  store(&lanes[0], x);
  for (index_t i = 0; i < width<float>; ++i) p[i] = static_cast<std::int8_t>(std::nearbyint(lanes[i]));
#endif
}
// The first n lanes; no memory behind them is touched.
HEED_INLINE void store_partial_int8(std::int8_t* p, batch<float> x, index_t n) {
  std::int8_t lanes[width<float>];
  store_int8(lanes, x);
  for (index_t i = 0; i < n; ++i) p[i] = lanes[i];
}

}  // namespace HEED_ISA
}  // namespace heed::simd
