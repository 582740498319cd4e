// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Writes zeros past the caches: memory that is not read soon then costs one write instead of a read and a write.

#include <cstdint>

#include "heed/simd/batch.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

// p[0 .. count) = 0. Other threads see it after stream_end() and a synchronisation of the two threads.
template <class T> HEED_INLINE void stream_zeros(T* p, index_t count) {
#if defined(HEED_X86)
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
  for (; count > 0 && reinterpret_cast<std::uintptr_t>(p) % 64 != 0; --count) *p++ = T(0);
  for (; count >= line; count -= line, p += line) {
    auto* const bytes = reinterpret_cast<std::uint8_t*>(p);
#if defined(HEED_AVX512)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(bytes), _mm512_setzero_si512());
#else
    for (int i = 0; i < 64; i += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(bytes + i), _mm_setzero_si128());
#endif
  }
#endif
  for (; count > 0; --count) *p++ = T(0);
}

HEED_INLINE void stream_end() {
#if defined(HEED_X86)
  _mm_sfence();
#endif
}

}  // namespace HEED_ISA
}  // namespace heed::simd
