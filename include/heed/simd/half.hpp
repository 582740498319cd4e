// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// bf16_t and f16_t widened in loads and narrowed in stores. All of it holds while flush_to_zero lives: a bf16 number or
// a float below 2^-126 counts as 0 of its sign; subnormal f16 numbers are normal floats, and exact both ways.

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"
#include "heed/simd/batch.hpp"
#include "heed/simd/int8.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

// As many 16-bit patterns as a batch<float> has lanes, and loads and stores of them: all, or the first n, then zeros
// are loaded behind them. No memory behind them is touched.
namespace halves {
using words = xsimd::batch<std::uint32_t, arch>;  // one pattern per lane, in its low half
#if defined(HEED_AVX512)
using patterns = __m256i;
HEED_INLINE patterns load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
HEED_INLINE void store(void* p, patterns x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
HEED_INLINE patterns load_partial(const void* p, index_t n) {
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1u), p);
}
HEED_INLINE void store_partial(void* p, patterns x, index_t n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1u), x);
}
HEED_INLINE words unpack(patterns x) { return _mm512_cvtepu16_epi32(x); }
HEED_INLINE patterns pack(words x) { return _mm512_cvtepi32_epi16(x); }
#else
#if defined(HEED_AVX2)
using patterns = __m128i;
HEED_INLINE patterns load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
HEED_INLINE void store(void* p, patterns x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
HEED_INLINE words unpack(patterns x) { return _mm256_cvtepu16_epi32(x); }
HEED_INLINE patterns pack(words x) {
  return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
#elif defined(HEED_X86)
using patterns = __m128i;  // its low half
HEED_INLINE patterns load(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
HEED_INLINE void store(void* p, patterns x) { _mm_storel_epi64(static_cast<__m128i*>(p), x); }
HEED_INLINE words unpack(patterns x) { return _mm_unpacklo_epi16(x, _mm_setzero_si128()); }
HEED_INLINE patterns pack(words x) {  // SSE2 packs signed words only
  const __m128i extended = _mm_srai_epi32(_mm_slli_epi32(x, 16), 16);
  return _mm_packs_epi32(extended, extended);
}
#elif defined(HEED_NEON)
using patterns = uint16x4_t;
HEED_INLINE patterns load(const void* p) {  // aligned to bytes
  return vreinterpret_u16_u8(vld1_u8(static_cast<const std::uint8_t*>(p)));
}
HEED_INLINE void store(void* p, patterns x) { vst1_u8(static_cast<std::uint8_t*>(p), vreinterpret_u8_u16(x)); }
HEED_INLINE words unpack(patterns x) { return vmovl_u16(x); }
HEED_INLINE patterns pack(words x) { return vmovn_u32(x); }
#else
using patterns = std::array<std::uint16_t, words::size>;
HEED_INLINE patterns load(const void* p) {
  patterns x;
  std::memcpy(x.data(), p, sizeof x);
  return x;
}
HEED_INLINE void store(void* p, const patterns& x) { std::memcpy(p, x.data(), sizeof x); }
HEED_INLINE words unpack(const patterns& x) {
  std::uint32_t lanes[words::size];
  for (std::size_t l = 0; l < words::size; ++l) lanes[l] = x[l];
  return words::load_unaligned(lanes);
}
HEED_INLINE patterns pack(words x) {
  std::uint32_t lanes[words::size];
  x.store_unaligned(lanes);
  patterns out;
  for (std::size_t l = 0; l < words::size; ++l) out[l] = static_cast<std::uint16_t>(lanes[l]);
  return out;
}
#endif
HEED_INLINE patterns load_partial(const void* p, index_t n) {
  std::uint16_t lanes[words::size] = {};
  for (index_t i = 0; i < n; ++i) std::memcpy(lanes + i, static_cast<const std::uint16_t*>(p) + i, 2);
  return load(lanes);
}
HEED_INLINE void store_partial(void* p, patterns x, index_t n) {
  std::uint16_t lanes[words::size];
  store(lanes, x);
  for (index_t i = 0; i < n; ++i) std::memcpy(static_cast<std::uint16_t*>(p) + i, lanes + i, 2);
}
#endif

HEED_INLINE words bits_of(batch<float> x) { return std::bit_cast<words>(x); }
HEED_INLINE batch<float> float_of(words x) { return std::bit_cast<batch<float>>(x); }
// Adds what rounds x to nearest even when its low `cut` bits are cut off.
HEED_INLINE words round(words x, int cut) { return x + words((1u << (cut - 1)) - 1u) + ((x >> cut) & words(1u)); }

HEED_INLINE patterns narrow_to_bf16(batch<float> x) {
#if defined(HEED_AVX512) && defined(__AVX512BF16__)
  return reinterpret_cast<patterns>(_mm512_cvtneps_pbh(x));  // subnormals to 0 of their sign, else the same bits
#else
  const words bits = bits_of(x), quiet = bits | words(0x400000u);
  return pack(bits_of(select<float>(xsimd::isnan(x), float_of(quiet), float_of(round(bits, 16)))) >> 16);
#endif
}

// Instructions that know f16 subnormals whatever the control register
#if defined(HEED_AVX512) || defined(__F16C__) || defined(HEED_NEON)
HEED_INLINE batch<float> widen_f16(patterns x) {
#if defined(HEED_NEON)
  return vcvt_f32_f16(vreinterpret_f16_u16(x));
#elif defined(HEED_AVX512)
  return _mm512_cvtph_ps(x);
#elif defined(HEED_AVX2)
  return _mm256_cvtph_ps(x);
#else
  return _mm_cvtph_ps(x);
#endif
}
HEED_INLINE patterns narrow_to_f16(batch<float> x) {
#if defined(HEED_NEON)
  return vreinterpret_u16_f16(vcvt_f16_f32(x));
#elif defined(HEED_AVX512)
  return _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT);  // the unmasked one warns with g++ -O0
#elif defined(HEED_AVX2)
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#else
  return _mm_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#endif
}
#else
// By f16_t's arithmetic. Comparisons are of floats, which every machine has: of the shifted bits as well.
HEED_INLINE batch<float> widen_f16(patterns x) {
  constexpr std::uint32_t rebias = 112u << 23;
  const words half = unpack(x), magnitude = half & words(0x7fffu), shifted = magnitude << 13;
  const auto at_least = [&](std::uint32_t exponent) { return float_of(shifted) >= float_of(words(exponent << 23)); };
  const batch<float> subnormal =
      xsimd::to_float(std::bit_cast<xsimd::batch<std::int32_t, arch>>(magnitude)) * batch<float>(0x1p-24f);
  const batch<float> finite = select<float>(at_least(1), float_of(shifted + words(rebias)), subnormal);
  const batch<float> all = select<float>(at_least(31), float_of(shifted + words(2 * rebias)), finite);
  return float_of(bits_of(all) | ((half & words(0x8000u)) << 16));
}
HEED_INLINE patterns narrow_to_f16(batch<float> x) {
  const words bits = bits_of(x), magnitude = bits & words(0x7fffffffu);
  const batch<float> size = float_of(magnitude);
  const words normal = round(magnitude, 13) - words(112u << 23);
  const words subnormal = (bits_of(size + batch<float>(0.5f)) - words(0x3f000000u)) << 13;
  batch<float> half = select<float>(size < batch<float>(0x1p-14f), float_of(subnormal), float_of(normal));
  half = select<float>(size >= batch<float>(0x1p16f), float_of(words(0x7c00u << 13)), half);
  const words quiet = words(0x7e00u << 13) | (magnitude & words(0x7fffffu));
  half = select<float>(xsimd::isnan(x), float_of(quiet), half);
  return pack((bits_of(half) >> 13) | ((bits >> 16) & words(0x8000u)));
}
#endif

template <class S> HEED_INLINE batch<float> widen(patterns x) {
  if constexpr (std::is_same_v<S, f16_t>)
    return widen_f16(x);
  else
    return float_of(unpack(x) << 16);
}
template <class S> HEED_INLINE patterns narrow(batch<float> x) {
  if constexpr (std::is_same_v<S, f16_t>)
    return narrow_to_f16(x);
  else
    return narrow_to_bf16(x);
}
}  // namespace halves

// Loads (stores) a vector of T from (to) numbers stored as S: T itself, or where T is float a 16-bit type, or for loads
// std::int8_t. Stores round
// to nearest even; a NaN stays one, of its sign; f16 overflows to infinity. The partial ones: the first n lanes,
// 0 <= n <= width, zeros in the others; no memory behind them is touched.
template <class T, class S> HEED_INLINE batch<T> load_as(const S* p) {
  if constexpr (std::is_same_v<S, T>)
    return load(p);
  else if constexpr (std::is_same_v<S, std::int8_t>)
    return load_int8(p);
  else
    return halves::widen<S>(halves::load(p));
}
template <class T, class S> HEED_INLINE batch<T> load_partial_as(const S* p, index_t n) {
  if constexpr (std::is_same_v<S, T>)
    return load_partial(p, n);
  else if constexpr (std::is_same_v<S, std::int8_t>)
    return load_partial_int8(p, n);
  else
    return halves::widen<S>(halves::load_partial(p, n));
}
template <class S, class T> HEED_INLINE void store_as(S* p, batch<T> x) {
  if constexpr (std::is_same_v<S, T>)
    store(p, x);
  else
    halves::store(p, halves::narrow<S>(x));
}
template <class S, class T> HEED_INLINE void store_partial_as(S* p, batch<T> x, index_t n) {
  if constexpr (std::is_same_v<S, T>)
    store_partial(p, x, n);
  else
    halves::store_partial(p, halves::narrow<S>(x), n);
}

// Replaces subnormal numbers by 0 of their sign, whatever the control register.
template <class T> HEED_INLINE batch<T> without_subnormals(batch<T> x) {
  return select<T>(abs(x) < batch<T>(std::numeric_limits<T>::min()), xsimd::bitofsign(x), x);
}

// Rounding to bf16 in two steps, for x that is not negative, or NaN of a bf16 number; halves go up. What the first step
// returns may be paired as it is.
HEED_INLINE batch<float> round_up_bf16(batch<float> x) {
  using namespace halves;
  return float_of(bits_of(x) + words(0x8000u));
}
HEED_INLINE batch<float> cut_to_bf16(batch<float> x) {
  using namespace halves;
  return float_of(bits_of(x) & words(0xffff0000u));
}

// Joins the high halves of two numbers per lane: even's in the low half of the lane's bits, odd's in the high half.
HEED_INLINE batch<float> pair_bf16(batch<float> even, batch<float> odd) {
  using namespace halves;
  const words low = bits_of(even) >> 16, high = bits_of(odd);
#if defined(HEED_AVX512)
  return float_of(_mm512_mask_mov_epi16(low, 0xaaaaaaaau, high));
#elif defined(HEED_AVX2)
  return float_of(_mm256_blend_epi16(low, high, 0xaa));
#else
  return float_of(low | (high & words(0xffff0000u)));
#endif
}

// The number in the low half of each lane's bits; cut_to_bf16: in the high half
HEED_INLINE batch<float> low_bf16(batch<float> pair) {
  using namespace halves;
  return float_of(bits_of(pair) << 16);
}

}  // namespace HEED_ISA
}  // namespace heed::simd
