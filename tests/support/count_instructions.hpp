// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Instructions, counted one by one in a child process: the same on a busy machine and on a quiet one. Only where
// HEED_TEST_COUNTS_INSTRUCTIONS is defined: Linux on x86-64, without sanitizers.

#include "support/sanitizers.hpp"

#if defined(__linux__) && defined(__x86_64__) && !defined(HEED_TEST_SANITIZED)
#define HEED_TEST_COUNTS_INSTRUCTIONS 1

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <vector>

#include "support/catch.hpp"

namespace heed_test {

// The instructions of step(0), step(1), ...
template <class F> std::vector<long> count_instructions(int steps, F step) {
  auto* const now =
      static_cast<volatile int*>(mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  *now = steps;
  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    std::raise(SIGSTOP);
    for (int i = 0; i < steps; ++i) {
      *now = i;
      step(i);
      *now = steps;
    }
    _exit(0);
  }
  std::vector<long> count(static_cast<std::size_t>(steps) + 1);
  int status = 0;
  waitpid(child, &status, 0);
  while (WIFSTOPPED(status)) {
    ++count[static_cast<std::size_t>(*now)];
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) break;
    waitpid(child, &status, 0);
  }
  REQUIRE(WIFEXITED(status));
  munmap(const_cast<int*>(now), sizeof(int));
  count.pop_back();
  return count;
}

}  // namespace heed_test

#endif
