// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Makes an executor of two std::threads that wait for work. It starts them once, so that a row does not time the start.

#include <condition_variable>
#include <mutex>
#include <thread>

#include "heed/core/types.hpp"

namespace heed_bench {

class two_threads {
 public:
  two_threads() {
    for (heed::index_t slot = 0; slot < 2; ++slot) threads_[slot] = std::thread([this, slot] { work(slot); });
  }
  two_threads(const two_threads&) = delete;
  two_threads& operator=(const two_threads&) = delete;
  ~two_threads() {
    start(nullptr, nullptr, 0);
    for (std::thread& thread : threads_) thread.join();
  }

  heed::index_t concurrency() const { return 2; }

  template <class F> void parallel_for(heed::index_t n, const F& f) {  // n <= 2
    start([](const void* object, heed::index_t i) { (*static_cast<const F*>(object))(i); }, &f, n);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  using call = void (*)(const void*, heed::index_t);

  void start(call f, const void* object, heed::index_t n) {
    const std::lock_guard lock(mutex_);
    call_ = f, object_ = object, count_ = n, running_ = 2, ++round_;
    changed_.notify_all();
  }

  void work(heed::index_t slot) {
    for (unsigned seen = 0;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      const call f = call_;
      const void* const object = object_;
      const bool mine = slot < count_;
      lock.unlock();
      if (f == nullptr) return;
      if (mine) f(object, slot);
      lock.lock();
      if (--running_ == 0) changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  call call_ = nullptr;
  const void* object_ = nullptr;
  heed::index_t count_ = 0, running_ = 0;
  unsigned round_ = 0;
  std::thread threads_[2];  // last: they use the members above
};

}  // namespace heed_bench
