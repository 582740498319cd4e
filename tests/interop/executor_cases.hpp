// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What must hold of every executor. The checks return what is wrong, so that threads may run them: Catch's own macros
// are for one thread.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "heed/core/context.hpp"
#include "support/softmax_case.hpp"
#include "support/throwing.hpp"

namespace heed_test {

struct case_for_executors {
  shape s;
  index_t least_tasks, most_tasks;
};
inline constexpr index_t any = 1000000;
inline constexpr case_for_executors executor_cases[] = {
    {{2, 4, 2, 150, 130, 20, 12}, 8, any},  // many rows
    {{2, 8, 4, 1, 700, 16, 16}, 8, any},    // few rows
    {{1, 1, 1, 300, 70, 8, 8}, 2, any},     // about as many tasks as workers
    {{1, 1, 1, 1, 300, 16, 16}, 1, 1},      //
    {{1, 2, 1, 0, 5, 8, 8}, 0, 0},          // no rows
    {{0, 2, 2, 5, 5, 8, 8}, 0, 0},          //
    {{1, 2, 2, 40, 0, 8, 8}, 1, any},       // rows without keys
};

// softmax::forward on this executor against the calling thread: what differs, or nothing.
template <class T = float, class E> std::string differing(E& executor) {
  std::string wrong;
  for (const case_for_executors& c : executor_cases) {
    softmax_case<T> serial(c.s, {.mask = heed::causal()}), x(c.s, {.mask = heed::causal()});
    serial.forward();
    x.forward({.executor = executor});
    const index_t tasks = x.plan({.executor = executor}).tasks;
    const bool same = same_bits(x.o, serial.o) && same_bits(x.lse, serial.lse) && all_written(x.o) &&
                      all_written(x.lse) && x.o.canaries_alive() && x.lse.canaries_alive();
    if (!same) wrong += to_string(c.s) + " has other bits; ";
    if (tasks < c.least_tasks || tasks > c.most_tasks) wrong += to_string(c.s) + " has another number of tasks; ";
  }
  return wrong;
}

// Exceptions of a score function out of softmax::forward on this executor: what is wrong, or nothing.
template <class E> std::string mishandled_exceptions(E& executor) {
  const auto make = [](fuse& f) {
    return softmax_case<float>({2, 4, 2, 70, 60, 8, 8},
                               {.score = [&f](float x, const heed::position&) { return f.burn(), x; }});
  };
  return mishandled({.executor = executor}, false, make,
                    [](auto& x, const heed::context& where) { x.forward(where); },
                    [](const auto& a, const auto& b) { return same_bits(a.o, b.o) && same_bits(a.lse, b.lse); });
}

// Every index once, and all of them before parallel_for returns: what is wrong, or nothing.
template <class E> std::string miscounted(E& executor) {
  std::string wrong;
  for (const index_t n : {0, 1, 2, 3, 5, 8, 1000}) {
    std::vector<std::atomic<int>> times(static_cast<std::size_t>(n));
    executor.parallel_for(n, [&times](index_t i) noexcept {
      std::this_thread::yield();
      times[static_cast<std::size_t>(i)].fetch_add(1, std::memory_order_relaxed);
    });
    for (const std::atomic<int>& count : times)
      if (count.load(std::memory_order_relaxed) != 1) wrong += std::to_string(n) + " ";
  }
  return wrong;
}

// Runs n indices that wait until all n have begun, each on a thread of its own then. false: they never met, or what
// they wrote afterwards (plain memory, for the thread sanitizer) is not there when parallel_for returns.
template <class E> bool run_at_once(E& executor, index_t n, std::set<std::thread::id>* seen = nullptr) {
  std::mutex mutex;
  std::condition_variable all_here;
  index_t here = 0;
  std::vector<int> met(static_cast<std::size_t>(n));
  executor.parallel_for(n, [&](index_t i) noexcept {
    std::unique_lock lock(mutex);
    if (seen != nullptr) seen->insert(std::this_thread::get_id());
    if (++here == n) all_here.notify_all();
    const bool all = all_here.wait_for(lock, std::chrono::seconds(20), [&] { return here == n; });
    lock.unlock();
    met[static_cast<std::size_t>(i)] = all ? 1 : 0;
  });
  return std::count(met.begin(), met.end(), 1) == n;
}

}  // namespace heed_test
