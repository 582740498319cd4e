// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Mixture-of-head attention.
//
//   o_hi = gate_hi sum_j p_hij v_j,   p_hi = softmax over the visible j of score(scale q_hi . k_j)
//
// Rows whose gate is 0 are not computed: what remains of the heads that share a key/value head is gathered into tiles
// of softmax's drivers, each lane with its own place for masks and score mods, and scattered from there. Time follows
// the active rows: K and V are read by every tile, once for all its rows, and not at all where no row is active.

#include <algorithm>
#include <limits>

#include "heed/mixture_of_head/active_rows.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/tile/verb.hpp"

namespace heed::mixture_of_head::detail {
inline namespace HEED_ISA {

template <class T> struct forward_call {
  problem<T> p;
  pairwise::softmax_cut cut = {};

  void check(heed::detail::checker& check) const {
    check_heads(check, p);
    pairwise::check_softmax(check, p);
    check_gates(check, p);
    constexpr index_t most = std::numeric_limits<index_t>::max() / 32 + 1;
    check.require(p.q.extent(2) == 0 || p.pairs() <= most, "k has % heads in all batches, must have at most %",
                  p.pairs(), most);
  }

  // Enough for any gates: how many rows are active is counted when the call runs.
  tile::workload measure(index_t) {
    pairwise::each_size<T>(p, [&](const pairwise::sequence& s, index_t count) {
      const index_t rows = p.rows(s);
      cut.add(pairwise::row_cut<T>(p, rows), count);
      cut.most_few = std::max(cut.most_few, std::min(rows, pairwise::few_rows<T> - 1));  // few may be active
    });
    if (cut.tasks == 0) return {};
    using driver = pairwise::softmax_driver<T>;
    return {.tasks = cut.tasks,
            .shared_bytes = driver::shared_bytes(p, cut) + count_bytes(),
            .slot_bytes = driver::bytes(p, cut)};
  }

  // Of the counts of active rows, behind what the drivers share
  std::size_t count_bytes() const {
    heed::detail::arena counts;
    counts.take<index_t>(p.pairs());
    return counts.used();
  }

  // Says what the gates make of a call: the tasks, and why they are so many. Reads all gates.
  void describe(plan& out) const {
    const index_t w = p.on_unit == nullptr ? simd::width<T> : p.on_unit->lane_multiple;
    const index_t most_rows = pairwise::most_rows_of(p);
    index_t rows = 0, active = 0, tiles = 0, lanes = 0, in_lanes = 0, few = 0, unused = 0, most_few = 0;
    out.tasks = 0;
    for (index_t pair = 0; !p.gates.empty() && pair < p.pairs(); ++pair) {
      const pairwise::sequence s = p.sequence_at(pair / p.kv_heads);
      const index_t count = count_active(p, s, pair % p.kv_heads);
      rows += p.rows(s), active += count;
      out.tasks += tasks_of(p, count, p.rows(s));
      if (count == 0) {
        unused += p.rows(s) > 0 ? 1 : 0;
      } else if (pairwise::row_cut<T>(p, count).few()) {
        ++few, most_few = std::max(most_few, count);
      } else {
        in_lanes += count, tiles += pairwise::row_cut<T>(p, count).tasks();
        lanes += count / most_rows * most_rows + (count % most_rows + w - 1) / w * w;
      }
    }
    const bool on_unit = tiles > 0 && p.on_unit != nullptr;
    out.path = on_unit     ? p.on_unit->mixture_path.data()
               : tiles > 0 ? few > 0 ? "mixture_of_head: active queries in lanes, head dim in lanes where they are few"
                                     : "mixture_of_head: active queries in lanes"
               : few > 0   ? "mixture_of_head: head dim in lanes"
                           : "mixture_of_head: nothing active";
    out.query_tile = tiles > 0 ? most_rows : few > 0 ? pairwise::few_rows<T> - 1 : 0;
    out.key_tile = tiles > 0 ? pairwise::most_keys_of(p)
                   : few > 0 ? pairwise::dims_in_lanes<T>::tile_keys(most_few)
                             : 0;
    out.chunk = tiles > 0 && p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
    heed::detail::message text(out.why);
    text << active << " of " << rows << " rows active";
    if (tiles > 0) text << "; " << tiles << " tiles, " << in_lanes << " of " << lanes << " lanes filled";
    if (few > 0) text << "; few in " << few << " key/value heads of all sequences";
    if (unused > 0) text << "; none in " << unused;
    pairwise::name_options(text, static_cast<const pairwise::softmax_problem<T>&>(p));
    if (on_unit) text << "; " << p.on_unit->why;
    if (tiles > 0 && !on_unit) tile::name_copies(text, p.k, false, p.v);
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    if (work.tasks == 0) return;
    using driver_type = pairwise::softmax_driver<T>;
    driver_type::clear(p, cut, memory.shared());
    // rows of each key/value head
    auto* const active = reinterpret_cast<index_t*>(memory.shared() + driver_type::shared_bytes(p, cut));
    index_t tasks = 0;
    for (index_t pair = 0; pair < p.pairs(); ++pair) {
      const pairwise::sequence s = p.sequence_at(pair / p.kv_heads);
      active[pair] = count_active(p, s, pair % p.kv_heads);
      tasks += tasks_of(p, active[pair], p.rows(s));
    }
    tile::run_tasks(tasks, work.slots, memory, executor, [&](std::span<std::byte> scratch, auto claim) {
      driver_type driver(p, cut, scratch, memory.shared());
      row_finder<T> finder(p, active);
      claim([&](index_t task) {
        finder.find(task);
        if (finder.rows().count > 0)
          driver.run(finder.sequence(), finder.kv_head(), finder.rows(), finder.cut().few(), finder.gates());
      });
    });
  }
};

template <class Q, class K, class V, class G, class O>
HEED_INLINE forward_call<acc_of<Q>> forward_of(const Q& q, const K& k, const V& v, const G& gates, O& o,
                                               const options<acc_of<Q>>& opt) {
  return {{gates, opt, pairwise::rows_of_softmax(q, k, v, o)}};
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head::detail
