// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Guards the tasks of a parallel_for against the executor: each index runs at most once, none begins after parallel_for
// has returned or thrown, and an index that did not run, or that does not exist, is an error.

#include "heed/core/config.hpp"

#include <atomic>
#include <new>
#include <thread>

#include "heed/core/message.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

using task_function = void (*)(void* state, index_t index) noexcept;

inline namespace HEED_ISA {

class once_each {
 public:
  static constexpr index_t most_tasks = 1024;

  // call(state, first) .. call(state, first + count - 1); count: 1 to most_tasks
  once_each(index_t first, index_t count, task_function call, void* state) noexcept
      : call_(call), state_(state), first_(first), count_(count) {
    for (index_t i = 0; i < count; ++i) new (stages_ + i) std::atomic<stage>(idle);
  }
  once_each(const once_each&) = delete;
  once_each& operator=(const once_each&) = delete;

  // Runs a task, unless it has begun before: the f that the executor gets.
  static void run(void* self, index_t index) noexcept {
    auto& all = *static_cast<once_each*>(self);
    if (index < 0 || index >= all.count_) {
      all.outside_.store(index, std::memory_order_relaxed);
      return;
    }
    if (!all.move(index, idle, running)) return;
    all.call_(all.state_, all.first_ + index);
    all.stages_[index].store(done, std::memory_order_release);
  }

  // Lets no other task begin, and waits for those that run: what they use may end after this.
  void close() noexcept {
    for (index_t i = 0; i < count_; ++i) {
      if (stages_[i].load(std::memory_order_acquire) == done) continue;
      if (move(i, idle, closed)) {
        ++missing_;
        continue;
      }
      while (stages_[i].load(std::memory_order_acquire) == running) std::this_thread::yield();
    }
  }

  // Throws what the executor did wrong; after close().
  void check() const {
    if (missing_ > 0)
      fail("context.executor ran % of % tasks: parallel_for(n, f) must call f(0) to f(n - 1) before it returns",
           count_ - missing_, count_);
    if (const index_t index = outside_.load(std::memory_order_relaxed); index != 0)
      fail("context.executor called f(%) of % tasks: parallel_for(n, f) must call f(0) to f(n - 1)", index, count_);
  }

 private:
  // Not an enumeration: the members of its atomic would not always be inlined, and carry no tag.
  using stage = unsigned char;
  static constexpr stage idle = 0, running = 1, done = 2, closed = 3;

  bool move(index_t index, stage from, stage to) noexcept {
    return stages_[index].compare_exchange_strong(from, to, std::memory_order_relaxed);
  }

  task_function call_;
  void* state_;
  index_t first_, count_, missing_ = 0;
  std::atomic<index_t> outside_{0};  // an index that does not exist; 0 does
  union {
    std::atomic<stage> stages_[most_tasks];  // count_ of them are made
  };
};

// Runs call(state, 0) .. call(state, n - 1), once each, on an executor. What the executor throws passes through, after
// the tasks that had begun.
HEED_NOINLINE inline void run_once_each(void* executor, void (*parallel_for)(void*, index_t, task_function, void*),
                                        index_t n, task_function call, void* state) {
  for (index_t first = 0; first < n; first += once_each::most_tasks) {
    const index_t count = n - first < once_each::most_tasks ? n - first : once_each::most_tasks;
    once_each tasks(first, count, call, state);
    {
      const struct closing {
        once_each& tasks;
        ~closing() { tasks.close(); }
      } at_end{tasks};
      parallel_for(executor, count, &once_each::run, &tasks);
    }
    tasks.check();
  }
}

}  // namespace HEED_ISA
}  // namespace heed::detail
