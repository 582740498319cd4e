// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Eigen's thread pool as an executor. Include it by name; it needs Eigen 3.4 or newer and the system's threads.

// GCC 12 raises false warnings in its own AVX-512 intrinsics, which the module includes with Eigen/Core, and under the
// thread sanitizer it warns of fences inside the module.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wtsan"
#endif
#if __has_include(<Eigen/ThreadPool>)
#include <Eigen/ThreadPool>
#else
#include <unsupported/Eigen/CXX11/ThreadPool>  // its place before Eigen 5
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <algorithm>
#include <atomic>
#include <memory>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed {
namespace detail {
inline namespace HEED_ISA {

// One parallel_for, owned jointly by the caller and by the closures in the pool's queues. f lives on the caller's
// stack. Only a thread that has claimed an index may touch it, and the caller stays until all claimed indices are done.
// A closure that starts later finds nothing to claim.
template <class F> struct pool_call {
  const F& f;
  const index_t n;
  std::atomic<index_t> next{0}, left;
  Eigen::Barrier done{1};

  pool_call(const F& task, index_t count) : f(task), n(count), left(count) {}

  void work() noexcept {
    const auto claim = [this] { return next.fetch_add(1, std::memory_order_relaxed); };
    for (index_t i = claim(); i < n; i = claim()) {
      f(i);
      if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) done.Notify();
    }
  }
};

// Waits for indices that run, never for closures to start: a full, busy or cancelled pool only means less help, and a
// thread of the pool may call this. Nested calls wait for their own indices only, so they cannot deadlock.
template <class F> void run_on_pool(Eigen::ThreadPoolInterface& pool, index_t threads, index_t n, const F& f) {
  const auto call = std::make_shared<pool_call<F>>(f, n);
  struct finish {  // also where Schedule throws: f must outlive those who run it
    pool_call<F>& all;
    ~finish() {
      all.work();
      all.done.Wait();
    }
  } const at_end{*call};
  for (index_t i = 1; i < threads; ++i) pool.Schedule([call] { call->work(); });
}

}  // namespace HEED_ISA
}  // namespace detail

// Runs on the threads of a pool and on the calling thread, which may be one of the pool's. Any number of threads may
// use one executor, or several of one pool, at once.
//   Eigen::ThreadPool pool(8);
//   heed::eigen_thread_pool_executor threads(pool);
//   heed::softmax::forward(q, k, v, o, {}, {.executor = threads});
// Every call allocates a little: Eigen's pools take std::function. Eigen's functions carry no instruction-set tag:
// where translation units are compiled with different -m flags, include this in one and pass a heed::context to the
// others.
class eigen_thread_pool_executor {
 public:
  // Refers to the pool, which must live longer. threads: the most to use, the calling one included; below 1: as many
  // as the pool has. Where the pool leaves a core to the caller, ask for pool.NumThreads() + 1.
  HEED_INLINE explicit eigen_thread_pool_executor(Eigen::ThreadPoolInterface& pool, index_t threads = 0) noexcept
      : pool_(&pool), threads_(threads) {}

  // At least 1, at most one more than the pool has.
  HEED_INLINE index_t concurrency() const {
    const index_t in_pool = std::max(pool_->NumThreads(), 0);
    return std::clamp<index_t>(threads_ < 1 ? in_pool : threads_, 1, in_pool + 1);
  }

  // f(0) .. f(n - 1) once each, then returns. f must not throw. What the pool's Schedule throws passes through, after
  // all indices have run.
  template <class F> HEED_INLINE void parallel_for(index_t n, const F& f) const {
    if (n > 0) detail::run_on_pool(*pool_, std::min(n, concurrency()), n, f);
  }

 private:
  Eigen::ThreadPoolInterface* pool_;
  index_t threads_;
};

}  // namespace heed
