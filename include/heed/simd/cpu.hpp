// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the processor and the system offer beyond the instruction set of the build.

#include <cstdint>

#include "heed/core/config.hpp"

namespace heed::simd {
inline namespace HEED_ISA {

struct cpu_features {
  bool amd = false;        // the vendor
  bool bf16_dots = false;  // AVX512_BF16
  bool amx = false;        // tiles of bf16, and a system that saves them; a process still has to ask for them
  bool f16c = false;       // conversions of f16 in 128 and 256 bits
};

#if defined(HEED_X86) && defined(__GNUC__)

struct cpuid_registers {
  std::uint32_t a, b, c, d;
};

HEED_INLINE cpuid_registers cpuid(std::uint32_t leaf, std::uint32_t part) {
  cpuid_registers r{leaf, 0, part, 0};
  asm volatile("cpuid" : "+a"(r.a), "=b"(r.b), "+c"(r.c), "=d"(r.d));
  return r;
}

// The registers that the system saves, one bit per kind (XCR0)
HEED_INLINE std::uint64_t saved_registers() {
  std::uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

inline cpu_features detect_cpu() {
  cpu_features f;
  const cpuid_registers vendor = cpuid(0, 0);
  f.amd = vendor.b == 0x68747541 && vendor.d == 0x69746e65 && vendor.c == 0x444d4163;  // "AuthenticAMD"
  if (vendor.a < 7 || (cpuid(1, 0).c >> 27 & 1u) == 0) return f;                       // XGETBV
  f.f16c = (cpuid(1, 0).c >> 29 & 1u) != 0;
  const cpuid_registers seven = cpuid(7, 0);
  if (seven.a >= 1) f.bf16_dots = (cpuid(7, 1).a >> 5 & 1u) != 0;
  constexpr std::uint64_t tiles = std::uint64_t{3} << 17;
  f.amx = (seven.d >> 22 & 1u) != 0 && (seven.d >> 24 & 1u) != 0 && (saved_registers() & tiles) == tiles;
  return f;
}

#else
inline cpu_features detect_cpu() { return {}; }
#endif

// Asks the system for the tile registers of AMX, for all threads of the process. Returns whether they may be used.
inline bool request_amx() {
#if defined(HEED_X86) && defined(__GNUC__) && defined(__linux__)
  constexpr long arch_prctl = 158, request_permission = 0x1023, tile_data = 18;
  long result = arch_prctl;
  asm volatile("syscall" : "+a"(result) : "D"(request_permission), "S"(tile_data) : "rcx", "r11", "memory");
  return result == 0;
#else
  return false;
#endif
}

}  // namespace HEED_ISA
}  // namespace heed::simd
