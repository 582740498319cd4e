// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of local_linear::forward and apply.

#include <atomic>

#include "heed/core/error.hpp"
#include "heed/local_linear/regression.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/tile/verb.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> index_t tiles_of(index_t rows) { return pairwise::score_tiles<T>::tiles(rows); }

[[noreturn]] HEED_NOINLINE inline void fail_to_converge(const tally& all, double tolerance) {
  heed::detail::problem_text text;
  heed::detail::write(text,
                      "local_linear: % rows did not converge, the largest residual is %, tolerance is % "
                      "(options.report takes it instead of this error)",
                      all.unconverged, all.residual, tolerance);
  heed::detail::fail_to_converge(text.data());
}

// A call of forward, or of apply
template <class T> struct call {
  problem<T> p;

  void check(heed::detail::checker& check) const { check_call(check, p); }

  tile::workload measure(index_t) const {
    tile::workload work;
    pairwise::each_size<T>(
        p, [&](const pairwise::sequence& s, index_t count) { work.tasks += count * tiles_of<T>(p.rows(s)); });
    if (work.tasks > 0) work.slot_bytes = tile::scratch_of<lanes_driver<T>>(p);
    return work;
  }

  void describe(plan& out) const {
    out.path = !p.solves                           ? "local_linear: slopes given"
               : p.opt.solver == solver::direct    ? "local_linear: direct"
               : p.opt.solver == solver::automatic ? "local_linear: conjugate gradients, direct where they fail"
                                                   : "local_linear: conjugate gradients";
    out.query_tile = lanes_driver<T>::lanes, out.key_tile = pairwise::score_tiles<T>::most_keys;
    out.chunk = p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
    heed::detail::message text(out.why);
    const index_t keys = p.k.extent(2), kept = tile_weights<T>::kept_keys;
    if (out.tasks == 0)
      text << "no rows";
    else if (keys <= kept)
      text << "weights of all " << keys << " keys kept";
    else
      text << "weights of the first " << kept << " keys that a tile sees kept, others computed in every pass";
    if (p.solves && p.opt.solver == solver::automatic && p.d >= 4)
      text << "; tiles of up to " << p.d / 4 << " keys solved directly at once";
    pairwise::name_options(text, p);
    tile::name_copies(text, p.k, true, p.v);
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    tally all;
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte> bytes, auto claim) {
      heed::detail::arena scratch(bytes, bytes.size());
      lanes_driver<T> mine(p, scratch);
      pairwise::task_list tasks(static_cast<const pairwise::attention<T>&>(p), &tiles_of<T>);
      claim([&](index_t task) {
        tasks.visit(
            task, [&](const pairwise::sequence& s, index_t kv_head, index_t number) { mine.run(s, kv_head, number); });
      });
      while (busy.test_and_set(std::memory_order_acquire)) {
      }
      all.add(mine.counts());
      busy.clear(std::memory_order_release);
    });
    if (!p.solves) return;
    if (p.opt.report != nullptr)
      *p.opt.report = all.report();
    else if (all.unconverged > 0)
      fail_to_converge(all, p.opt.tolerance);
  }
};

template <class T> call<T> forward_call(const options<T>& opt, const tile::call_rows<T>& x, const per_head& ridge) {
  call<T> c{{opt, x}};
  c.p.ridge = ridge;
  return c;
}
template <class T>
call<T> apply_call(const options<T>& opt, const tile::call_rows<T>& x, const tensor_view<const T, 4>& slope) {
  call<T> c{{opt, x}};
  c.p.given = slope, c.p.solves = false;
  return c;
}

template <class Q, class K, class V, class O>
HEED_INLINE call<acc_of<Q>> forward_of(const Q& q, const K& k, const V& v, const per_head& ridge, O& o,
                                       const options<acc_of<Q>>& opt) {
  return forward_call<acc_of<Q>>(opt, tile::rows_of_call(q, k, v, o), ridge);
}
template <class Q, class K, class V, class Y, class O>
HEED_INLINE call<acc_of<Q>> apply_of(const Q& q, const K& k, const V& v, const Y& slope, O& o,
                                     const options<acc_of<Q>>& opt) {
  return apply_call<acc_of<Q>>(opt, tile::rows_of_call(q, k, v, o), slope);
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
