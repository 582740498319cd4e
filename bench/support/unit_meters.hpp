// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Measures the rate of the matrix unit that heed takes for bf16: dot products (AVX512_BF16) or AMX. As in meters.hpp,
// registers hold 0 and inner loops are assembly.

#include <algorithm>

#include "heed/simd/cpu.hpp"
#include "heed/tile/unit_choice.hpp"
#include "meters.hpp"

namespace heed_bench {

#if defined(HEED_AVX512) && defined(__GNUC__)
// Runs 14 chains of dot products, four times a turn. Returns the floating-point operations done: 4 a lane.
inline double run_dot_products(long turns) {
  long left = turns;
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      "1:\n .rept 4\n .irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n"
      "vdpbf16ps %%zmm14, %%zmm15, %%zmm\\r\n .endr\n .endr\n dec %0\n jnz 1b\n vzeroupper\n"
      : "+r"(left)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15");
  return 56.0 * 16 * 4 * static_cast<double>(turns);
}
#if defined(__linux__)
// Runs four chains of products of 16 x 32 by 32 x 16. The process has asked for AMX.
[[gnu::target("amx-tile,amx-bf16")]] inline double run_tile_products(long turns) {
  heed::simd::configure_tiles();
  heed::simd::amx_tiles tiles;
  tiles.zero<0>(), tiles.zero<1>(), tiles.zero<2>(), tiles.zero<3>();
  tiles.zero<4>(), tiles.zero<5>(), tiles.zero<6>(), tiles.zero<7>();
  for (long turn = 0; turn < turns; ++turn) {
    tiles.dot<0, 4, 6>(), tiles.dot<1, 4, 7>(), tiles.dot<2, 5, 6>(), tiles.dot<3, 5, 7>();
  }
  heed::simd::release_tiles();
  return 4.0 * 16 * 16 * 32 * 2 * static_cast<double>(turns);
}
#endif
#endif

// Returns the GFLOP/s of one core on the unit that heed chose, the best of many pieces of about 1 ms; 0 without a unit.
inline double unit_peak([[maybe_unused]] double seconds = 0.1) {
#if defined(HEED_AVX512) && defined(__GNUC__)
  double (*run)(long) = nullptr;
  const heed::tile::matrix_unit* const unit = heed::tile::bf16_unit();
  if (unit == &heed::tile::dot_unit) run = run_dot_products;
#if defined(__linux__)
  if (unit == &heed::tile::amx_unit) run = run_tile_products;
#endif
  double best = 0;
  for (const double end = now() + seconds; run != nullptr && now() < end;) {
    const double start = now();
    const double flops = run(50'000);
    best = std::max(best, flops / (now() - start) * 1e-9);
  }
  return best;
#else
  return 0;
#endif
}

// The largest peak of the unit measured so far; every call measures a little more, because clocks change.
inline double& best_unit_peak() {
  static double best = unit_peak();
  return best;
}
inline double current_unit_peak() { return best_unit_peak() = std::max(best_unit_peak(), unit_peak(0.01)); }

}  // namespace heed_bench
