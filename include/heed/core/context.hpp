// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Where a call runs: on whose threads (executor_ref), in which memory (workspace, cut up by detail::arena).

#include "heed/core/config.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <span>
#include <type_traits>

#include "heed/core/message.hpp"
#include "heed/core/once_each.hpp"
#include "heed/core/types.hpp"

namespace heed {
namespace detail {
inline namespace HEED_ISA {

// The f that an executor's parallel_for receives: two pointers, copy it freely. Its type carries the tag, and so does
// the symbol of a parallel_for instantiated with it.
class task_ref {
 public:
  task_ref(task_function call, void* state) noexcept : call_(call), state_(state) {}
  void operator()(index_t index) const noexcept { call_(state_, index); }

 private:
  task_function call_;
  void* state_;
};

template <class F> void call_task(void* state, index_t index) noexcept { (*static_cast<F*>(state))(index); }

template <class E> index_t concurrency_of(void* executor) {
  return static_cast<index_t>(static_cast<E*>(executor)->concurrency());
}

template <class E> void parallel_for_of(void* executor, index_t n, task_function call, void* state) {
  const task_ref task(call, state);
  static_cast<E*>(executor)->parallel_for(n, task);
}

}  // namespace HEED_ISA

template <class E>
concept executor = requires(E& e, index_t n, const task_ref& f) {
  { e.concurrency() } -> std::convertible_to<index_t>;
  e.parallel_for(n, f);
};

}  // namespace detail

// Refers to anything with e.concurrency() and e.parallel_for(n, f), which calls f(0) .. f(n - 1) once each, in any
// order and on any threads, and returns when all have returned. heed calls it with n <= concurrency(), which must not
// throw, and with n <= 1024; f is noexcept. An index that parallel_for leaves out, or that does not exist, is an error
// of the call; one that it calls again is ignored. f must not be called once parallel_for has returned.
// Default: the calling thread.
class executor_ref {
 public:
  HEED_INLINE executor_ref() noexcept {}

  template <class E>
    requires(detail::executor<E> && !std::same_as<std::remove_const_t<E>, executor_ref>)
  HEED_INLINE executor_ref(E& e) noexcept
      : executor_(const_cast<std::remove_const_t<E>*>(&e)),
        concurrency_(&detail::concurrency_of<E>),
        parallel_for_(&detail::parallel_for_of<E>) {}

  // 1 to 1024, whatever the executor says.
  HEED_INLINE index_t concurrency() const {
    if (executor_ == nullptr) return 1;
    const index_t n = concurrency_(executor_);
    return n < 1 ? 1 : n < detail::once_each::most_tasks ? n : detail::once_each::most_tasks;
  }

  // f(0) .. f(n - 1) once each; f is noexcept. Throws what parallel_for throws, and heed::error where it leaves out an
  // index or makes one up; f is not running then.
  template <class F> HEED_INLINE void run(index_t n, F& f) const {
    static_assert(noexcept(f(n)));
    if (executor_ == nullptr) {
      for (index_t i = 0; i < n; ++i) f(i);
    } else if (n > 0) {
      detail::run_once_each(executor_, parallel_for_, n, &detail::call_task<F>, &f);
    }
  }

 private:
  template <class E>
    requires(!std::is_lvalue_reference_v<E> && !std::same_as<std::remove_const_t<E>, executor_ref>)
  executor_ref(E&&) {
    static_assert(detail::executor<E>,
                  "heed: an executor has e.concurrency() and e.parallel_for(n, f), a pointer or a number has not");
    static_assert(!detail::executor<E>, "heed: an executor is referred to, not copied: give it a name");
  }
  template <class E>
    requires(!detail::executor<E> && !std::same_as<std::remove_const_t<E>, executor_ref>)
  executor_ref(E&) {
    static_assert(detail::executor<E>, "heed: an executor has e.concurrency() and e.parallel_for(n, f)");
  }

  void* executor_ = nullptr;
  index_t (*concurrency_)(void*) = nullptr;
  void (*parallel_for_)(void*, index_t, detail::task_function, void*) = nullptr;
};

// workspace: plan::workspace_bytes of any alignment, used by one call at a time; empty: one allocation per call.
struct context {
  executor_ref executor = {};
  std::span<std::byte> workspace = {};
};

namespace detail {
inline namespace HEED_ISA {

// Whether the workspace will do for needed bytes (an empty one will: the call allocates); if not, says so.
inline bool check_workspace(problem_text& problem, std::span<const std::byte> workspace, std::size_t needed) noexcept {
  if (workspace.empty() || workspace.size() >= needed) return true;
  write(problem, "context.workspace has % bytes, must have at least %", workspace.size(), needed);
  return false;
}

// Scratch of one call, handed out piece by piece. A default-constructed arena only counts: run the same takes over it
// to learn what the real one needs.
class arena {
 public:
  static constexpr std::size_t alignment = 64;  // a cache line and the widest vector

  arena() noexcept = default;

  // In the workspace if there is one, else in memory of its own; 0 bytes need neither.
  arena(std::span<std::byte> workspace, std::size_t needed) {
    if (needed == 0) return;
    if (workspace.empty()) {
      owned_ = new std::byte[needed];
      base_ = owned_;
    } else {
      problem_text problem{};
      if (!check_workspace(problem, workspace, needed)) fail(problem.data());
      base_ = workspace.data();
    }
    const std::size_t slack = (0 - reinterpret_cast<std::uintptr_t>(base_)) % alignment;
    base_ += slack, end_ = needed - slack;
  }

  ~arena() { delete[] owned_; }
  arena(const arena&) = delete;
  arena& operator=(const arena&) = delete;

  // count elements, not initialised, 64-byte aligned; null while counting and for count 0.
  template <class T> T* take(index_t count) noexcept {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= alignment);
    if (count <= 0) return nullptr;
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    HEED_ASSERT(base_ == nullptr || used_ <= end_);
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }

  // Bytes for what was taken so far, with the slack that aligning the start may cost; 0 for nothing.
  std::size_t needed() const noexcept { return used_ == 0 ? 0 : used_ + alignment; }
  std::size_t used() const noexcept { return used_; }  // without the slack: a multiple of the alignment

 private:
  std::byte* base_ = nullptr;  // aligned
  std::byte* owned_ = nullptr;
  std::size_t used_ = 0, end_ = 0;
};

}  // namespace HEED_ISA
}  // namespace detail
}  // namespace heed
