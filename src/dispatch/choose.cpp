// SPDX-License-Identifier: BSD-3-Clause

// The level that runs: the highest that this machine has, or what HEED_LEVEL in the environment caps it to. This file
// is compiled without machine flags. HEED_DISPATCH_ONLY: the name of the only level, where there are no others.

#define HEED_DISPATCH  // as callers see it

#include <cstdlib>
#include <cstring>

#include "heed/dispatch/verbs.hpp"
#include "heed/level.hpp"
#include "heed/simd/cpu.hpp"

namespace heed::dispatch {

// What table.cpp defines for a level
#define HEED_DECLARE(LEVEL) HEED_DECLARE_(LEVEL)
#define HEED_DECLARE_(LEVEL)            \
  namespace LEVEL {                     \
  extern const verbs<float> of_float;   \
  extern const verbs<double> of_double; \
  extern const verbs<void> of_any;      \
  }
#define HEED_TABLES_OF(LEVEL) LEVEL::of_float, LEVEL::of_double, LEVEL::of_any
#define HEED_TABLES(LEVEL) HEED_TABLES_OF(LEVEL)

#if !defined(HEED_DISPATCH_ONLY)
HEED_DECLARE(sse2)
HEED_DECLARE(avx2)
HEED_DECLARE(avx512)
#else
HEED_DECLARE(HEED_DISPATCH_ONLY)
#endif

namespace {

struct choice {
  const char* name;
  bool here, units;  // units: bf16 dot products or AMX may be used, where the machine has them
  const verbs<float>& of_float;
  const verbs<double>& of_double;
  const verbs<void>& of_any;
};

const choice* choose() noexcept {
#if !defined(HEED_DISPATCH_ONLY)
  __builtin_cpu_init();
  const simd::cpu_features cpu = simd::detect_cpu();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && cpu.f16c;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  static const choice levels[] = {
      {"sse2", true, false, HEED_TABLES(sse2)},
      {"avx2", avx2, false, HEED_TABLES(avx2)},
      {"avx512", avx512, false, HEED_TABLES(avx512)},
      {"avx512_bf16", avx512 && (cpu.bf16_dots || cpu.amx), true, HEED_TABLES(avx512)},
  };
#else
  static const choice levels[] = {{HEED_NAME(HEED_DISPATCH_ONLY), true, false, HEED_TABLES(HEED_DISPATCH_ONLY)}};
#endif
  const char* const cap = std::getenv("HEED_LEVEL");
  const choice* best = levels;
  for (const choice& x : levels) {
    if (x.here) best = &x;
    if (cap != nullptr && std::strcmp(cap, x.name) == 0) break;
  }
  return best;
}

const choice& chosen_level() noexcept {
  static const choice* const chosen = choose();
  return *chosen;
}

}  // namespace

bool units_allowed() noexcept;  // for tile/unit_choice.hpp
bool units_allowed() noexcept { return chosen_level().units; }

inline namespace HEED_ABI {

template <> const verbs<float>& chosen<float>() noexcept { return chosen_level().of_float; }
template <> const verbs<double>& chosen<double>() noexcept { return chosen_level().of_double; }
template <> const verbs<void>& chosen<void>() noexcept { return chosen_level().of_any; }

}  // namespace HEED_ABI
}  // namespace heed::dispatch

namespace heed {
inline namespace HEED_ABI {

const char* level() noexcept { return dispatch::chosen_level().name; }

}  // namespace HEED_ABI
}  // namespace heed
