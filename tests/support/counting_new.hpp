// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Replaces operator new by one that counts, and fails where it is told to. Include it in one file of a program.

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace heed_test {

inline std::atomic<long> allocations{0}, living{0};  // all; those that have not been freed
inline std::atomic<long> until_failure{-1};          // allocations that still succeed before one fails; below 0: all do

inline void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocations;
  void* p = nullptr;
  if (until_failure >= 0 && until_failure-- == 0) return nullptr;
  if (posix_memalign(&p, alignment, bytes) != 0) return nullptr;
  ++living;
  return p;
}
inline void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  void* const p = counted(bytes, alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
// Not inlined: GCC would see free() meet a new that it has not inlined, and warn.
[[gnu::noinline]] inline void give_back(void* p) noexcept {
  if (p != nullptr) --living;
  std::free(p);
}

}  // namespace heed_test

void* operator new(std::size_t bytes) { return heed_test::counted_or_throw(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return heed_test::counted_or_throw(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return heed_test::counted(bytes, alignof(std::max_align_t));
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return heed_test::counted(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t a) {
  return heed_test::counted_or_throw(bytes, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t bytes, std::align_val_t a) {
  return heed_test::counted_or_throw(bytes, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::align_val_t) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { heed_test::give_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { heed_test::give_back(p); }
