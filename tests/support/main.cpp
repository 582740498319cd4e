// SPDX-License-Identifier: BSD-3-Clause

// main of every test program, compiled without machine flags: a program for another machine reports "skipped" (77)
// instead of dying on an illegal instruction. HEED_TEST_NEEDS names the feature, such as "avx2"; with
// heed::dispatch, HEED_LEVEL in the environment the level.

#include <cstdio>
#ifdef HEED_DISPATCH
#include <cstdlib>
#include <cstring>

#include "heed/level.hpp"
#endif

#include "support/session.hpp"

int main(int argc, char** argv) {
#ifdef HEED_TEST_NEEDS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports(HEED_TEST_NEEDS)) {
    std::puts("skipped: this machine has no " HEED_TEST_NEEDS);
    return 77;
  }
#endif
#ifdef HEED_DISPATCH
  if (const char* const level = std::getenv("HEED_LEVEL"); level != nullptr && std::strcmp(level, heed::level()) != 0) {
    if (std::strcmp(level, "avx2") != 0 && std::strcmp(level, "avx512") != 0)  // every other one must run
      return std::printf("HEED_LEVEL is %s, but calls run on %s\n", level, heed::level()), 1;
    std::printf("skipped: this machine has no %s, calls run on %s\n", level, heed::level());
    return 77;
  }
#endif
  return heed_test::run_session(argc, argv);
}
