// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A call of backward with softmax weights: rows started, passes, sums finished.

#include "heed/pairwise/gradient_lse.hpp"
#include "heed/pairwise/gradient_sums.hpp"
#include "heed/pairwise/gradient_tasks.hpp"
#include "heed/tile/verb.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> struct gradient_call {
  gradient_problem<T> p;
  gradient_cut cut = {};

  tile::workload measure(index_t workers) {
    cut = cut_gradients(p, workers);
    heed::detail::arena shared;
    static_cast<void>(row_sums<T>(p, shared));
    static_cast<void>(active_list<T>(p, shared));
    const std::size_t tile = tile::scratch_of<gradient_tile<T>>(p, row_sums<T>());
    return {.tasks = std::max({cut.tasks(), gradient_start<T>::tasks(p), gradient_end<T>::tasks(p), lse_tasks()}),
            .shared_bytes = shared.used(),
            .slot_bytes = std::max({tile, tile::scratch_of<gradient_start<T>>(p, row_sums<T>()), lse_bytes()})};
  }

  // Where the caller has not kept lse
  index_t lse_tasks() const { return p.lse.data() == nullptr ? gradient_lse<T>::tasks(p) : 0; }
  std::size_t lse_bytes() const {
    return lse_tasks() == 0 ? 0 : tile::scratch_of<gradient_lse<T>>(p, static_cast<T*>(nullptr), listed_rows<T>());
  }

  void describe(plan& out) const {
    const bool rows = p.has_row_pass(), keys = p.has_key_pass();
    out.path = cut.one_pass   ? "backward: one pass over blocks of keys"
               : rows && keys ? "backward: two passes, by rows and by blocks of keys"
               : rows         ? "backward: by rows"
               : keys         ? "backward: by blocks of keys"
                              : "backward: sums over rows";
    out.query_tile = score_tiles<T>::most_rows, out.key_tile = gradient_tile<T>::block_keys(p);
    out.tasks = cut.tasks() > 0 ? cut.tasks() : gradient_end<T>::tasks(p);
    heed::detail::message text(out.why);
    if (out.tasks == 0)
      text << "no rows";
    else if (cut.tasks() == 0)
      text << "sums over rows alone";
    else
      text << cut.units << " heads of q whose gradients are sums of their own";
    if (p.wants_pair_bias() && (p.dbias.extent(0) < p.q.extent(0) || p.dbias.extent(1) < p.heads))
      text << " (those that share dbias as one)";
    if (lse_tasks() > 0) text << "; lse computed once more, options::lse has none";
    name_options(text, static_cast<const attention<T>&>(p));
    if (p.sink_logits.set()) text << "; sums start from sink_logits";
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    heed::detail::arena shared({memory.shared(), work.shared_bytes}, work.shared_bytes);
    const row_sums<T> sums(p, shared);
    const active_list<T> list(p, shared);
    const auto phase = [&](index_t tasks, auto make) {
      tile::run_tasks(tasks, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
        heed::detail::arena scratch(bytes, bytes.size());
        auto worker = make(scratch);
        claim([&](index_t task) { worker.run(task); });
      });
    };
    phase(gradient_start<T>::tasks(p), [&](auto& scratch) { return gradient_start<T>(p, sums, scratch); });
    if (list.wanted()) phase(list.tasks(), [&](auto&) { return list; });
    phase(lse_tasks(), [&](auto& scratch) { return gradient_lse<T>(p, sums.lse, list.rows(), scratch); });
    phase(cut.tasks(), [&](auto& scratch) { return gradient_worker<T>(p, cut, sums, list.rows(), scratch); });
    phase(gradient_end<T>::tasks(p), [&](auto&) { return gradient_end<T>(p, sums); });
  }
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
