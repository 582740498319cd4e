// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The floating-point control register of the running thread.

#include <atomic>
#include <cstdint>

#include "heed/core/config.hpp"
#if defined(HEED_X86)
#include <xmmintrin.h>
#endif

namespace heed::simd {
inline namespace HEED_ISA {

#if defined(HEED_X86)
namespace float_control {
using word = std::uint32_t;
inline constexpr word zeros = 1u << 15 | 1u << 6;  // MXCSR: flush-to-zero, denormals-are-zero
inline constexpr word raised = 0x3f;               // the sticky exception flags
HEED_INLINE word read() { return _mm_getcsr(); }
HEED_INLINE void write(word x) { _mm_setcsr(x); }
}  // namespace float_control
#elif defined(__aarch64__) && defined(__GNUC__)
namespace float_control {
using word = std::uint64_t;
inline constexpr word zeros = word{1} << 24;  // FPCR.FZ: operands and results
inline constexpr word raised = 0;             // FPSR has the flags
HEED_INLINE word read() {
  word x;
  asm volatile("mrs %0, fpcr" : "=r"(x));
  return x;
}
HEED_INLINE void write(word x) { asm volatile("msr fpcr, %0" : : "r"(x)); }
}  // namespace float_control
#else
namespace float_control {  // another machine: subnormal numbers stay what they are there
using word = std::uint32_t;
inline constexpr word zeros = 0, raised = 0;
HEED_INLINE word read() { return 0; }
HEED_INLINE void write(word) {}
}  // namespace float_control
#endif

// While an object lives, subnormal operands count as 0 and results below the smallest normal number are 0 on this
// thread: some machines spend 150 cycles on each. Rounding mode and exception masks stay the caller's. The destructor
// restores the register and keeps the exception flags raised meanwhile. A write costs tens of cycles and is left out
// where nothing changes.
class flush_to_zero {
 public:
  HEED_INLINE flush_to_zero() : before_(float_control::read()) { change(before_, before_ | float_control::zeros); }
  HEED_INLINE ~flush_to_zero() {
    const float_control::word now = float_control::read();
    change(now, before_ | (now & float_control::raised));
  }
  flush_to_zero(const flush_to_zero&) = delete;
  flush_to_zero& operator=(const flush_to_zero&) = delete;

 private:
  // The fences keep loads, stores and calls, and so arithmetic on memory, on their side of the write.
  HEED_INLINE static void change(float_control::word from, float_control::word to) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (from != to) float_control::write(to);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  float_control::word before_;
};

}  // namespace HEED_ISA
}  // namespace heed::simd
