// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The tile registers of AMX: eight tiles of 16 rows of 64 bytes. The build needs no -mamx flags: the function that
// these are inlined into carries [[gnu::target("amx-tile,amx-bf16")]]. Own assembly, because g++ 12 lets vector stores
// pass its tile intrinsics.

#include <array>
#include <cstdint>

#include "heed/core/types.hpp"

#if defined(HEED_AVX512) && defined(__GNUC__) && defined(__linux__)
namespace heed::simd {
inline namespace HEED_ISA {

// Loads the tile configuration of this thread: palette 1, all eight tiles whole. Live tiles of the caller are lost.
[[gnu::target("amx-tile,amx-bf16")]] inline void configure_tiles() {
  alignas(64) std::array<std::uint8_t, 64> config{};
  config[0] = 1;
  for (std::size_t tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;  // bytes, rows
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

[[gnu::target("amx-tile,amx-bf16")]] inline void release_tiles() { asm volatile("tilerelease" : : : "memory"); }

// The tiles of this thread; N, C, A and B are their numbers, strides are in bytes.
struct amx_tiles {
  template <int N> HEED_INLINE void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(N) : "memory"); }
  template <int N> HEED_INLINE void load(const void* p, index_t stride) {
    asm volatile("{tileloadd (%0,%1,1), %%tmm%c2|tileloadd %%tmm%c2, [%0+%1*1]}"
                 :
                 : "r"(p), "r"(stride), "i"(N)
                 : "memory");
  }
  template <int N> HEED_INLINE void store(void* p, index_t stride) {
    asm volatile("{tilestored %%tmm%c2, (%0,%1,1)|tilestored [%0+%1*1], %%tmm%c2}"
                 :
                 : "r"(p), "r"(stride), "i"(N)
                 : "memory");
  }
  // C[m][n] += sum over j < 16 of A[m][2j] B[j][2n] + A[m][2j + 1] B[j][2n + 1]; A and B of bf16, C of float
  template <int C, int A, int B> HEED_INLINE void dot() {
    asm volatile("{tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2}"
                 :
                 : "i"(C), "i"(A), "i"(B)
                 : "memory");
  }
};

}  // namespace HEED_ISA
}  // namespace heed::simd
#endif
