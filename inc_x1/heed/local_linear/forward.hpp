// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/regression.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/tile/verb.hpp"

namespace heed::local_linear {
namespace detail {
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

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Says what forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const per_head& ridge, const O& o,
                  const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return tile::plan_call(detail::forward_call<acc_of<Q>>(opt, tile::rows_of_call(q, k, v, o), ridge), context);
}

// Computes o_i = sum_j p_j (1 + (k_j - mean) . y_i) v_j: the value at q_i of the linear regression of the values on the
// keys, weighted by the softmax weights p, with a free intercept and `ridge` times the squared slope as penalty. q (B,
// H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E), all double, or each float, bf16 or f16 (k and v
// alike), any strides but unit on the last axis; ridge > 0 in units of |k|^2, one or one for each head of o, infinity
// for softmax attention. A row that sees no key: o = 0, lse = -inf, slope = 0. Hidden keys have no effect, even where
// they hold NaN. Throws heed::error, before anything is written, where shapes or options do not fit; not_converged,
// after o is written, where rows stay above the tolerance and no report is there to say so: with solver::automatic only
// where double itself cannot solve for the ridge, see solver. Local linear attention as in FlashLLA (its README and
// code), centred: docs/kernels/local_linear.md.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const per_head& ridge, O&& o, const options<acc_of<Q>>& opt = {},
             const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  tile::run_call(detail::forward_call<acc_of<Q>>(opt, tile::rows_of_call(q, k, v, o), ridge), context);
}

template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
plan plan_apply(const Q& q, const K& k, const V& v, const Y& slope, const O& o, const options<acc_of<Q>>& opt = {},
                const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>() && heed::detail::summed_elements<Q, Y>());
  return tile::plan_call(detail::apply_call<acc_of<Q>>(opt, tile::rows_of_call(q, k, v, o), slope), context);
}

// Runs the last pass of forward alone, with slopes (B, max(H, Hk), N, D) of the caller's for y: 0 is softmax attention,
// the slopes of forward give its o again, minus a probe is Parallax (arXiv 2605.29157). Writes lse and mean_key where
// options have them; options::slope and those of the solver have no part in it.
template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
void apply(const Q& q, const K& k, const V& v, const Y& slope, O&& o, const options<acc_of<Q>>& opt = {},
           const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>() && heed::detail::summed_elements<Q, Y>());
  tile::run_call(detail::apply_call<acc_of<Q>>(opt, tile::rows_of_call(q, k, v, o), slope), context);
}

// Refuses a pointer in place of a tensor.
template <class Q, class K, class V, class O, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const per_head&, const O&, const Options& = {}, const context& = {}) {
  static_assert(heed::detail::no_pointers<Q, K, V, O>());
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
