// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Large memory in large pages. Attention of a token reads its cache from end to end: with pages of 4 KiB it waits for
// address translations, in virtual machines most of all. bench/decode_bench.cpp, with and without
// HEED_BENCH_SMALL_PAGES.

#include <cstddef>

#include "heed/core/config.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace heed::simd {
inline namespace HEED_ISA {

inline constexpr std::size_t huge_page = std::size_t{2} << 20;

// The alignment that memory of so many bytes should have: that of a huge page where it fills some
HEED_INLINE std::size_t page_alignment(std::size_t bytes, std::size_t least) {
  return bytes >= 2 * huge_page ? huge_page : least;
}

// Asks the system for huge pages, before the memory is written for the first time; a refusal is no error.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= 2 * huge_page) madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
}

}  // namespace HEED_ISA
}  // namespace heed::simd
