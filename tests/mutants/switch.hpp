// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Included before everything else in the build of tests/mutants: on(n) says whether this run of a program has mutant n.
// HEED_MUTANT is its number. With HEED_MUTANTS_REACHED=<file>, a run has no mutant and writes the numbers of all whose
// spots it came by into the file.

#include <cstdio>
#include <cstdlib>
#include <optional>

namespace heed_mutants {

inline constexpr int most = 4096, none = -1, recording = -2;
inline int active = none;
inline unsigned char reached[most] = {};

[[gnu::always_inline]] inline constexpr bool on(int n) {
  if (__builtin_is_constant_evaluated()) return false;
  if (active == n) return true;
  if (active == recording) __atomic_store_n(&reached[n], 1, __ATOMIC_RELAXED);
  return false;
}

// Runs before the constructors of all objects, which may call heed.
[[gnu::constructor(101)]] inline void choose() {
  if (const char* const number = std::getenv("HEED_MUTANT"); number != nullptr) active = std::atoi(number);
  if (std::getenv("HEED_MUTANTS_REACHED") != nullptr) active = recording;
}
[[gnu::destructor(101)]] inline void write() {
  const char* const name = std::getenv("HEED_MUTANTS_REACHED");
  if (name == nullptr) return;
  std::FILE* const file = std::fopen(name, "w");
  if (file == nullptr) std::abort();
  for (int n = 0; n < most; ++n)
    if (reached[n] != 0) std::fprintf(file, "%d\n", n);
  std::fclose(file);
}

}  // namespace heed_mutants
