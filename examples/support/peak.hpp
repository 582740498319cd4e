// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Measures what one core can do: its rate of float multiply-adds, in the process that compares itself with it. The loop
// is assembly, so that neither the compiler nor its flags can change it. Needs nothing but a C++20 compiler.

#include <algorithm>
#include <chrono>

namespace next_byte {

inline double now() {  // seconds
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs independent chains of 4 `turns` operations each on registers that hold 0, and returns how many floating-point
// operations that were. With FMA, 14 chains hide a latency of 4 cycles on two pipes. Without FMA, half of the chains
// multiply and half add, as a kernel without FMA does. Returns 0 on CPUs for which no loop is written.
inline double run_multiply_adds(long turns) {
#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__AVX512F__)
  constexpr int flops = 14 * 2 * 16;
#define PEAK_ZERO "vpxorq %%zmm\\r, %%zmm\\r, %%zmm\\r\n"
#define PEAK_TURN ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n vfmadd231ps %%zmm14, %%zmm15, %%zmm\\r\n .endr\n"
#define PEAK_END "vzeroupper\n"
#elif defined(__FMA__)
  constexpr int flops = 14 * 2 * 8;
#define PEAK_ZERO "vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r\n"
#define PEAK_TURN ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n vfmadd231ps %%ymm14, %%ymm15, %%ymm\\r\n .endr\n"
#define PEAK_END "vzeroupper\n"
#else
  constexpr int flops = 12 * 4;  // 6 chains of multiplies, 6 of adds, in pairs
#define PEAK_ZERO "xorps %%xmm\\r, %%xmm\\r\n"
#define PEAK_MUL(a, b) "mulps %%xmm14, %%xmm" a "\n mulps %%xmm14, %%xmm" b "\n"
#define PEAK_ADD(a, b) "addps %%xmm15, %%xmm" a "\n addps %%xmm15, %%xmm" b "\n"
#define PEAK_TURN                                                                                            \
  PEAK_MUL("0", "1") PEAK_ADD("6", "7") PEAK_MUL("2", "3") PEAK_ADD("8", "9") PEAK_MUL("4", "5") PEAK_ADD("10", "11")
#define PEAK_END ""
#endif
  long left = turns;
  asm volatile(".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n" PEAK_ZERO ".endr\n"
               "1:\n .rept 4\n" PEAK_TURN ".endr\n dec %0\n jnz 1b\n" PEAK_END
               : "+r"(left)
               :
               : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                 "xmm12", "xmm13", "xmm14", "xmm15");
#undef PEAK_ZERO
#undef PEAK_TURN
#undef PEAK_END
#undef PEAK_MUL
#undef PEAK_ADD
  return 4.0 * flops * static_cast<double>(turns);
#else
  return 0 * static_cast<double>(turns);
#endif
}

// Returns the GFLOP/s of one core: the best of about a hundred pieces of 1 ms, because whatever else runs on the
// machine only slows a piece down.
inline double multiply_add_peak() {
  double best = 0;
  for (const double end = now() + 0.1; now() < end;) {
    const double start = now();
    const double flops = run_multiply_adds(100'000);
    best = std::max(best, flops / (now() - start) * 1e-9);
  }
  return best;
}

}  // namespace next_byte
