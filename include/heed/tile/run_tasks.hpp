// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Who runs the tasks of a call: as many workers as there are slots of scratch claim them one by one.

#include <atomic>
#include <exception>
#include <span>

#include "heed/core/context.hpp"
#include "heed/simd/float_control.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// What the caller's functions throw: a worker hands it over here, since nothing may leave an executor's f, and
// run_workers() throws it out of the verb, once all workers are done. The first one wins. Without exceptions it is
// empty.
class thrown_by_workers {
 public:
  // f(), then stop() where it threw
  template <class F, class Stop> HEED_INLINE void keep(const F& f, [[maybe_unused]] const Stop& stop) noexcept {
#if defined(HEED_ON_ERROR)
    f();
#else
    try {
      f();
    } catch (...) {
      stop();
      if (!taken_.test_and_set(std::memory_order_relaxed)) first_ = std::current_exception();
    }
#endif
  }

  // f(), which runs the workers: what they kept is thrown before what f itself throws, which is the executor's.
  template <class F> HEED_INLINE void run_workers(const F& f) const {
#if defined(HEED_ON_ERROR)
    f();
#else
    try {
      f();
    } catch (...) {
      rethrow();
      throw;
    }
    rethrow();
#endif
  }

#if !defined(HEED_ON_ERROR)
 private:
  HEED_INLINE void rethrow() const {
    if (first_ != nullptr) [[unlikely]]
      std::rethrow_exception(first_);
  }

  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;  // a flag, since its members are always inlined
  std::exception_ptr first_;                   // read after the executor's run, which all workers' writes happen before
#endif
};

// What a call has to do, and its scratch: shared_bytes for all workers, then slot_bytes for each of `slots` workers,
// both multiples of the arena's alignment.
struct workload {
  index_t tasks = 0, slots = 0;
  index_t most_tasks = 0;  // of a call that runs again with other lengths, in the same memory
  std::size_t shared_bytes = 0, slot_bytes = 0;

  // Of context.workspace: with the slack that aligning its start may cost
  std::size_t bytes() const {
    const std::size_t all = shared_bytes + static_cast<std::size_t>(slots) * slot_bytes;
    return all == 0 ? 0 : all + heed::detail::arena::alignment;
  }
};

// The scratch of a call, in the caller's workspace or in memory of its own
class call_memory {
 public:
  call_memory(std::span<std::byte> workspace, const workload& work)
      : arena_(workspace, work.bytes()),
        shared_(arena_.take<std::byte>(static_cast<index_t>(work.shared_bytes))),
        slots_(arena_.take<std::byte>(work.slots * static_cast<index_t>(work.slot_bytes))),
        slot_bytes_(work.slot_bytes) {}

  std::byte* shared() const { return shared_; }
  std::span<std::byte> slot(index_t number) const {
    return {slots_ == nullptr ? nullptr : slots_ + static_cast<std::size_t>(number) * slot_bytes_, slot_bytes_};
  }

 private:
  heed::detail::arena arena_;
  std::byte *shared_, *slots_;
  std::size_t slot_bytes_;
};

// Runs body(scratch, claim) once per slot; claim(f) calls f(task) for every task that the slot gets hold of.
// What body throws is thrown to the caller, after the tasks that had begun; no other begins. So is what the executor
// throws, or does wrong.
template <class Body>
void run_tasks(index_t tasks, index_t slots, const call_memory& memory, const executor_ref& executor, Body body) {
  if (tasks == 0) return;
  std::atomic<index_t> next{0};
  const bool alone = slots < 2;
  const auto work = [&](index_t slot) {
    const simd::flush_to_zero numbers;
    const auto take = [&] {
      if (!alone) return next.fetch_add(1, std::memory_order_relaxed);
      const index_t t = next.load(std::memory_order_relaxed);  // a locked instruction takes as long as a short key
      next.store(t + 1, std::memory_order_relaxed);
      return t;
    };
    const auto claim = [&](auto f) {
      for (index_t t = take(); t < tasks; t = take()) f(t);
    };
    body(memory.slot(slot), claim);
  };
  thrown_by_workers thrown;
  auto guarded = [&](index_t slot) noexcept {
    thrown.keep([&] { work(slot); }, [&] { next.store(tasks, std::memory_order_relaxed); });
  };
  thrown.run_workers([&] { executor.run(slots < tasks ? slots : tasks, guarded); });
}

}  // namespace HEED_ISA
}  // namespace heed::tile
