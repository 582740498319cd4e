// SPDX-License-Identifier: BSD-3-Clause

// main of every test program, compiled without machine flags: a program for another machine reports "skipped" (77)
// instead of dying on an illegal instruction. HEED_TEST_NEEDS names the feature, such as "avx2".

#include <cstdio>

#include "support/session.hpp"

int main(int argc, char** argv) {
#ifdef HEED_TEST_NEEDS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports(HEED_TEST_NEEDS)) {
    std::puts("skipped: this machine has no " HEED_TEST_NEEDS);
    return 77;
  }
#endif
  return heed_test::run_session(argc, argv);
}
