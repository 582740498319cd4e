// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>

#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/regression.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::local_linear {
namespace detail {
inline namespace HEED_ISA {

template <class T> index_t tiles_of(index_t rows) { return pairwise::score_tiles<T>::tiles(rows); }

// Which sizes and options chose the path; for the plans alone.
template <class T> void explain(plan& how, const problem<T>& p) {
  heed::detail::message text(how.why);
  const index_t keys = p.k.extent(2), kept = tile_weights<T>::kept_keys;
  if (how.tasks == 0)
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

template <class T> plan make_plan(const problem<T>& p, const context& where, index_t workers) noexcept {
  plan out{};
  if (!check_call(p, out.problem)) return out;
  out.isa = HEED_NAME(HEED_LEVEL);
  out.path = !p.solves                           ? "local_linear: slopes given"
             : p.opt.solver == solver::direct    ? "local_linear: direct"
             : p.opt.solver == solver::automatic ? "local_linear: conjugate gradients, direct where they fail"
                                                 : "local_linear: conjugate gradients";
  out.query_tile = lanes_driver<T>::lanes, out.key_tile = pairwise::score_tiles<T>::most_keys;
  out.chunk = p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
  pairwise::each_size<T>(
      p, [&](const pairwise::sequence& s, index_t count) { out.tasks += count * tiles_of<T>(p.rows(s)); });
  const index_t slots = std::min(out.tasks, workers);
  if (slots > 0) {
    heed::detail::arena counted;
    static_cast<void>(lanes_driver<T>(p, counted));
    out.workspace_bytes = heed::detail::scratch_bytes(out.problem, slots, counted.needed());
    if (!out.ok()) return out;
  }
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
  return out;
}

[[noreturn]] HEED_NOINLINE inline void fail_to_converge(const tally& all, double tolerance) {
  heed::detail::problem_text text;
  heed::detail::write(text, "local_linear: ", all.unconverged, " rows did not converge, the largest residual is ",
                      all.residual, ", tolerance is ", tolerance, " (options.report takes it instead of this error)");
  heed::detail::fail_to_converge(text.data());
}

template <class T> void call(const problem<T>& p, const context& where) {
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  const plan how = make_plan(p, where, workers);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  tally all;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  tile::run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena scratch(memory, memory.size());
    lanes_driver<T> mine(p, scratch);
    pairwise::task_list tasks(static_cast<const pairwise::attention<T>&>(p), &tiles_of<T>);
    claim([&](index_t task) {
      tasks.visit(task, [&](const pairwise::sequence& s, index_t kv_head, index_t number) {
        mine.run(s, kv_head, number);
      });
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

template <class T, viewable O, viewable Q, viewable K, viewable V>
problem<T> make_problem(const Q& q, const K& k, const V& v, tensor_view<T, 4> o, const options<T>& opt) {
  return {pairwise::make_attention<T, options<T>>(q, k, v, o, opt, heed::detail::one_axis<Q, K, V, O>), opt};
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const per_head& ridge, const O& o,
                  const options<acc_of<Q>>& opt = {}, const context& where = {}) noexcept {
  static_assert(pairwise::attention_storage<Q, K, V, O>());
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T, O>(q, k, v, pairwise::as_output<T>(o), opt);
  p.ridge = ridge;
  plan how = detail::make_plan(p, where, where.executor.concurrency());
  if (how.ok()) detail::explain(how, p);
  return how;
}

// o_i = sum_j p_j (1 + (k_j - mean) . y_i) v_j: the value at q_i of the linear regression of the values on the keys,
// weighted by the softmax weights p, with a free intercept and `ridge` times the squared slope as penalty.
// q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E), float or double, any strides but unit on
// the last axis; ridge > 0 in units of |k|^2, one or one for each head of o, infinity for softmax attention. A row that
// sees no key: o = 0, lse = -inf, slope = 0. Hidden keys have no effect, even where they hold NaN.
// Throws heed::error, before anything is written, where shapes or options do not fit; not_converged, after o is
// written, where rows stay above the tolerance and no report is there to say so: with solver::automatic only where
// double itself cannot solve for the ridge, see solver.
// Local linear attention as in FlashLLA (its README and code), centred: docs/kernels/local_linear.md.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const per_head& ridge, O&& o, const options<acc_of<Q>>& opt = {},
             const context& where = {}) {
  static_assert(pairwise::attention_storage<Q, K, V, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T, O>(q, k, v, tensor_view<T, 4>(o), opt);
  p.ridge = ridge;
  detail::call(p, where);
}

template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
plan plan_apply(const Q& q, const K& k, const V& v, const Y& slope, const O& o, const options<acc_of<Q>>& opt = {},
                const context& where = {}) noexcept {
  static_assert(pairwise::attention_storage<Q, K, V, Y, O>());
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T, O>(q, k, v, pairwise::as_output<T>(o), opt);
  p.given = slope, p.solves = false;
  plan how = detail::make_plan(p, where, where.executor.concurrency());
  if (how.ok()) detail::explain(how, p);
  return how;
}

// The last pass of forward alone, with slopes (B, max(H, Hk), N, D) of the caller's for y: 0 is softmax attention, the
// slopes of forward give its o again, minus a probe is Parallax (arXiv 2605.29157). Writes lse and mean_key where
// options have them; options::slope and those of the solver have no part in it.
template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
void apply(const Q& q, const K& k, const V& v, const Y& slope, O&& o, const options<acc_of<Q>>& opt = {},
           const context& where = {}) {
  static_assert(pairwise::attention_storage<Q, K, V, Y, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T, O>(q, k, v, tensor_view<T, 4>(o), opt);
  p.given = slope, p.solves = false;
  detail::call(p, where);
}

// A pointer in place of a tensor
template <class Q, class K, class V, class O, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const per_head&, const O&, const Options& = {}, const context& = {}) {
  static_assert(!heed::detail::any_pointer<Q, K, V, O>,
                "heed: a pointer has no shape: give a view, heed::bhsd(pointer, batch, heads, seq, dim)");
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
