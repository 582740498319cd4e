// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The floating-point control register of the caller: set, watched, and what a call must leave of it. Subnormal numbers
// in place of zeros.

#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace heed_test {

#if defined(__SSE2__)
using float_control = unsigned;
inline float_control read_control() { return _mm_getcsr(); }
inline void write_control(float_control x) { _mm_setcsr(x); }
inline constexpr float_control flushing = 0x8040, raised = 0x3f, inexact = 0x20;
// As a program starts; round down; one of the two bits; both; toward zero with all flags raised; a trap on subnormals
inline constexpr float_control caller_controls[] = {0x1f80, 0x3f80, 0x9f80, 0x1fc0, 0x9fc0, 0x7fbf, 0x1e80};
#elif defined(__aarch64__)
using float_control = unsigned long;
inline float_control read_control() {
  float_control x;
  asm volatile("mrs %0, fpcr" : "=r"(x));
  return x;
}
inline void write_control(float_control x) { asm volatile("msr fpcr, %0" : : "r"(x)); }
inline constexpr float_control flushing = 1ul << 24, raised = 0, inexact = 0;
inline constexpr float_control caller_controls[] = {0, 2ul << 22, 1ul << 24, 3ul << 22};
#else
using float_control = unsigned;
inline float_control read_control() { return 0; }
inline void write_control(float_control) {}
inline constexpr float_control flushing = 0, raised = 0, inexact = 0;
inline constexpr float_control caller_controls[] = {0};
#endif
inline constexpr bool flushes = flushing != 0;

// Whether a call that was entered with `before` left the register so, flags raised meanwhile apart
inline bool restored(float_control before, float_control after) {
  return ((before ^ after) & ~raised) == 0 && (before & ~after & raised) == 0;
}

// Threads of their own, each entered with the same register; kept: whether all calls left it so
struct control_executor {
  float_control entered;
  std::atomic<bool> kept = true;
  std::atomic<int> calls = 0;

  index_t concurrency() const { return 3; }
  template <class F> void parallel_for(index_t n, F&& f) {
    std::vector<std::thread> threads;
    for (index_t i = 0; i < n; ++i)
      threads.emplace_back([&, i] {
        write_control(entered);
        f(i);
        if (!restored(entered, read_control())) kept = false;
        ++calls;
      });
    for (std::thread& thread : threads) thread.join();
  }
};

// call(context) on this thread and on others, entered with every register: none may come back with another.
template <class Call> void check_control(const char* what, Call call) {
  INFO(what);
  const float_control own = read_control();
  bool kept = true, kept_on_threads = true;
  for (const float_control entered : caller_controls) {
    write_control(entered);
    call(heed::context{});
    kept = kept && restored(entered, read_control());
    control_executor threads{.entered = entered};
    write_control(entered);
    call(heed::context{.executor = threads});
    kept = kept && restored(entered, read_control());
    write_control(own);
    kept_on_threads = kept_on_threads && threads.kept;
  }
  CHECK(kept);
  CHECK(kept_on_threads);
}

// Every third number becomes subnormal, of either sign, or in `zeroed` the 0 of that sign.
template <class T> void make_subnormal(const buffer<T>& x, const buffer<T>& zeroed, std::uint32_t seed = 3) {
  random_numbers random(seed);
  constexpr T smallest = std::numeric_limits<T>::min();
  std::vector<T> subnormal;
  x.each([&](T& a) {
    if (random.below(3) == 0) a = static_cast<T>(2 * random.uniform() - 1) * smallest;
    subnormal.push_back(a);
  });
  auto next = subnormal.begin();
  zeroed.each([&](T& a) {
    const T b = *next++;
    a = std::abs(b) < smallest ? std::copysign(T(0), b) : b;
  });
}

template <class T> bool none_subnormal(const buffer<T>& x) {
  bool none = true;
  x.each([&](T& a) { none = none && std::fpclassify(a) != FP_SUBNORMAL; });
  return none;
}

}  // namespace heed_test
