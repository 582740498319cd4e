// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <bit>
#include <utility>

#include "heed/simd/batch.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

template <class T> using square = std::array<batch<T>, std::size_t{width<T>}>;

#if defined(HEED_X86)
namespace detail {

#if defined(HEED_AVX512)
#define HEED_MM(name) _mm512_##name
#elif defined(HEED_AVX2)
#define HEED_MM(name) _mm256_##name
#else
#define HEED_MM(name) _mm_##name
#endif

// Transposes the 4 x 4 (float) or 2 x 2 (double) squares inside the 128-bit parts of 4 (2) registers.
HEED_INLINE void transpose_parts(batch<float>* r) {
  const auto a = HEED_MM(unpacklo_ps)(r[0], r[1]), b = HEED_MM(unpackhi_ps)(r[0], r[1]);
  const auto c = HEED_MM(unpacklo_ps)(r[2], r[3]), d = HEED_MM(unpackhi_ps)(r[2], r[3]);
  r[0] = HEED_MM(shuffle_ps)(a, c, 0x44);
  r[1] = HEED_MM(shuffle_ps)(a, c, 0xee);
  r[2] = HEED_MM(shuffle_ps)(b, d, 0x44);
  r[3] = HEED_MM(shuffle_ps)(b, d, 0xee);
}
HEED_INLINE void transpose_parts(batch<double>* r) {
  const auto a = HEED_MM(unpacklo_pd)(r[0], r[1]), b = HEED_MM(unpackhi_pd)(r[0], r[1]);
  r[0] = a;
  r[1] = b;
}

// Transposes the square of 128-bit parts of registers r[0], r[step], r[2 step], ...
#if defined(HEED_AVX512)
template <int Select> HEED_INLINE __m512 parts(__m512 a, __m512 b, std::integral_constant<int, Select>) {
  return _mm512_shuffle_f32x4(a, b, Select);
}
template <int Select> HEED_INLINE __m512d parts(__m512d a, __m512d b, std::integral_constant<int, Select>) {
  return _mm512_shuffle_f64x2(a, b, Select);
}
template <class T> HEED_INLINE void exchange_parts(batch<T>* r, index_t step) {
  using low = std::integral_constant<int, 0x44>;
  using high = std::integral_constant<int, 0xee>;
  using even = std::integral_constant<int, 0x88>;
  using odd = std::integral_constant<int, 0xdd>;
  using raw = typename batch<T>::register_type;
  const raw r0 = r[0], r1 = r[step], r2 = r[2 * step], r3 = r[3 * step];
  const raw a = parts(r0, r1, low{}), b = parts(r0, r1, high{}), c = parts(r2, r3, low{}), d = parts(r2, r3, high{});
  r[0] = parts(a, c, even{});
  r[step] = parts(a, c, odd{});
  r[2 * step] = parts(b, d, even{});
  r[3 * step] = parts(b, d, odd{});
}
#elif defined(HEED_AVX2)
HEED_INLINE void exchange_parts(batch<float>* r, index_t step) {
  const __m256 a = r[0], b = r[step];
  r[0] = _mm256_permute2f128_ps(a, b, 0x20);
  r[step] = _mm256_permute2f128_ps(a, b, 0x31);
}
HEED_INLINE void exchange_parts(batch<double>* r, index_t step) {
  const __m256d a = r[0], b = r[step];
  r[0] = _mm256_permute2f128_pd(a, b, 0x20);
  r[step] = _mm256_permute2f128_pd(a, b, 0x31);
}
#else
template <class T> HEED_INLINE void exchange_parts(batch<T>*, index_t) {}
#endif

// Adds a, b crosswise: the sums of neighbouring pairs of 128-bit parts (AVX-512: of parts two apart), a's below b's.
#if defined(HEED_AVX512)
template <class T> HEED_INLINE batch<T> add_far_parts(batch<T> a, batch<T> b) {
  using raw = typename batch<T>::register_type;
  const raw x = a, y = b;
  return batch<T>(parts(x, y, std::integral_constant<int, 0x44>{})) +
         batch<T>(parts(x, y, std::integral_constant<int, 0xee>{}));
}
template <class T> HEED_INLINE batch<T> add_near_parts(batch<T> a, batch<T> b) {
  using raw = typename batch<T>::register_type;
  const raw x = a, y = b;
  return batch<T>(parts(x, y, std::integral_constant<int, 0x88>{})) +
         batch<T>(parts(x, y, std::integral_constant<int, 0xdd>{}));
}
#elif defined(HEED_AVX2)
HEED_INLINE batch<float> add_near_parts(batch<float> a, batch<float> b) {
  return batch<float>(_mm256_permute2f128_ps(a, b, 0x20)) + batch<float>(_mm256_permute2f128_ps(a, b, 0x31));
}
HEED_INLINE batch<double> add_near_parts(batch<double> a, batch<double> b) {
  return batch<double>(_mm256_permute2f128_pd(a, b, 0x20)) + batch<double>(_mm256_permute2f128_pd(a, b, 0x31));
}
#endif

// Inside every 128-bit part: the sums of 4 (2) registers over the part's lanes
HEED_INLINE batch<float> add_inside_parts(const batch<float>* r) {
  const batch<float> a =
      batch<float>(HEED_MM(unpacklo_ps)(r[0], r[1])) + batch<float>(HEED_MM(unpackhi_ps)(r[0], r[1]));
  const batch<float> b =
      batch<float>(HEED_MM(unpacklo_ps)(r[2], r[3])) + batch<float>(HEED_MM(unpackhi_ps)(r[2], r[3]));
  return batch<float>(HEED_MM(shuffle_ps)(a, b, 0x44)) + batch<float>(HEED_MM(shuffle_ps)(a, b, 0xee));
}
HEED_INLINE batch<double> add_inside_parts(const batch<double>* r) {
  return batch<double>(HEED_MM(unpacklo_pd)(r[0], r[1])) + batch<double>(HEED_MM(unpackhi_pd)(r[0], r[1]));
}

// Lane i of the result: lane i ^ Step of x
template <int Step, class T> HEED_INLINE batch<T> exchange(batch<T> x) {
  constexpr int part = is_float<T> ? 4 : 2;
  if constexpr (Step < part) {
    if constexpr (is_float<T>)
      return HEED_MM(shuffle_ps)(x, x, Step == 2 ? 0x4e : 0xb1);
    else
      return HEED_MM(shuffle_pd)(x, x, 0x55 & ((1 << width<T>)-1));
  } else {
#if defined(HEED_AVX512)
    using raw = typename batch<T>::register_type;
    const raw r = x;
    if constexpr (is_float<T>)
      return _mm512_shuffle_f32x4(r, r, Step == 8 ? 0x4e : 0xb1);
    else
      return _mm512_shuffle_f64x2(r, r, Step == 4 ? 0x4e : 0xb1);
#elif defined(HEED_AVX2)
    if constexpr (is_float<T>)
      return _mm256_permute2f128_ps(x, x, 1);
    else
      return _mm256_permute2f128_pd(x, x, 1);
#endif
  }
}
#undef HEED_MM

}  // namespace detail

// Lane i of the result: op over all lanes j with j % Apart == i % Apart
template <index_t Apart, class T, class Op> HEED_INLINE batch<T> fold(batch<T> x, Op op) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    ((x = op(x, detail::exchange<static_cast<int>(Apart) << I, T>(x))), ...);
  }
  (std::make_integer_sequence<int, std::countr_zero(std::size_t{width<T> / Apart})>{});
  return x;
}

// Lane i of the result: the sum of all lanes of r[i]
template <class T> HEED_INLINE batch<T> sum_rows(const square<T>& r) {
  [[maybe_unused]] constexpr index_t part = is_float<T> ? 4 : 2;
#if defined(HEED_AVX512)
  const auto fourths = [&](index_t i) {
    return detail::add_far_parts<T>(detail::add_inside_parts(&r[0] + i), detail::add_inside_parts(&r[0] + i + part));
  };
  return detail::add_near_parts<T>(fourths(0), fourths(2 * part));
#elif defined(HEED_AVX2)
  return detail::add_near_parts(detail::add_inside_parts(&r[0]), detail::add_inside_parts(&r[0] + part));
#else
  return detail::add_inside_parts(r.data());
#endif
}

// r[i] lane j <-> r[j] lane i
template <class T> HEED_INLINE void transpose(square<T>& r) {
  constexpr int part = is_float<T> ? 4 : 2;
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (detail::transpose_parts(&r[I * part]), ...);
  }
  (std::make_integer_sequence<int, static_cast<int>(width<T>) / part>{});
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (detail::exchange_parts(&r[I], part), ...);
  }
  (std::make_integer_sequence<int, part>{});
}
#elif defined(HEED_NEON)
namespace detail {
HEED_INLINE float32x4_t pairs(float64x2_t x) { return vreinterpretq_f32_f64(x); }
HEED_INLINE float64x2_t pairs(float32x4_t x) { return vreinterpretq_f64_f32(x); }
}  // namespace detail

template <class T> HEED_INLINE batch<T> sum_rows(const square<T>& r) {
  if constexpr (is_float<T>)
    return vpaddq_f32(vpaddq_f32(r[0], r[1]), vpaddq_f32(r[2], r[3]));
  else
    return vpaddq_f64(r[0], r[1]);
}
template <index_t Apart, class T, class Op> HEED_INLINE batch<T> fold(batch<T> x, Op op) {
  if constexpr (is_float<T>) {
    if constexpr (Apart == 1) x = op(x, batch<T>(vrev64q_f32(x)));
    if constexpr (Apart <= 2) x = op(x, batch<T>(vextq_f32(x, x, 2)));
  } else {
    if constexpr (Apart == 1) x = op(x, batch<T>(vextq_f64(x, x, 1)));
  }
  return x;
}
template <class T> HEED_INLINE void transpose(square<T>& r) {
  if constexpr (is_float<T>) {
    const float64x2_t a = detail::pairs(vtrn1q_f32(r[0], r[1])), b = detail::pairs(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = detail::pairs(vtrn1q_f32(r[2], r[3])), d = detail::pairs(vtrn2q_f32(r[2], r[3]));
    r[0] = detail::pairs(vtrn1q_f64(a, c)), r[1] = detail::pairs(vtrn1q_f64(b, d));
    r[2] = detail::pairs(vtrn2q_f64(a, c)), r[3] = detail::pairs(vtrn2q_f64(b, d));
  } else {
    const float64x2_t a = r[0], b = r[1];
    r[0] = vtrn1q_f64(a, b), r[1] = vtrn2q_f64(a, b);
  }
}
#else
template <class T> HEED_INLINE batch<T> sum_rows(const square<T>& r) {
  T sums[width<T>];
  for (index_t i = 0; i < width<T>; ++i) {
    T lanes[width<T>];
    r.data()[i].store_unaligned(lanes);
    sums[i] = T(0);
    for (const T x : lanes) sums[i] += x;
  }
  return batch<T>::load_unaligned(sums);
}
template <index_t Apart, class T, class Op> HEED_INLINE batch<T> fold(batch<T> x, Op op) {
  for (index_t step = Apart; step < width<T>; step *= 2) {
    T lanes[width<T>], other[width<T>];
    x.store_unaligned(lanes);
    for (index_t i = 0; i < width<T>; ++i) other[i] = lanes[i ^ step];
    x = op(x, batch<T>::load_unaligned(other));
  }
  return x;
}
template <class T> HEED_INLINE void transpose(square<T>& r) {
  T cells[width<T>][width<T>];
  for (index_t i = 0; i < width<T>; ++i) r.data()[i].store_unaligned(cells[i]);
  for (index_t i = 0; i < width<T>; ++i)
    for (index_t j = 0; j < i; ++j) std::swap(cells[i][j], cells[j][i]);
  for (index_t i = 0; i < width<T>; ++i) r.data()[i] = batch<T>::load_unaligned(cells[i]);
}
#endif

}  // namespace HEED_ISA
}  // namespace heed::simd
