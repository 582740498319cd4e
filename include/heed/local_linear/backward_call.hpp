// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of local_linear::backward.

#include <algorithm>
#include <atomic>

#include "heed/local_linear/forward_call.hpp"
#include "heed/local_linear/gradient_tasks.hpp"
#include "heed/tile/verb.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

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
    const index_t rows = count(row_tasks<T>{p}), keys = count(key_tasks<T>(p)), kept = tile_weights<T>::kept_keys;
    out.path = keys > 0 ? "local_linear: backward by rows, then by keys" : "local_linear: backward by rows";
    out.query_tile = row_gradients<T>::lanes, out.key_tile = key_gradients<T>::most_keys;
    out.chunk = p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
    out.tasks = rows + keys;
    heed::detail::message text(out.why);
    if (out.tasks == 0)
      text << "no rows";
    else
      text << rows << " tiles of rows, " << keys << " of keys";
    if (!p.knows_slope()) text << "; slopes solved for again";
    if (p.k.extent(2) > kept) text << "; weights of the first " << kept << " keys that a tile sees kept";
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

template <class Q, class K, class V, class D>
HEED_INLINE backward_call<acc_of<Q>> backward_of(const Q& q, const K& k, const V& v, const per_head& ridge,
                                                 const D& dout, const gradients<acc_of<Q>>& wanted,
                                                 const options<acc_of<Q>>& opt) {
  return call_of_backward(q, k, v, ridge, dout, wanted, opt);
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
