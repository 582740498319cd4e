// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Dot products of bf16 pairs (AVX512_BF16). The build needs no -mavx512bf16: the function that dot_pairs is inlined into
// carries [[gnu::target("avx512bf16")]]. Assembly and not the intrinsic, because lambdas do not inherit that attribute.

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

// The pair p[0], p[1] in every lane
HEED_INLINE batch<float> broadcast_pair(const bf16_t* p) {
  float pair;
  std::memcpy(&pair, p, sizeof pair);
  return batch<float>(pair);
}

}  // namespace HEED_ISA
}  // namespace heed::simd
#endif
