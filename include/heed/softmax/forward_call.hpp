// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of softmax::forward.

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/softmax/options.hpp"
#include "heed/tile/verb.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> struct forward_call {
  pairwise::softmax_problem<T> p;
  pairwise::softmax_cut cut = {};

  void check(heed::detail::checker& check) const { pairwise::check_softmax(check, p); }

  // Packed sequences are cut one by one, each as a call of its own would be.
  tile::workload measure(index_t) {
    pairwise::each_size<T>(
        p, [&](const pairwise::sequence& s, index_t count) { cut.add(pairwise::row_cut<T>(p, p.rows(s)), count); });
    using driver = pairwise::softmax_driver<T>;
    return {.tasks = cut.tasks, .shared_bytes = driver::shared_bytes(p, cut), .slot_bytes = driver::bytes(p, cut)};
  }

  void describe(plan& out) const {
    const bool few = !cut.many, on_unit = !few && p.on_unit != nullptr;
    out.path = on_unit             ? p.on_unit->softmax_path.data()
               : few               ? "softmax: head dim in lanes"
               : cut.most_few == 0 ? "softmax: queries in lanes"
                                   : "softmax: queries in lanes, head dim in lanes for short sequences";
    out.query_tile = few ? cut.most_few : pairwise::most_rows_of(p);
    out.key_tile = few ? pairwise::dims_in_lanes<T>::tile_keys(cut.most_few) : pairwise::most_keys_of(p);
    out.chunk = !few && p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
    heed::detail::message text(out.why);
    if (out.tasks == 0)
      text << "no rows";
    else if (p.packed())
      text << "packed: each sequence as a call of its own";
    else
      text << p.rows(p.sequence_at(0)) << " rows share keys, queries go in lanes from " << pairwise::few_rows<T>;
    pairwise::name_options(text, p);
    if (on_unit) text << "; " << p.on_unit->why;
    if (!few && !on_unit) tile::name_copies(text, p.k, false, p.v);
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    pairwise::softmax_driver<T>::clear(p, cut, memory.shared());
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte> scratch, auto claim) {
      pairwise::task_list tasks(static_cast<const pairwise::attention<T>&>(p),
                                [this](index_t count) { return pairwise::row_cut<T>(p, count).tasks(); });
      pairwise::softmax_driver<T> driver(p, cut, scratch, memory.shared());
      pairwise::row_tile rows;
      claim([&](index_t task) {
        tasks.visit(task, [&](const pairwise::sequence& s, index_t kv_head, index_t number) {
          const pairwise::row_cut<T> all(p, p.rows(s));
          rows.take(kv_head, p.group, all.first(number), all.count(number));
          driver.run(s, kv_head, rows, all.few());
        });
      });
    });
  }
};

template <class Q, class K, class V, class O>
HEED_INLINE forward_call<acc_of<Q>> forward_of(const Q& q, const K& k, const V& v, O& o,
                                               const options<acc_of<Q>>& opt) {
  return {{opt, pairwise::rows_of_softmax(q, k, v, o)}};
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
