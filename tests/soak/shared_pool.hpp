// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "heed/core/types.hpp"

namespace heed_test {

// An executor that any number of threads use at once. A call puts its job, which is on its stack, at the end of a list;
// workers take indices of the first job, the calling thread those of its own. It allocates nothing per call.
class shared_pool {
 public:
  explicit shared_pool(std::size_t workers) {
    for (std::size_t i = 0; i < workers; ++i) workers_.emplace_back([this] { serve(); });
  }
  ~shared_pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  shared_pool(const shared_pool&) = delete;
  shared_pool& operator=(const shared_pool&) = delete;

  heed::index_t concurrency() const { return static_cast<heed::index_t>(workers_.size()) + 1; }

  template <class F> void parallel_for(heed::index_t n, const F& f) {
    job mine{.call = [](const void* g, heed::index_t i) { (*static_cast<const F*>(g))(i); }, .f = &f, .count = n};
    if (n <= 0) return;
    std::unique_lock lock(mutex_);
    (last_ == nullptr ? first_ : last_->next) = &mine;
    last_ = &mine;
    if (n > 1) wake_.notify_all();
    while (mine.begun < mine.count) run_one(mine, lock);
    done_.wait(lock, [&] { return mine.running == 0; });
  }

 private:
  struct job {
    void (*call)(const void* f, heed::index_t i) = nullptr;
    const void* f = nullptr;
    heed::index_t count = 0, begun = 0, running = 0;
    job* next = nullptr;  // in the list of jobs with indices left
  };

  // Runs the next index; holds the lock, except meanwhile. The job may be gone when it returns.
  void run_one(job& x, std::unique_lock<std::mutex>& lock) {
    const heed::index_t i = x.begun++;
    if (x.begun == x.count) remove(x);
    ++x.running;
    lock.unlock();
    x.call(x.f, i);
    lock.lock();
    if (--x.running == 0 && x.begun == x.count) done_.notify_all();
  }
  void remove(job& x) {
    job *before = nullptr, *at = first_;
    while (at != &x) before = at, at = at->next;
    (before == nullptr ? first_ : before->next) = x.next;
    if (last_ == &x) last_ = before;
  }
  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || first_ != nullptr; });
      if (first_ == nullptr) return;
      run_one(*first_, lock);
    }
  }

  std::mutex mutex_;  // guards the members below and all jobs
  std::condition_variable wake_, done_;
  job *first_ = nullptr, *last_ = nullptr;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace heed_test
