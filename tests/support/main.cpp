// SPDX-License-Identifier: BSD-3-Clause

// main of every test program, compiled without machine flags: a program for another machine reports "skipped" (77)
// instead of dying on an illegal instruction. HEED_TEST_NEEDS names the feature, such as "avx2".

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <cstdio>

int main(int argc, char** argv) {
#ifdef HEED_TEST_NEEDS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports(HEED_TEST_NEEDS)) {
    std::puts("skipped: this machine has no " HEED_TEST_NEEDS);
    return 77;
  }
#endif
  return Catch::Session().run(argc, argv);
}
