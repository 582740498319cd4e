// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Vectors of float from 8-bit integers in memory.

#include <cstdint>
#include <cstring>

#include "heed/simd/batch.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

HEED_INLINE batch<float> load_int8(const std::int8_t* p) {
#if defined(HEED_AVX512)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(HEED_AVX2)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#elif defined(HEED_X86)
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  const __m128i x = _mm_cvtsi32_si128(four), pairs = _mm_unpacklo_epi8(x, x);
  return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(pairs, pairs), 24));
#elif defined(HEED_NEON)
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(four));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(x))));
#else
  float lanes[width<float>];
  for (index_t i = 0; i < width<float>; ++i) lanes[i] = static_cast<float>(p[i]);
  return load(&lanes[0]);
#endif
}
// The first n lanes, zeros in the others; no memory behind them is touched.
HEED_INLINE batch<float> load_partial_int8(const std::int8_t* p, index_t n) {
  std::int8_t lanes[width<float>] = {};
  for (index_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_int8(lanes);
}

}  // namespace HEED_ISA
}  // namespace heed::simd
