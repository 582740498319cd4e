// SPDX-License-Identifier: BSD-3-Clause

// Which matrix unit is chosen: by processor, and by HEED_UNITS in the environment.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "heed/tile/unit_choice.hpp"
#include "support/catch.hpp"

namespace {

namespace tile = heed::tile;
namespace simd = heed::simd;

TEST_CASE("choice of a matrix unit: by processor and HEED_UNITS") {
  const auto choose = [](simd::cpu_features cpu, const char* switches) {
    const tile::unit_choice choice = tile::detail::choose_unit(cpu, switches);
    return std::string(choice.unit == nullptr ? "none" : choice.unit->name) + ": " + choice.why;
  };
  const simd::cpu_features none{}, amd{true, true, false}, intel{false, true, false}, amx{false, true, true};
  for (const simd::cpu_features& cpu : {none, amd, intel, amx})
    for (const char* switches : {"emulated-amx", "no-amx,emulated-amx", "emulated-amx,no-dot"})
      CHECK(choose(cpu, switches) == "AMX emulated: AMX emulated, as HEED_UNITS says");
#if defined(HEED_AVX512)
  const char* const absent = "none: this processor has no AMX and no fast bf16 dot products";
  CHECK(choose(none, "") == absent);
  CHECK(choose(intel, "") == absent);
  CHECK(choose(intel, "no-amx") == absent);
  CHECK(choose(amd, "") == "bf16 dot products: bf16 dot products, fast on AMD");
  CHECK(choose(amd, "no-amx") == "bf16 dot products: bf16 dot products, fast on AMD");
  for (const char* near : {"no-dots", "no-do", "xno-dot", "no-dot ", "emulated-amx-not"})
    CHECK(choose(amd, near) == "bf16 dot products: bf16 dot products, fast on AMD");
  CHECK(choose(amd, "no-amx,no-dot") == "none: HEED_UNITS switches bf16 dot products off");
  CHECK(choose(intel, "dot") == "bf16 dot products: bf16 dot products, as HEED_UNITS says");
  CHECK(choose(amx, "dot") == choose(intel, "dot"));
  CHECK(choose(none, "dot") == absent);
#if defined(__linux__)
  CHECK(choose(amx, "no-amx") == "none: HEED_UNITS switches AMX off");
  CHECK(choose(amx, "") == (simd::request_amx() ? "AMX: AMX" : "none: the system refuses AMX"));
#endif
#else
  for (const simd::cpu_features& cpu : {none, amd, intel, amx})
    CHECK(choose(cpu, "") == "none: not compiled for AVX-512");
#endif
}

// What the whole choice says in a process with HEED_UNITS = switches: whether its unit has this name ("" for none)
bool child_chooses(const char* switches, const std::string& name) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("HEED_UNITS", switches, 1);
    const tile::matrix_unit* unit = tile::bf16_unit();
    setenv("HEED_UNITS", "", 1);  // read once
    const bool good = unit == tile::bf16_unit() && *tile::why_unit() != '\0';
    _exit(good && (unit == nullptr ? "" : unit->name) == name ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  return status == 0;
}

TEST_CASE("choice of a matrix unit: HEED_UNITS of the environment, read once") {
  CHECK(child_chooses("emulated-amx", "AMX emulated"));
  CHECK(child_chooses("no-amx,no-dot", ""));
#if defined(HEED_AVX512)
  const simd::cpu_features cpu = simd::detect_cpu();
  CHECK(child_chooses("no-amx", cpu.amd && cpu.bf16_dots ? "bf16 dot products" : ""));
#endif
}

}  // namespace
