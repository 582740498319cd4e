// SPDX-License-Identifier: BSD-3-Clause

// The level that runs: the highest that this machine has, or what HEED_LEVEL in the environment caps it to.

#include <cstdlib>
#include <cstring>

#include "heed/dispatch/verbs.hpp"

namespace heed::dispatch {

#define HEED_DECLARE(LEVEL)             \
  namespace LEVEL {                     \
  extern const verbs<float> of_float;   \
  extern const verbs<double> of_double; \
  }
HEED_DECLARE(sse2)
HEED_DECLARE(avx2)
HEED_DECLARE(avx512)
HEED_DECLARE(avx512_bf16)

namespace {

struct level {
  const char* name;
  bool here;
  const verbs<float>& of_float;
  const verbs<double>& of_double;
};

const level& highest() noexcept {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  static const level levels[] = {
      {"sse2", true, sse2::of_float, sse2::of_double},
      {"avx2", avx2, avx2::of_float, avx2::of_double},
      {"avx512", avx512, avx512::of_float, avx512::of_double},
      {"avx512_bf16", avx512 && __builtin_cpu_supports("avx512bf16"), avx512_bf16::of_float, avx512_bf16::of_double},
  };
  static const level& chosen = [&]() -> const level& {
    const char* const cap = std::getenv("HEED_LEVEL");
    const level* best = &levels[0];
    for (const level& x : levels) {
      if (x.here) best = &x;
      if (cap != nullptr && std::strcmp(cap, x.name) == 0) break;
    }
    return *best;
  }();
  return chosen;
}

}  // namespace

template <> const verbs<float>& chosen<float>() noexcept { return highest().of_float; }
template <> const verbs<double>& chosen<double>() noexcept { return highest().of_double; }

}  // namespace heed::dispatch
