// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a call is cut into tasks, and who runs them: tasks are (sequence, key/value head, tile of rows), cut by shapes
// alone and claimed one by one by as many workers as there are slots of scratch.

#include <atomic>
#include <exception>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/simd/float_control.hpp"
#include "heed/tile/problem.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// f(sequence, how many key/value heads have rows as many as its): packed sequences one by one, a batch as one.
template <class T, class F> void each_size(const attention<T>& p, F f) {
  if (p.heads == 0) return;
  const index_t sequences = p.sequences(), different = p.packed() ? sequences : std::min<index_t>(sequences, 1);
  for (index_t s = 0; s < different; ++s) f(p.sequence_at(s), p.kv_heads * (p.packed() ? 1 : sequences));
}

// A worker claims tasks in ascending order, so that it finds each by going on from the last; the last tiles of a head
// come first: under causal masks they are the longest. Tiles: tiles_of(rows of a sequence that share keys).
template <class T, class Tiles> class task_list {
 public:
  task_list(const attention<T>& p, Tiles tiles_of)
      : p_(p), tiles_of_(tiles_of), heads_share_pairs_(for_all_heads(p.mask, p.scores.bias)) {
    enter(0);
  }

  // f(sequence, kv_head, tile)
  template <class F> void visit(index_t task, F f) {
    while (task >= end_) enter(sequence_.number + 1);
    const index_t at = task - (end_ - p_.kv_heads * per_head_);
    if (heads_share_pairs_)
      f(sequence_, at % p_.kv_heads, per_head_ - 1 - at / p_.kv_heads);
    else
      f(sequence_, at / per_head_, per_head_ - 1 - at % per_head_);
  }

 private:
  void enter(index_t number) {
    sequence_ = p_.sequence_at(number);
    per_head_ = tiles_of_(p_.rows(sequence_));
    end_ += p_.kv_heads * per_head_;
  }

  // Rows of a bias or keep for all heads stay in cache from one head to the next.
  static bool for_all_heads(const heed::detail::mask_parts& mask, const tensor_view<const T, 4>& bias) {
    return (bias.data() != nullptr && bias.extent(1) == 1 && bias.extent(2) > 1) ||
           (mask.has(mask.keep) && mask.keep_tensor.extent(1) == 1 && mask.keep_tensor.extent(2) > 1);
  }

  const attention<T>& p_;
  Tiles tiles_of_;
  sequence sequence_;
  index_t per_head_ = 0, end_ = 0;
  bool heads_share_pairs_;
};

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
