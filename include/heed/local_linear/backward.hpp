// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <optional>

#include "heed/local_linear/forward.hpp"
#include "heed/local_linear/key_gradients.hpp"
#include "heed/local_linear/row_gradients.hpp"

namespace heed::local_linear {
namespace detail {
inline namespace HEED_ISA {

// Finds the sequence of a task; a worker asks for tasks in ascending order. tasks_of(sequence): how many it has
template <class T, class TasksOf> class sequence_tasks {
 public:
  sequence_tasks(const gradient_problem<T>& p, TasksOf tasks_of) : p_(p), tasks_of_(tasks_of) { enter(0); }

  // f(sequence, number of the task in it)
  template <class F> void visit(index_t task, F f) {
    while (task >= end_) enter(sequence_.number + 1);
    f(sequence_, task - (end_ - count_));
  }

 private:
  void enter(index_t number) {
    sequence_ = p_.sequence_at(number);
    count_ = tasks_of_(sequence_), end_ += count_;
  }

  const gradient_problem<T>& p_;
  TasksOf tasks_of_;
  pairwise::sequence sequence_;
  index_t count_ = 0, end_ = 0;
};

template <class T> struct backward_call {
  gradient_problem<T> p;

  void check(heed::detail::checker& check) const { check_gradient_call(check, p); }

  tile::workload measure(index_t) const {
    tile::workload work;
    const cut tasks = cut_of();
    work.tasks = std::max(tasks.rows, tasks.keys);
    if (tasks.rows > 0) work.slot_bytes = tile::scratch_of<row_gradients<T>>(p);
    if (tasks.keys > 0) work.slot_bytes = std::max(work.slot_bytes, tile::scratch_of<key_gradients<T>>(p));
    heed::detail::arena counted;
    static_cast<void>(saved_rows<T>(p, counted));
    work.shared_bytes = counted.used();
    return work;
  }

  void describe(plan& out) const {
    out.path = p.knows_slope() || p.opt.solver == solver::automatic ? "local_linear: rows, then keys" : "";
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    heed::detail::arena shared({memory.shared(), work.shared_bytes}, work.shared_bytes);
    const saved_rows<T> saved(p, shared);
    const cut tasks = cut_of();
    tally all;
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    tile::run_tasks(tasks.rows, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      row_gradients<T> mine(p, scratch);
      sequence_tasks<T, row_count> list(p, {this});
      claim([&](index_t task) {
        list.visit(task, [&](const pairwise::sequence& s, index_t number) { run_rows(mine, s, number, saved); });
      });
      while (busy.test_and_set(std::memory_order_acquire)) {
      }
      all.add(mine.counts());
      busy.clear(std::memory_order_release);
    });
    tile::run_tasks(tasks.keys, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      key_gradients<T> mine(p, scratch);
      sequence_tasks<T, key_count> list(p, {this});
      claim([&](index_t task) {
        list.visit(task, [&](const pairwise::sequence& s, index_t number) {
          mine.run(s, number % p.kv_heads, number / p.kv_heads, saved);
        });
      });
    });
    if (p.wants_ridge()) saved.sum_ridges(p);
    if (p.opt.report != nullptr)
      *p.opt.report = all.report();
    else if (all.unconverged > 0)
      fail_to_converge(all, p.opt.tolerance);
  }

 private:
  struct cut {
    index_t rows = 0, keys = 0;
  };
  struct row_count {
    const backward_call* call;
    index_t operator()(const pairwise::sequence& s) const { return call->row_tasks(s); }
  };
  struct key_count {
    const backward_call* call;
    index_t operator()(const pairwise::sequence& s) const { return call->key_tasks(s); }
  };

  index_t row_tasks(const pairwise::sequence& s) const {
    return p.heads == 0 ? 0 : p.kv_heads / p.repeat * tiles_of<T>(p.rows(s));
  }
  index_t key_tasks(const pairwise::sequence& s) const {
    return !p.has_key_pass() || p.heads == 0 ? 0 : p.kv_heads * key_gradients<T>::tiles(s.keys);
  }
  cut cut_of() const {
    cut out;
    for (index_t number = 0; number < p.sequences(); ++number) {
      const pairwise::sequence s = p.sequence_at(number);
      out.rows += row_tasks(s), out.keys += key_tasks(s);
    }
    return out;
  }

  // The last tiles come first: under causal masks they are the longest.
  void run_rows(row_gradients<T>& mine, const pairwise::sequence& s, index_t number, const saved_rows<T>& saved) const {
    const index_t tiles = tiles_of<T>(p.rows(s)), head = number / tiles, tile = tiles - 1 - number % tiles;
    for (index_t i = 0; i < p.repeat; ++i)
      mine.run(s, head * p.repeat + i, tile, saved, i == 0, i + 1 == p.repeat);
  }
};

template <class Q, class K, class V, class D>
backward_call<acc_of<Q>> call_of_backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
                                          const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  backward_call<acc_of<Q>> c{{opt, wanted, rows_of_gradients(q, k, v, dout)}};
  c.p.ridge = ridge;
  return c;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Says what backward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable D>
plan plan_backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
                   const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt = {},
                   const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  return tile::plan_call(detail::call_of_backward(q, k, v, ridge, dout, wanted, opt), context);
}

// Gradients.
template <viewable Q, viewable K, viewable V, viewable D>
void backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
              const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  tile::run_call(detail::call_of_backward(q, k, v, ridge, dout, wanted, opt), context);
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
