// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Measures what this machine can do, in the process that compares itself with it: the multiply-add rate of one core and
// its read bandwidth. The inner loops are assembly, so that neither the compiler nor its flags can change them; a loop
// of C++ accumulators would measure the register allocator. Needs nothing but a C++20 compiler.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define BENCH_X86 1
#else
#define BENCH_X86 0
#endif

namespace heed_bench {

inline double now() {  // seconds
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// ---- multiply-adds ----------------------------------------------------------------------------------------------
// With FMA, 14 independent chains hide a latency of 4 cycles on two pipes (8 would do). Without FMA, 7 chains multiply
// and 7 add, because a kernel without FMA executes as many of each. All registers hold 0. A turn of the loop is 56
// vector operations; the dec and the branch fit beside them. .irp is the assembler's own loop.

#if BENCH_X86
#if defined(__AVX512F__)
#define BENCH_LANES "zmm"
inline constexpr int fma_bytes = 64;
#elif defined(__AVX__)
#define BENCH_LANES "ymm"
inline constexpr int fma_bytes = 32;
#else
#define BENCH_LANES "xmm"
inline constexpr int fma_bytes = 16;
#endif

#if defined(__AVX__)
#define BENCH_ZERO ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
#define BENCH_END "vzeroupper\n"
#else
#define BENCH_ZERO ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n xorps %%xmm\\r, %%xmm\\r\n .endr\n"
#define BENCH_END ""
#endif

#if defined(__FMA__) || defined(__AVX512F__)
inline constexpr int flops_per_operation = 2;
#define BENCH_TURN(type)                               \
  ".rept 4\n .irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n" \
  "vfmadd231" type " %%" BENCH_LANES "14, %%" BENCH_LANES "15, %%" BENCH_LANES "\\r\n .endr\n .endr\n"
#else
inline constexpr int flops_per_operation = 1;
#if defined(__AVX__)
#define BENCH_MUL(type, r) "vmul" type " %%ymm14, %%ymm" r ", %%ymm" r "\n"
#define BENCH_ADD(type, r) "vadd" type " %%ymm15, %%ymm" r ", %%ymm" r "\n"
#else
#define BENCH_MUL(type, r) "mul" type " %%xmm14, %%xmm" r "\n"
#define BENCH_ADD(type, r) "add" type " %%xmm15, %%xmm" r "\n"
#endif
#define BENCH_FOUR(type, m0, m1, a0, a1) BENCH_MUL(type, m0) BENCH_MUL(type, m1) BENCH_ADD(type, a0) BENCH_ADD(type, a1)
#define BENCH_TURN(type) /* two and two: one and one alternating reads 5 % less on Zen 4 */ \
  ".rept 2\n" BENCH_FOUR(type, "0", "1", "7", "8") BENCH_FOUR(type, "2", "3", "9", "10")    \
      BENCH_FOUR(type, "4", "5", "11", "12") BENCH_FOUR(type, "6", "0", "13", "7")          \
          BENCH_FOUR(type, "1", "2", "8", "9") BENCH_FOUR(type, "3", "4", "10", "11")       \
              BENCH_FOUR(type, "5", "6", "12", "13") ".endr\n"
#endif

#define BENCH_CLOBBERS                                                                                             \
  "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"

inline constexpr bool has_meters = true;

// Runs the chains for `turns` turns; returns the floating-point operations done.
template <class T> double run_multiply_adds(long turns) {
  long left = turns;
  if constexpr (std::is_same_v<T, float>)
    asm volatile(BENCH_ZERO "1:\n" BENCH_TURN("ps") "dec %0\n jnz 1b\n" BENCH_END : "+r"(left) : : BENCH_CLOBBERS);
  else
    asm volatile(BENCH_ZERO "1:\n" BENCH_TURN("pd") "dec %0\n jnz 1b\n" BENCH_END : "+r"(left) : : BENCH_CLOBBERS);
  return 56.0 * flops_per_operation * (fma_bytes / static_cast<int>(sizeof(T))) * static_cast<double>(turns);
}

#undef BENCH_LANES
#undef BENCH_ZERO
#undef BENCH_END
#undef BENCH_MUL
#undef BENCH_ADD
#undef BENCH_FOUR
#undef BENCH_TURN
#undef BENCH_CLOBBERS
#else
inline constexpr bool has_meters = false;  // no loop is written for this CPU yet, so every share of the peak is 0
template <class T> double run_multiply_adds(long) { return 0; }
#endif

// Returns the GFLOP/s of one core: the best of many short pieces, because whatever else runs on the machine only slows
// a piece down.
template <class T> double multiply_add_peak(double seconds = 0.1) {
  double best = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    const double flops = run_multiply_adds<T>(100'000);  // about 1 ms
    best = std::max(best, flops / (now() - start) * 1e-9);
  }
  return best;
}

// ---- reading memory ---------------------------------------------------------------------------------------------

// Reads every 64-byte line of 8 * `lines` lines once, as `Streams` equally long streams side by side. Ahead, if not 0:
// prefetches the line so many bytes later into the second-level cache.
template <int Streams, int Ahead = 0> void read_lines(const std::byte* data, std::size_t lines) {
  const std::size_t stride = lines * 8 / Streams * 64;
  for (std::size_t at = 0; at < stride; at += 64) {
#if BENCH_X86
    for (int s = 0; s < Streams; ++s) {
      const std::byte* const line = data + static_cast<std::size_t>(s) * stride + at;
      long value;
      asm volatile("movq %1, %0" : "=r"(value) : "m"(*line));
      if constexpr (Ahead > 0) asm volatile("prefetcht1 %c1(%0)" : : "r"(line), "i"(Ahead));
    }
#else
    for (int s = 0; s < Streams; ++s) *static_cast<const volatile std::byte*>(data + s * stride + at);
#endif
  }
}

struct read_loop {
  void (*run)(const std::byte* data, std::size_t lines) = nullptr;  // reads 8 * lines lines
  double gbps = 0;
};

// Returns the read loop that is fastest on a buffer far larger than the caches, and its best rate on one core: one to
// sixteen streams, with and without prefetch. Pages are those of an ordinary allocation, like those of the benchmark's
// tensors.
inline read_loop fastest_read_loop(std::size_t bytes = std::size_t{256} << 20, int rounds = 3) {
  const std::vector<std::byte> data(bytes, std::byte{1});
  const std::size_t lines = bytes / 64 / 8;
  read_loop loops[] = {{read_lines<1>},       {read_lines<2>},       {read_lines<4>},
                       {read_lines<8>},       {read_lines<16>},      {read_lines<4, 2048>},
                       {read_lines<8, 2048>}, {read_lines<8, 4096>}, {read_lines<16, 2048>}};
  for (int round = 0; round < rounds; ++round)
    for (read_loop& loop : loops) {
      const double start = now();
      loop.run(data.data(), lines);
      loop.gbps = std::max(loop.gbps, static_cast<double>(lines) * 8 * 64 / (now() - start) * 1e-9);
    }
  return *std::max_element(std::begin(loops), std::end(loops),
                           [](const read_loop& a, const read_loop& b) { return a.gbps < b.gbps; });
}

inline double read_bandwidth() { return fastest_read_loop().gbps; }

// ---- both, before and after ---------------------------------------------------------------------------------------

struct machine {
  double gflops_float = 0, gflops_double = 0;  // one core
  double read_gbps = 0;                        // one core
};

inline machine measure_machine() { return {multiply_add_peak<float>(), multiply_add_peak<double>(), read_bandwidth()}; }

inline machine larger(const machine& a, const machine& b) {
  return {std::max(a.gflops_float, b.gflops_float), std::max(a.gflops_double, b.gflops_double),
          std::max(a.read_gbps, b.read_gbps)};
}

}  // namespace heed_bench

#undef BENCH_X86
