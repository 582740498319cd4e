// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// exp2, exp and tanh over vectors. Errors in units in the last place, checked by tests/simd/math_test.cpp over the
// whole range:                      with fma          without (SSE2)
//                             float   double    float   double
//   exp2, exp2_nonpositive    0.95    1.0       1.2     1.3      results below 2^-126.5 (2^-1022.5) are 0
//   exp                       1.0     0.9       1.3     1.2      the same
//   tanh                      1.6     1.6       1.6     1.6
// All: NaN stays NaN, exp2(-inf) = exp(-inf) = 0, exp2(+inf) = exp(+inf) = +inf, exp2(0) = exp(0) = 1 exactly.
// Method: split x into the nearest integer and a rest of at most 1/2 (a shift adds the integer into the low mantissa
// bits, already biased as an exponent), a near-minimax polynomial for the rest, and a multiplication by 2^integer.

#include "heed/simd/batch.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

namespace detail {

// c[0] + x (c[1] + x (c[2] + ...))
template <class T, std::size_t N> HEED_INLINE batch<T> polynomial(batch<T> x, const T (&c)[N]) {
  batch<T> sum(c[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) sum = fma(sum, x, batch<T>(c[i]));
  return sum;
}

template <class T> struct constants;
template <> struct constants<float> {
  static constexpr float shift = 12582912.0f + 127.0f;  // 1.5 * 2^23 + exponent bias
  static constexpr float lowest = -127.0f, highest = 128.0f;
  static constexpr float log2e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float exp2[] = {
      1.0f, 0.6931471880f, 0.2402265076f, 0.05550357114f, 0.009618082557f, 0.001339086336f, 0.0001545316294f};
  static constexpr float exp2_for_bf16[] = {0.99992807354f, 0.69326098545f, 0.24261112222f, 0.05517166909f};
  static constexpr float exp[] = {1.0f, 1.0f, 0.5f, 0.16666576666f, 0.04166655421f, 0.008363232884f, 0.001392625083f};
  static constexpr float tanh[] = {-0.33333328944f, 0.13332769737f, -0.05385090958f, 0.020997179f, -0.006096714166f};
};
template <> struct constants<double> {
  static constexpr double shift = 6755399441055744.0 + 1023.0;
  static constexpr double lowest = -1023.0, highest = 1024.0;
  static constexpr double log2e = 1.4426950408889634, ln2_high = 0.693145751953125, ln2_low = 1.42860682030941723e-6;
  // clang-format off
  static constexpr double exp2[] = {1.0, 0.6931471805599453, 0.2402265069591010, 0.0555041086648216,
                                    0.009618129107606888, 0.0013333558146416936, 0.0001540353044173605,
                                    1.525273382983612e-05, 1.321544258792169e-06, 1.0178062445845774e-07,
                                    7.072585949269223e-09, 4.4549605981865186e-10};
  static constexpr double exp[] = {1.0, 1.0, 0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326084,
                                   0.0013888888888883711, 0.0001984126987500228, 2.480158732567746e-05,
                                   2.755725517000089e-06, 2.755727347871858e-07, 2.5105312729622103e-08,
                                   2.09147553258932e-09};
  // clang-format on
  static constexpr double tanh[] = {-0.3333333333333332,   0.13333333333326658,   -0.05396825396139557,
                                    0.021869488260559115,  -0.008863229830925709, 0.0035920589774734554,
                                    -0.001455309297534642, 0.0005874372860094381, -0.00023077616269519857,
                                    7.959955735264808e-05, -1.724487449484433e-05};
};

}  // namespace detail

// 2^x for x <= 0 (or NaN): what a softmax needs
template <class T> HEED_INLINE batch<T> exp2_nonpositive(batch<T> x) {
  using c = detail::constants<T>;
  const batch<T> shift(c::shift);
  const batch<T> bounded = simd::max(batch<T>(c::lowest), x);
  const batch<T> shifted = rounded(bounded + shift);
  const batch<T> rest = bounded - rounded(shifted - shift);
  return detail::polynomial(rest, c::exp2) * low_bits_to_exponent(shifted);
}

// 2^x; +inf from x = 127.5 (1023.5) on
template <class T> HEED_INLINE batch<T> exp2(batch<T> x) {
  return exp2_nonpositive(simd::min(batch<T>(detail::constants<T>::highest), x));
}

// 2^(factor x) for x <= 0 (or NaN) and 1 <= factor <= 2, good enough to be rounded to bf16: relative error 8e-5, and 1
// at x = 0 once rounded. The factor joins in multiply-adds, so that a difference of scores keeps its digits.
struct bf16_exp2 {
  HEED_INLINE explicit bf16_exp2(float by)
      : factor(by), lowest(detail::constants<float>::lowest / by), shift(detail::constants<float>::shift) {}

  HEED_INLINE batch<float> operator()(batch<float> x) const {
    const batch<float> bounded = simd::max(lowest, x);
    const batch<float> shifted = rounded(fma(bounded, factor, shift));
    const batch<float> rest = fma(bounded, factor, rounded(shift - shifted));
    return detail::polynomial(rest, detail::constants<float>::exp2_for_bf16) * low_bits_to_exponent(shifted);
  }

  batch<float> factor, lowest, shift;
};

// e^x; +inf where e^x >= 2^127.5 (2^1023.5)
template <class T> HEED_INLINE batch<T> exp(batch<T> x) {
  using c = detail::constants<T>;
  const batch<T> shift(c::shift);
  const batch<T> low(c::lowest / c::log2e), high(c::highest / c::log2e);
  const batch<T> bounded = simd::max(low, simd::min(high, x));
  const batch<T> shifted = rounded(fma(bounded, batch<T>(c::log2e), shift));
  const batch<T> n = rounded(shifted - shift);
  const batch<T> rest = fma(n, batch<T>(-c::ln2_low), rounded(fma(n, batch<T>(-c::ln2_high), bounded)));
  return detail::polynomial(rest, c::exp) * low_bits_to_exponent(shifted);
}

// tanh x. Where all lanes are below 0.625, as scores far below a soft-cap are, the half for larger x is skipped: the
// result has the same bits.
template <class T> HEED_INLINE batch<T> tanh(batch<T> x) {
  using c = detail::constants<T>;
  const batch<T> size = simd::abs(x), one(T(1)), bound(T(0.625));
  const batch<T> square = x * x;
  const batch<T> inner = fma(detail::polynomial(square, c::tanh) * square, x, x);
  if (!any_below(bound, size)) return inner;
  const batch<T> e = exp(batch<T>(T(-2)) * size);
  const batch<T> outer = xsimd::copysign(divide<T>(one - e, one + e), x);
  return xsimd::select(size <= bound, inner, outer);
}

}  // namespace HEED_ISA
}  // namespace heed::simd
