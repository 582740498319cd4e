// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One vector type per instruction set, and the few operations that xsimd 8.1 does not have or does differently.
// This folder is the only place that includes xsimd or intrinsics.

#include <bit>
#include <cstdint>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12: false, out of its own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace heed::simd {
inline namespace HEED_ISA {

#if defined(HEED_AVX512)
using arch = xsimd::avx512bw;
#elif defined(HEED_AVX2)
using arch = xsimd::fma3<xsimd::avx2>;  // never bare avx2: its fma is a multiply and an add
#elif defined(HEED_X86)
using arch = xsimd::sse2;
#elif defined(HEED_NEON)
using arch = xsimd::neon64;
#else
using arch = xsimd::default_arch;
#endif

template <class T> using batch = xsimd::batch<T, arch>;
template <class T> inline constexpr index_t width = static_cast<index_t>(batch<T>::size);
template <class T> inline constexpr bool is_float = std::is_same_v<T, float>;

template <class T> HEED_INLINE batch<T> load(const T* p) { return batch<T>::load_unaligned(p); }
template <class T> HEED_INLINE void store(T* p, batch<T> x) { x.store_unaligned(p); }

// a * b + c, rounded once where the machine can (AVX2, AVX-512, NEON)
template <class T> HEED_INLINE batch<T> fma(batch<T> a, batch<T> b, batch<T> c) {
#if defined(HEED_AVX512)
  if constexpr (is_float<T>)
    return _mm512_fmadd_ps(a, b, c);
  else
    return _mm512_fmadd_pd(a, b, c);
#elif defined(HEED_AVX2)
  if constexpr (is_float<T>)
    return _mm256_fmadd_ps(a, b, c);
  else
    return _mm256_fmadd_pd(a, b, c);
#elif defined(HEED_NEON)
  if constexpr (is_float<T>)
    return vfmaq_f32(c, a, b);
  else
    return vfmaq_f64(c, a, b);
#else
  return xsimd::fma(a, b, c);
#endif
}

#if defined(HEED_X86)
namespace x86 {  // by register, because xsimd has changed the order of the operands between releases
HEED_INLINE __m128 max(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
HEED_INLINE __m128d max(__m128d a, __m128d b) { return _mm_max_pd(a, b); }
HEED_INLINE __m128 min(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
HEED_INLINE __m128d min(__m128d a, __m128d b) { return _mm_min_pd(a, b); }
#if defined(__AVX__)
HEED_INLINE __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
HEED_INLINE __m256d max(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
HEED_INLINE __m256 min(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
HEED_INLINE __m256d min(__m256d a, __m256d b) { return _mm256_min_pd(a, b); }
#endif
#if defined(HEED_AVX512)
HEED_INLINE __m512 max(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
HEED_INLINE __m512d max(__m512d a, __m512d b) { return _mm512_max_pd(a, b); }
HEED_INLINE __m512 min(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
HEED_INLINE __m512d min(__m512d a, __m512d b) { return _mm512_min_pd(a, b); }
#endif
}  // namespace x86
#endif

// The larger (smaller) of bound and x. NaN in x stays NaN: x86 then returns the second operand, so mind the order.
template <class T> HEED_INLINE batch<T> max(batch<T> bound, batch<T> x) {
#if defined(HEED_X86)
  return x86::max(bound.data, x.data);
#else
  return xsimd::select(x < bound, bound, x);
#endif
}
template <class T> HEED_INLINE batch<T> min(batch<T> bound, batch<T> x) {
#if defined(HEED_X86)
  return x86::min(bound.data, x.data);
#else
  return xsimd::select(x > bound, bound, x);
#endif
}

template <class T> HEED_INLINE batch<T> abs(batch<T> x) { return xsimd::abs(x); }

// Rounded once; xsimd approximates both in float on NEON.
template <class T> HEED_INLINE batch<T> sqrt(batch<T> x) {
#if defined(HEED_NEON)
  if constexpr (is_float<T>)
    return vsqrtq_f32(x);
  else
    return vsqrtq_f64(x);
#else
  return xsimd::sqrt(x);
#endif
}
template <class T> HEED_INLINE batch<T> divide(batch<T> a, batch<T> b) {
#if defined(HEED_NEON)
  if constexpr (is_float<T>)
    return vdivq_f32(a, b);
  else
    return vdivq_f64(a, b);
#else
  return a / b;
#endif
}

// a where the mask is set, else b
template <class T> HEED_INLINE batch<T> select(xsimd::batch_bool<T, arch> mask, batch<T> a, batch<T> b) {
  return xsimd::select(mask, a, b);
}

// Whether x < bound in some lane
template <class T> HEED_INLINE bool any_below(batch<T> x, batch<T> bound) { return xsimd::any(x < bound); }
template <class T> HEED_INLINE bool all_equal(batch<T> a, batch<T> b) { return xsimd::all(a == b); }  // never NaN

// An integer as wide as a lane
template <class T> using integer = std::conditional_t<is_float<T>, std::int32_t, std::int64_t>;

// a in the lanes where bit i (below 31) of bits[lane] is set, else b
template <class T> HEED_INLINE batch<T> select_by_bit(const integer<T>* bits, index_t i, batch<T> a, batch<T> b) {
#if defined(HEED_AVX512)
  const __m512i x = _mm512_loadu_si512(bits);
  if constexpr (is_float<T>)
    return _mm512_mask_mov_ps(b, _mm512_test_epi32_mask(x, _mm512_set1_epi32(1 << i)), a);
  else
    return _mm512_mask_mov_pd(b, _mm512_test_epi64_mask(x, _mm512_set1_epi64(1 << i)), a);
#elif defined(HEED_AVX2)
  const __m256i bit = is_float<T> ? _mm256_set1_epi32(1 << i) : _mm256_set1_epi64x(1 << i);
  const __m256i x = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits)), bit);
  if constexpr (is_float<T>)
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(x, bit)));
  else
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(_mm256_cmpeq_epi64(x, bit)));
#elif defined(HEED_NEON)
  if constexpr (is_float<T>)
    return vbslq_f32(vtstq_s32(vld1q_s32(bits), vdupq_n_s32(1 << i)), a, b);
  else
    return vbslq_f64(vtstq_s64(vld1q_s64(bits), vdupq_n_s64(1 << i)), a, b);
#else
  T lanes[width<T>], others[width<T>];
  a.store_unaligned(lanes), b.store_unaligned(others);
  for (index_t l = 0; l < width<T>; ++l)
    if ((bits[l] >> i & 1) == 0) lanes[l] = others[l];
  return batch<T>::load_unaligned(lanes);
#endif
}

// Shifts the bits of x up into the exponent field; bits that leave at the top are lost.
template <class T> HEED_INLINE batch<T> low_bits_to_exponent(batch<T> x) {
  constexpr int mantissa_bits = is_float<T> ? 23 : 52;
#if defined(HEED_AVX512)
  if constexpr (is_float<T>)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), mantissa_bits));
  else
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(x), mantissa_bits));
#elif defined(HEED_AVX2)
  if constexpr (is_float<T>)
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), mantissa_bits));
  else
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(x), mantissa_bits));
#elif defined(HEED_X86)
  if constexpr (is_float<T>)
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(x), mantissa_bits));
  else
    return _mm_castsi128_pd(_mm_slli_epi64(_mm_castpd_si128(x), mantissa_bits));
#elif defined(HEED_NEON)
  if constexpr (is_float<T>)
    return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(x), mantissa_bits));
  else
    return vreinterpretq_f64_s64(vshlq_n_s64(vreinterpretq_s64_f64(x), mantissa_bits));
#else
  using bits = std::conditional_t<is_float<T>, std::uint32_t, std::uint64_t>;
  T lanes[width<T>];
  x.store_unaligned(lanes);
  for (T& lane : lanes) lane = std::bit_cast<T>(std::bit_cast<bits>(lane) << mantissa_bits);
  return batch<T>::load_unaligned(lanes);
#endif
}

// Keeps a loaded vector in a register: g++ otherwise folds the load into every instruction that uses it.
template <class T> HEED_INLINE batch<T> pinned(batch<T> x) {
#if defined(__GNUC__) && defined(HEED_X86)
  auto r = static_cast<typename batch<T>::register_type>(x);
#if defined(HEED_AVX512)
  asm("" : "+v"(r));
#else
  asm("" : "+x"(r));
#endif
  return r;
#elif defined(__GNUC__) && defined(HEED_NEON)
  auto r = x.data;
  asm("" : "+w"(r));
  return r;
#else
  return x;
#endif
}

// Returns x as it was rounded, for a sum that relies on it: under -fassociative-math compilers otherwise turn
// (a + b) - b into a. It emits no instruction.
template <class T> HEED_INLINE batch<T> rounded(batch<T> x) { return pinned(x); }
HEED_INLINE float rounded(float x) {
#if defined(__GNUC__) && defined(HEED_X86)
  asm("" : "+x"(x));
#elif defined(__GNUC__) && defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}
HEED_INLINE double rounded(double x) {
#if defined(__GNUC__) && defined(HEED_X86)
  asm("" : "+x"(x));
#elif defined(__GNUC__) && defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}

// Loads as many numbers as a vector of double holds.
HEED_INLINE batch<double> load_double(const double* p) { return load(p); }
HEED_INLINE batch<double> load_double(const float* p) {
#if defined(HEED_AVX512)
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(HEED_AVX2)
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#elif defined(HEED_X86)
  return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#elif defined(HEED_NEON)
  return vcvt_f64_f32(vld1_f32(p));
#else
  double lanes[width<double>];
  for (index_t i = 0; i < width<double>; ++i) lanes[i] = static_cast<double>(p[i]);
  return load(&lanes[0]);
#endif
}

// Prefetches the cache line of p[i] into the second-level cache; p[i] need not exist.
template <class T> HEED_INLINE void prefetch([[maybe_unused]] const T* p, [[maybe_unused]] index_t i) {
#if defined(__GNUC__)
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(i) * sizeof(T)),
      0, 2);
#endif
}

// Loads (stores) the first n lanes, 0 <= n <= width; zeros in the others. No memory behind them is touched.
template <class T> HEED_INLINE batch<T> load_partial(const T* p, index_t n) {
#if defined(HEED_AVX512)
  if constexpr (is_float<T>)
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p);
  else
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p);
#elif defined(HEED_NEON)
  if constexpr (is_float<T>) {
    if (n == width<T>) return vld1q_f32(p);
    float32x2_t low = vdup_n_f32(0), high = low;
    if (n >= 2) low = vld1_f32(p);
    if (n == 1) low = vld1_lane_f32(p, low, 0);
    if (n == 3) high = vld1_lane_f32(p + 2, high, 0);
    return vcombine_f32(low, high);
  } else {
    if (n == width<T>) return vld1q_f64(p);
    return n == 0 ? vdupq_n_f64(0) : vcombine_f64(vld1_f64(p), vdup_n_f64(0));
  }
#else
  alignas(64) T lanes[width<T>] = {};
  for (index_t i = 0; i < n; ++i) lanes[i] = p[i];
  return batch<T>::load_aligned(lanes);
#endif
}
template <class T> HEED_INLINE void store_partial(T* p, batch<T> x, index_t n) {
#if defined(HEED_AVX512)
  if constexpr (is_float<T>)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), x);
  else
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), x);
#elif defined(HEED_NEON)
  if constexpr (is_float<T>) {
    if (n == width<T>) return vst1q_f32(p, x);
    if (n >= 2) vst1_f32(p, vget_low_f32(x));
    if (n == 1) vst1q_lane_f32(p, x, 0);
    if (n == 3) vst1q_lane_f32(p + 2, x, 2);
  } else {
    if (n == width<T>) return vst1q_f64(p, x);
    if (n == 1) vst1q_lane_f64(p, x, 0);
  }
#else
  alignas(64) T lanes[width<T>];
  x.store_aligned(lanes);
  for (index_t i = 0; i < n; ++i) p[i] = lanes[i];
#endif
}

}  // namespace HEED_ISA
}  // namespace heed::simd
