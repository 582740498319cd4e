// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/softmax/options.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::softmax {
namespace detail {
inline namespace HEED_ISA {

template <class T> using problem = pairwise::softmax_problem<T>;

// Packed sequences are cut one by one, each as a call of its own would be.
template <class T> pairwise::softmax_cut make_cut(const problem<T>& p) {
  pairwise::softmax_cut cut;
  pairwise::each_size<T>(p, [&](const pairwise::sequence& s, index_t count) {
    cut.add(pairwise::row_cut<T>{p.rows(s)}, count);
  });
  return cut;
}

template <class T>
plan make_plan(const problem<T>& p, const context& where, index_t workers, pairwise::softmax_cut& cut) noexcept {
  plan out{};
  heed::detail::checker check(out.problem);
  pairwise::check_softmax(check, p);
  if (!check.ok()) return out;
  cut = make_cut(p);
  const bool few = !cut.many;
  out.isa = HEED_NAME(HEED_LEVEL);
  out.path = few                 ? "softmax: head dim in lanes"
             : cut.most_few == 0 ? "softmax: queries in lanes"
                                 : "softmax: queries in lanes, head dim in lanes for short sequences";
  out.query_tile = few ? cut.most_few : pairwise::score_tiles<T>::most_rows;
  out.key_tile = few ? pairwise::dims_in_lanes<T>::most_keys : pairwise::score_tiles<T>::most_keys;
  out.chunk = !few && p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
  out.tasks = cut.tasks;
  const index_t slots = std::min(out.tasks, workers);
  out.workspace_bytes =
      slots == 0 ? 0 : heed::detail::scratch_bytes(out.problem, slots, pairwise::softmax_driver<T>::bytes(p, cut));
  if (!out.ok()) return out;
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
  return out;
}

// Which sizes and options chose the path, and what they change in it; for plan_forward alone.
template <class T> void explain(plan& how, const problem<T>& p) {
  heed::detail::message text(how.why);
  if (how.tasks == 0)
    text << "no rows";
  else if (p.packed())
    text << "packed: each sequence as a call of its own";
  else
    text << p.rows(p.sequence_at(0)) << " rows share keys, queries go in lanes from " << pairwise::few_rows<T>;
  pairwise::name_options(text, p);
  if (how.query_tile == pairwise::score_tiles<T>::most_rows) tile::name_copies(text, p.k, false, p.v);
}

template <class T>
void run(const problem<T>& p, const plan& how, const pairwise::softmax_cut& cut, const context& where,
         index_t workers) {
  tile::run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    pairwise::task_list tasks(static_cast<const pairwise::attention<T>&>(p), &pairwise::row_cut<T>::tasks_of);
    pairwise::softmax_driver<T> driver(p, cut, memory);
    pairwise::row_tile rows;
    claim([&](index_t task) {
      tasks.visit(task, [&](const pairwise::sequence& s, index_t kv_head, index_t number) {
        const pairwise::row_cut<T> all{p.rows(s)};
        rows.take(kv_head, p.group, all.first(number), all.count(number));
        driver.run(s, kv_head, rows, all.few());
      });
    });
  });
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& where = {}) noexcept {
  static_assert(pairwise::attention_storage<Q, K, V, O>());
  using T = heed::detail::value_t<Q>;
  const detail::problem<T> p = pairwise::make_softmax_problem<T>(q, k, v, pairwise::as_output<T>(o), opt,
                                                             heed::detail::one_axis<Q, K, V, O>);
  pairwise::softmax_cut cut;
  plan how = detail::make_plan(p, where, where.executor.concurrency(), cut);
  if (how.ok()) detail::explain(how, p);
  return how;
}

// o = softmax(f(scale q k^T) + masks) v, f: soft-cap, ALiBi, bias and a function of the caller's, in this order.
// q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E), float or double, any strides but unit on
// the last axis. One of H, Hk divides the other. A row that sees no key: o = 0, lse = -inf. Hidden keys have no effect,
// even where they hold NaN. Throws heed::error, before anything is written, where shapes or options do not fit.
// Vaswani et al. (arXiv 1706.03762), in one pass as in Milakov and Gimelshein (arXiv 1805.02867).
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, O&& o, const options<acc_of<Q>>& opt = {}, const context& where = {}) {
  static_assert(pairwise::attention_storage<Q, K, V, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  const detail::problem<T> p = pairwise::make_softmax_problem<T>(q, k, v, tensor_view<T, 4>(o), opt,
                                                             heed::detail::one_axis<Q, K, V, O>);
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  pairwise::softmax_cut cut;
  const plan how = detail::make_plan(p, where, workers, cut);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  detail::run(p, how, cut, where, workers);
}

// A pointer in place of a tensor
template <class Q, class K, class V, class O, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const O&, const Options& = {}, const context& = {}) {
  static_assert(!heed::detail::any_pointer<Q, K, V, O>,
                "heed: a pointer has no shape: give a view, heed::bhsd(pointer, batch, heads, seq, dim)");
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
