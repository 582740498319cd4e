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

// How the key pass is cut: a task has a tile of keys, of one key/value head of one sequence, or of all that add to the
// same numbers of dbias.
template <class T> class key_tasks {
 public:
  explicit key_tasks(const gradient_problem<T>& p)
      : p_(p),
        all_sequences_(p.wants_pair_bias() && p.dbias.extent(0) == 1 && !p.packed()),
        all_heads_(p.wants_pair_bias() && p.dbias.extent(1) == 1) {}

  index_t operator()(const pairwise::sequence& s) const {
    if (!p_.has_key_pass() || p_.heads == 0 || (all_sequences_ && s.number > 0)) return 0;
    return key_gradients<T>::tiles(s.keys) * (all_heads_ ? 1 : p_.kv_heads);
  }
  // f(sequence, key/value head, tile) for all of a task
  template <class F> void each(const pairwise::sequence& s, index_t task, F f) const {
    const index_t heads = all_heads_ ? 1 : p_.kv_heads, tile = task / heads, head = task % heads;
    for (index_t i = s.number; i < (all_sequences_ ? p_.sequences() : s.number + 1); ++i)
      for (index_t h = head; h < (all_heads_ ? p_.kv_heads : head + 1); ++h) f(p_.sequence_at(i), h, tile);
  }

 private:
  const gradient_problem<T>& p_;
  bool all_sequences_, all_heads_;
};

// The row pass: a tile of rows of a query head, or of those that share a key/value head
template <class T> struct row_tasks {
  const gradient_problem<T>& p;

  index_t operator()(const pairwise::sequence& s) const {
    return p.heads == 0 ? 0 : p.kv_heads / p.repeat * tiles_of<T>(p.rows(s));
  }
  // f(key/value head, tile, first of a task, last); the last tiles come first: under causal masks they are the longest.
  template <class F> void each(const pairwise::sequence& s, index_t task, F f) const {
    const index_t tiles = tiles_of<T>(p.rows(s)), head = task / tiles, tile = tiles - 1 - task % tiles;
    for (index_t i = 0; i < p.repeat; ++i) f(head * p.repeat + i, tile, i == 0, i + 1 == p.repeat);
  }
};

// Zeros where no task of the passes writes: dbias, which they add to, and keys of no sequence
template <class T> class cleared_gradients {
 public:
  explicit cleared_gradients(const gradient_problem<T>& p) : p_(p) {}

  index_t tasks() const { return bias_tasks() + 1; }
  void run(index_t task) const {
    if (task == 0) return clear_keys(p_.dk), clear_keys(p_.dv);
    const index_t heads = p_.dbias.extent(1), batch = (task - 1) / heads, head = (task - 1) % heads;
    for (index_t i = 0; i < p_.dbias.extent(2); ++i)
      for (index_t j = 0; j < p_.dbias.extent(3); ++j) p_.dbias(batch, head, i, j) = T(0);
  }

 private:
  index_t bias_tasks() const { return p_.wants_pair_bias() ? p_.dbias.extent(0) * p_.dbias.extent(1) : 0; }
  void clear_keys(const tensor_view<T, 4>& x) const {
    if (x.data() == nullptr) return;
    const index_t first = p_.heads == 0 ? 0 : p_.packed() ? p_.mask.key_offsets.back() : x.extent(2);
    for (index_t b = 0; b < x.extent(0); ++b)
      for (index_t h = 0; h < x.extent(1); ++h)
        for (index_t j = first; j < x.extent(2); ++j) std::fill(&x(b, h, j, 0), &x(b, h, j, 0) + x.extent(3), T(0));
  }

  const gradient_problem<T>& p_;
};

template <class T> struct backward_call {
  gradient_problem<T> p;

  void check(heed::detail::checker& check) const { check_gradient_call(check, p); }

  tile::workload measure(index_t) const {
    tile::workload work;
    const index_t rows = count(row_tasks<T>{p}), keys = count(key_tasks<T>(p));
    work.tasks = std::max({rows, keys, cleared_gradients<T>(p).tasks()});
    if (rows > 0) work.slot_bytes = tile::scratch_of<row_gradients<T>>(p);
    if (keys > 0) work.slot_bytes = std::max(work.slot_bytes, tile::scratch_of<key_gradients<T>>(p));
    heed::detail::arena counted;
    static_cast<void>(saved_rows<T>(p, counted));
    work.shared_bytes = counted.used();
    return work;
  }

  void describe(plan& out) const {
    const index_t rows = count(row_tasks<T>{p}), keys = count(key_tasks<T>(p));
    out.path = keys > 0 ? "local_linear: backward by rows, then by keys" : "local_linear: backward by rows";
    out.query_tile = row_gradients<T>::lanes, out.key_tile = key_gradients<T>::most_keys;
    out.tasks = rows + keys;
    heed::detail::message text(out.why);
    if (out.tasks == 0) text << "no rows";
    else text << rows << " tasks by rows, " << keys << " by keys";
    pairwise::name_options(text, p);
    tile::name_copies(text, p.k, true, p.v);
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    heed::detail::arena shared({memory.shared(), work.shared_bytes}, work.shared_bytes);
    const saved_rows<T> saved(p, shared);
    const cleared_gradients<T> cleared(p);
    tile::run_tasks(cleared.tasks(), work.slots, memory, executor,
                    [&](std::span<std::byte>, auto claim) { claim([&](index_t task) { cleared.run(task); }); });
    const tally all = run_rows(work, memory, executor, saved);
    run_keys(work, memory, executor, saved);
    if (p.wants_ridge()) saved.sum_ridges(p);
    if (p.wants_row_bias()) saved.sum_biases(p);
    if (p.opt.report != nullptr)
      *p.opt.report = all.report();
    else if (all.unconverged > 0)
      fail_to_converge(all, p.opt.tolerance);
  }

 private:
  template <class Tasks> index_t count(const Tasks& tasks) const {
    index_t all = 0;
    for (index_t number = 0; number < p.sequences(); ++number) all += tasks(p.sequence_at(number));
    return all;
  }

  tally run_rows(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor,
                 const saved_rows<T>& saved) const {
    const row_tasks<T> tasks{p};
    tally all;
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    tile::run_tasks(count(tasks), work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      row_gradients<T> mine(p, scratch);
      sequence_tasks<T, row_tasks<T>> list(p, tasks);
      claim([&](index_t task) {
        list.visit(task, [&](const pairwise::sequence& s, index_t number) {
          tasks.each(s, number, [&](index_t kv_head, index_t tile, bool first, bool last) {
            mine.run(s, kv_head, tile, saved, first, last);
          });
        });
      });
      while (busy.test_and_set(std::memory_order_acquire)) {
      }
      all.add(mine.counts());
      busy.clear(std::memory_order_release);
    });
    return all;
  }

  void run_keys(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor,
                const saved_rows<T>& saved) const {
    const key_tasks<T> tasks(p);
    tile::run_tasks(count(tasks), work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      key_gradients<T> mine(p, scratch);
      sequence_tasks<T, key_tasks<T>> list(p, tasks);
      claim([&](index_t task) {
        list.visit(task, [&](const pairwise::sequence& first, index_t number) {
          tasks.each(first, number, [&](const pairwise::sequence& s, index_t kv_head, index_t tile) {
            mine.run(s, kv_head, tile, saved);
          });
        });
      });
    });
  }
};

template <class Q, class K, class V, class D>
backward_call<acc_of<Q>> call_of_backward(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
                                          const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  backward_call<acc_of<Q>> c{{opt, wanted, rows_of_backward(q, k, v, dout)}};
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
