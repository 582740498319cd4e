// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Dot products of bf16 pairs (AVX512_BF16). The build needs no -mavx512bf16: the function that dot_pairs is inlined
// into carries [[gnu::target("avx512bf16")]]. Assembly and not the intrinsic, because lambdas do not inherit the
// attribute.

#include <cstring>

#include "heed/simd/batch.hpp"

#if defined(HEED_AVX512) && defined(__GNUC__)
namespace heed::simd {
inline namespace HEED_ISA {

// sum + a.low * b.low + a.high * b.high in every lane; a and b hold two bf16 numbers per lane
HEED_INLINE batch<float> dot_pairs(batch<float> a, batch<float> b, batch<float> sum) {
  __m512 r = sum;
  asm("{vdpbf16ps %2, %1, %0|vdpbf16ps %0, %1, %2}"
      : "+v"(r)
      : "v"(static_cast<__m512>(a)), "v"(static_cast<__m512>(b)));
  return r;
}

// Numbers 32i .. 32i + 31 of two rows of bf16, as pairs of the same column: low has columns 8j .. 8j + 3 in lanes
// 4j .. 4j + 3, high the other half.
struct column_pairs {
  batch<float> low, high;
};
HEED_INLINE column_pairs pair_columns(const bf16_t* a, const bf16_t* b) {
  const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
  return {_mm512_castsi512_ps(_mm512_unpacklo_epi16(x, y)), _mm512_castsi512_ps(_mm512_unpackhi_epi16(x, y))};
}
// The same with a second row of zeros
HEED_INLINE column_pairs pair_columns(const bf16_t* a) {
  const __m512i x = _mm512_loadu_si512(a), zero = _mm512_setzero_si512();
  return {_mm512_castsi512_ps(_mm512_unpacklo_epi16(x, zero)), _mm512_castsi512_ps(_mm512_unpackhi_epi16(x, zero))};
}
// Sums of 32 columns in their order, as pair_columns has them, and back
HEED_INLINE column_pairs split_columns(const float* sums) {
  const __m512 a = _mm512_loadu_ps(sums), b = _mm512_loadu_ps(sums + 16);
  return {_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)};
}
HEED_INLINE void join_columns(float* sums, const column_pairs& x) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  _mm512_storeu_ps(sums, _mm512_permutex2var_ps(x.low, first, x.high));
  _mm512_storeu_ps(sums + 16, _mm512_permutex2var_ps(x.low, second, x.high));
}
// Stores pairs of lanes i and i + 8, both of bf16 already, as 8 numbers of 32 bits.
HEED_INLINE void store_half_pairs(float* to, batch<float> x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m256i low = _mm256_srli_epi32(_mm512_castsi512_si256(bits), 16), high = _mm512_extracti64x4_epi64(bits, 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_or_si256(low, high));
}

// Numbers p[0] .. p[31], two in each lane
HEED_INLINE batch<float> load_pairs(const bf16_t* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }

// The pair p[0], p[1] in every lane
HEED_INLINE batch<float> broadcast_pair(const bf16_t* p) {
  float pair;
  std::memcpy(&pair, p, sizeof pair);
  return batch<float>(pair);
}

}  // namespace HEED_ISA
}  // namespace heed::simd
#endif
