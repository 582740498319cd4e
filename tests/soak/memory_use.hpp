// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The memory of this process.

#include <cstdio>
#if defined(__linux__)
#include <malloc.h>
#include <unistd.h>
#endif

#include "support/sanitizers.hpp"

namespace heed_test {

// Whether what follows can be measured here; not under sanitizers, which keep freed memory.
#if defined(__linux__) && defined(__GLIBC__) && __GLIBC__ == 2 && __GLIBC_MINOR__ >= 33 && !defined(HEED_TEST_SANITIZED)
inline constexpr bool memory_is_measured = true;

// Makes malloc return every large piece when it is freed, instead of keeping the most that a thread ever had.
inline void return_large_pieces() { mallopt(M_MMAP_THRESHOLD, 128 << 10); }

// In MiB: pages in memory when malloc has returned what it can, and what has been allocated and not freed, in all of
// its arenas and mappings
struct memory_use {
  double resident = 0, allocated = 0;

  static memory_use now() {
    constexpr double mib = 1 << 20;
    malloc_trim(0);
    const struct mallinfo2 x = mallinfo2();
    memory_use m{.allocated = static_cast<double>(x.uordblks + x.hblkhd) / mib};
    if (std::FILE* const file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
      long size = 0, resident = 0;
      if (std::fscanf(file, "%ld %ld", &size, &resident) == 2)
        m.resident = static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / mib;
      std::fclose(file);
    }
    return m;
  }
};
#else
inline constexpr bool memory_is_measured = false;

inline void return_large_pieces() {}

struct memory_use {
  double resident = 0, allocated = 0;
  static memory_use now() { return {}; }
};
#endif

}  // namespace heed_test
