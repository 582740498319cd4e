// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How backward is cut into tasks, and what is cleared before them.

#include "heed/local_linear/forward.hpp"
#include "heed/local_linear/key_gradients.hpp"
#include "heed/local_linear/row_gradients.hpp"

namespace heed::local_linear::detail {
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
// same numbers of dbias; where pairs of a head do so, all of its keys.
template <class T> class key_tasks {
 public:
  explicit key_tasks(const gradient_problem<T>& p)
      : p_(p),
        all_tiles_(p.wants_pair_bias() && pairwise::pairs_share_numbers(p.dbias)),
        all_sequences_(p.wants_pair_bias() && p.dbias.extent(0) == 1 && (all_tiles_ || !p.packed())),
        all_heads_(p.wants_pair_bias() && p.dbias.extent(1) == 1) {}

  index_t operator()(const pairwise::sequence& s) const {
    if (!p_.has_key_pass() || p_.heads == 0 || (all_sequences_ && s.number > 0)) return 0;
    return (all_tiles_ ? 1 : key_gradients<T>::tiles(s.keys)) * (all_heads_ ? 1 : p_.kv_heads);
  }
  // f(sequence, key/value head, tile) for all of a task
  template <class F> void each(const pairwise::sequence& first, index_t task, F f) const {
    const index_t heads = all_heads_ ? 1 : p_.kv_heads, number = task / heads, head = task % heads;
    for (index_t i = first.number; i < (all_sequences_ ? p_.sequences() : first.number + 1); ++i) {
      const pairwise::sequence s = p_.sequence_at(i);
      const index_t tile = all_tiles_ ? 0 : number, end = all_tiles_ ? key_gradients<T>::tiles(s.keys) : number + 1;
      for (index_t h = head; h < (all_heads_ ? p_.kv_heads : head + 1); ++h)
        for (index_t t = tile; t < end; ++t) f(s, h, t);
    }
  }

 private:
  const gradient_problem<T>& p_;
  bool all_tiles_, all_sequences_, all_heads_;
};

// The row pass: a tile of rows of a query head, or of those that share a key/value head
template <class T> struct row_tasks {
  const gradient_problem<T>& p;

  index_t operator()(const pairwise::sequence& s) const {
    const bool any = p.heads > 0 && (p.wants_adjoint() || p.wants_values());
    return any ? p.kv_heads / p.repeat * tiles_of<T>(p.rows(s)) : 0;
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

  index_t tasks() const { return bias_tasks() + (p_.packed() || p_.heads == 0 ? 1 : 0); }
  void run(index_t task) const {
    if (task == bias_tasks()) return clear_keys(p_.dk), clear_keys(p_.dv);
    const index_t heads = p_.dbias.extent(1), batch = task / heads, head = task % heads;
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

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
