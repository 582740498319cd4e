// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Which matrix unit multiplies bf16 tiles on this machine.

#include <cstddef>
#include <cstdlib>

#include "heed/simd/cpu.hpp"
#include "heed/tile/amx_emulation.hpp"
#include "heed/tile/multiply_amx.hpp"
#include "heed/tile/multiply_dot.hpp"

#ifdef HEED_DISPATCH_LEVEL
namespace heed::dispatch {
bool units_allowed() noexcept;  // src/dispatch/choose.cpp
}
#endif

namespace heed::tile {
inline namespace HEED_ISA {

struct unit_choice {
  const matrix_unit* unit;  // null: widen to float
  const char* why;          // for a plan
};

namespace detail {

// Whether `word` stands between the commas of `list`
inline bool lists(const char* list, const char* word) {
  while (true) {
    std::size_t n = 0;
    while (word[n] != '\0' && list[n] == word[n]) ++n;
    if (word[n] == '\0' && (list[n] == ',' || list[n] == '\0')) return true;
    while (*list != ',' && *list != '\0') ++list;
    if (*list == '\0') return false;
    ++list;
  }
}

// Chooses by the processor and by `switches`, the words of HEED_UNITS. Dot products are taken on AMD only: on Intel
// they are half as fast as float multiply-adds.
inline unit_choice choose_unit([[maybe_unused]] const simd::cpu_features& cpu, const char* switches) {
  if (lists(switches, "emulated-amx")) return {&emulated_amx_unit, "AMX emulated, as HEED_UNITS says"};
#if defined(HEED_DISPATCH_LEVEL)
  if (!dispatch::units_allowed()) return {nullptr, "HEED_LEVEL leaves units out"};
#endif
#if defined(HEED_AVX512) && defined(__GNUC__)
  if (cpu.bf16_dots && lists(switches, "dot")) return {&dot_unit, "bf16 dot products, as HEED_UNITS says"};
  const char* why = "this processor has no AMX and no fast bf16 dot products";
#if defined(__linux__)
  if (cpu.amx) {
    if (lists(switches, "no-amx"))
      why = "HEED_UNITS switches AMX off";
    else if (simd::request_amx())
      return {&amx_unit, "AMX"};
    else
      why = "the system refuses AMX";
  }
#endif
  if (!cpu.bf16_dots || !cpu.amd) return {nullptr, why};
  if (lists(switches, "no-dot")) return {nullptr, "HEED_UNITS switches bf16 dot products off"};
  return {&dot_unit, "bf16 dot products, fast on AMD"};
#else
  return {nullptr, "not compiled for AVX-512"};
#endif
}

// Chooses at the first call of the process; HEED_UNITS in the environment is a list, separated by commas, of no-amx and
// no-dot, and of what tests use: emulated-amx, and dot, which takes dot products on Intel, too.
inline const unit_choice& chosen_unit() {
  static const unit_choice choice = [] {
    const char* switches = std::getenv("HEED_UNITS");
    return choose_unit(simd::detect_cpu(), switches == nullptr ? "" : switches);
  }();
  return choice;
}

}  // namespace detail

// The unit that multiplies bf16 tiles, or null: widen to float. why_unit says why, in a few words for a plan.
inline const matrix_unit* bf16_unit() { return detail::chosen_unit().unit; }
inline const char* why_unit() { return detail::chosen_unit().why; }

// Whether that unit is bf16 dot products
inline bool has_fast_dots() {
#if defined(HEED_AVX512) && defined(__GNUC__)
  return bf16_unit() == &dot_unit;
#else
  return false;
#endif
}

}  // namespace HEED_ISA
}  // namespace heed::tile
