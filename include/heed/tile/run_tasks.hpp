// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Who runs the tasks of a call: as many workers as there are slots of scratch claim them one by one.

#include <atomic>
#include <exception>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/simd/float_control.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// What the caller's functions throw: a worker hands it over here, since nothing may leave an executor's f, and
// rethrow() throws it out of the verb, once all workers are done. The first one wins. Without exceptions it is empty.
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
      if (!taken_.exchange(true, std::memory_order_relaxed)) first_ = std::current_exception();
    }
#endif
  }

  HEED_INLINE void rethrow() const {
#if !defined(HEED_ON_ERROR)
    if (first_ != nullptr) [[unlikely]]
      std::rethrow_exception(first_);
#endif
  }

#if !defined(HEED_ON_ERROR)
 private:
  std::atomic<bool> taken_{false};
  std::exception_ptr first_;  // read after the executor's run, which all workers' writes happen before
#endif
};

// body(memory, claim) once per slot; claim(f) calls f(task) for every task that the slot gets hold of.
// What body throws is thrown to the caller, after the tasks that had begun; no other begins.
template <class Body> void run_tasks(const plan& how, const context& where, index_t workers, Body body) {
  using heed::detail::arena;
  if (how.tasks == 0) return;
  const index_t slots = std::min(how.tasks, workers);
  const std::size_t each = how.workspace_bytes / static_cast<std::size_t>(slots);
  arena memory(where.workspace, how.workspace_bytes);
  const bool some = how.workspace_bytes > 0;
  std::byte* const base =
      some ? memory.take<std::byte>(static_cast<index_t>(how.workspace_bytes - arena::alignment)) : nullptr;
  std::atomic<index_t> next{0};
  const auto work = [&](index_t slot) {
    const simd::flush_to_zero numbers;
    // an aligned slot needs no slack
    std::byte* const mine = some ? base + static_cast<std::size_t>(slot) * (each - arena::alignment) : nullptr;
    const auto claim = [&](auto f) {
      for (index_t t = next.fetch_add(1, std::memory_order_relaxed); t < how.tasks;
           t = next.fetch_add(1, std::memory_order_relaxed))
        f(t);
    };
    body(std::span<std::byte>(mine, each), claim);
  };
  thrown_by_workers thrown;
  auto guarded = [&](index_t slot) noexcept {
    thrown.keep([&] { work(slot); }, [&] { next.store(how.tasks, std::memory_order_relaxed); });
  };
  where.executor.run(slots, guarded);
  thrown.rethrow();
}

}  // namespace HEED_ISA
}  // namespace heed::tile
