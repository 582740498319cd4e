// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Mixture-of-head attention.
//
//   o_hi = gate_hi sum_j p_hij v_j,   p_hi = softmax over the visible j of score(scale q_hi . k_j)
//
// Rows whose gate is 0 are not computed: what remains of the heads that share a key/value head is gathered into tiles
// of softmax's drivers, each lane with its own place for masks and score steps, and scattered from there. Time follows
// the active rows: K and V are read by every tile, once for all its rows, and not at all where no row is active.

#include <limits>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/mixture_of_head/active_rows.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::mixture_of_head {
namespace detail {
inline namespace HEED_ISA {

template <class T> void check_call(heed::detail::checker& check, const problem<T>& p) {
  check.require(p.query_heads == 0 || (p.kv_heads > 0 && p.query_heads % p.kv_heads == 0), "q has ", p.query_heads,
                " heads, k has ", p.kv_heads, ", q's must be a multiple of k's");
  pairwise::check_softmax(check, p);
  check.tensor("gates", p.gates, false);
  check.equal("gates", p.gates.extent(0), "q", p.q.extent(0), "batch");
  check.equal("gates", p.gates.extent(1), "q", p.q.extent(1), "heads");
  check.equal("gates", p.gates.extent(2), "q", p.q.extent(2), "queries");
  check.distinct("o", p.o, "gates", p.gates);
  if (p.lse.data() != nullptr) check.distinct("lse", p.lse, "gates", p.gates);
}

// What a call needs, whatever its gates are
struct sizes {
  pairwise::softmax_cut cut;   // drivers and scratch; tasks: as many as there can be
  std::size_t driver = 0;  // bytes of one
};

template <class T> sizes make_sizes(const problem<T>& p) {
  sizes out;
  pairwise::each_size<T>(p, [&](const pairwise::sequence& s, index_t count) {
    out.cut.add(pairwise::row_cut<T>{p.rows(s)}, count);
    // it may be that few are active
    out.cut.most_few = std::max(out.cut.most_few, std::min(p.rows(s), pairwise::few_rows<T> - 1));
  });
  out.driver = pairwise::softmax_driver<T>::bytes(p, out.cut);
  return out;
}

// Memory of a call: the number of active rows of each key/value head, then one piece for each worker
struct memory {
  index_t* active;
  std::span<std::byte> drivers;

  memory(heed::detail::arena& from, index_t pairs, index_t slots, std::size_t driver)
      : active(from.take<index_t>(pairs)) {
    const std::size_t all = static_cast<std::size_t>(slots) * driver;
    drivers = {from.take<std::byte>(static_cast<index_t>(all)), all};
  }
};

template <class T> plan make_plan(const problem<T>& p, const context& where, index_t workers, sizes& size) noexcept {
  plan out{};
  heed::detail::checker check(out.problem);
  check_call(check, p);
  if (!check.ok()) return out;
  size = make_sizes(p);
  if (size.cut.tasks > 0) {
    const index_t slots = std::min(size.cut.tasks, workers);
    constexpr index_t most = std::numeric_limits<index_t>::max() / 32 + 1;
    check.require(p.pairs() <= most, "k has ", p.pairs(), " heads in all batches, must have at most ", most);
    if (check.ok()) static_cast<void>(heed::detail::scratch_bytes(out.problem, slots, size.driver));
    if (!out.ok()) return out;
    heed::detail::arena counted;
    memory(counted, p.pairs(), slots, size.driver);
    out.workspace_bytes = counted.needed();
  }
  out.isa = HEED_NAME(HEED_LEVEL);
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
  return out;
}

// What the gates make of a call: the tasks, and for plan_forward why they are so many. Reads all gates.
template <class T> void explain(plan& how, const problem<T>& p) {
  constexpr index_t w = simd::width<T>, most_rows = pairwise::score_tiles<T>::most_rows;
  index_t rows = 0, active = 0, tiles = 0, lanes = 0, in_lanes = 0, few = 0, unused = 0;
  for (index_t pair = 0; !p.gates.empty() && pair < p.pairs(); ++pair) {
    const pairwise::sequence s = p.sequence_at(pair / p.kv_heads);
    const index_t count = count_active(p, s, pair % p.kv_heads);
    rows += p.rows(s), active += count;
    how.tasks += tasks_of<T>(count, p.rows(s));
    if (count == 0) {
      unused += p.rows(s) > 0 ? 1 : 0;
    } else if (pairwise::row_cut<T>{count}.few()) {
      ++few;
    } else {
      in_lanes += count, tiles += pairwise::row_cut<T>{count}.tasks();
      lanes += count / most_rows * most_rows + (count % most_rows + w - 1) / w * w;
    }
  }
  how.path = tiles > 0 ? few > 0 ? "mixture_of_head: active queries in lanes, head dim in lanes where they are few"
                                 : "mixture_of_head: active queries in lanes"
             : few > 0 ? "mixture_of_head: head dim in lanes"
                       : "mixture_of_head: nothing active";
  how.query_tile = tiles > 0 ? most_rows : few > 0 ? pairwise::few_rows<T> - 1 : 0;
  how.key_tile = tiles > 0 ? pairwise::score_tiles<T>::most_keys : few > 0 ? pairwise::dims_in_lanes<T>::most_keys : 0;
  how.chunk = tiles > 0 && p.scores.any() ? pairwise::score_tiles<T>::score_block : 0;
  heed::detail::message text(how.why);
  text << active << " of " << rows << " rows active";
  if (tiles > 0) text << "; " << tiles << " tiles, " << in_lanes << " of " << lanes << " lanes filled";
  if (few > 0) text << "; few in " << few << " key/value heads of all sequences";
  if (unused > 0) text << "; none in " << unused;
  pairwise::name_options(text, static_cast<const pairwise::softmax_problem<T>&>(p));
  if (tiles > 0) tile::name_copies(text, p.k, false, p.v);
}

template <class T>
void run(const problem<T>& p, const plan& how, const sizes& size, const context& where, index_t workers) {
  if (size.cut.tasks == 0) return;
  heed::detail::arena all(where.workspace, how.workspace_bytes);
  const memory at(all, p.pairs(), std::min(size.cut.tasks, workers), size.driver);
  plan tasks{};
  for (index_t pair = 0; pair < p.pairs(); ++pair) {
    const pairwise::sequence s = p.sequence_at(pair / p.kv_heads);
    at.active[pair] = count_active(p, s, pair % p.kv_heads);
    tasks.tasks += tasks_of<T>(at.active[pair], p.rows(s));
  }
  tasks.workspace_bytes = static_cast<std::size_t>(std::min(tasks.tasks, workers)) * size.driver;
  const context inner{.executor = where.executor, .workspace = at.drivers};
  tile::run_tasks(tasks, inner, workers, [&](std::span<std::byte> scratch, auto claim) {
    pairwise::softmax_driver<T> driver(p, size.cut, scratch);
    row_finder<T> finder(p, at.active);
    claim([&](index_t task) {
      finder.find(task);
      if (finder.rows().count > 0)
        driver.run(finder.sequence(), finder.kv_head(), finder.rows(), finder.cut().few(), finder.gates());
    });
  });
}

template <class T>
problem<T> make_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                        tensor_view<const T, 3> gates, tensor_view<T, 4> o, const options<T>& opt, unsigned one_axis) {
  return {pairwise::make_softmax_problem<T>(q, k, v, o, opt, one_axis), heed::detail::settled(gates)};
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What forward would do with the same arguments, or why it would throw; never throws itself. Tasks, path and why say
// what these gates make of it; the workspace is enough for any gates of this shape.
template <viewable Q, viewable K, viewable V, viewable G, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const G& gates, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& where = {}) noexcept {
  static_assert(pairwise::attention_storage<Q, K, V, O>() && pairwise::attention_types<Q, G>());
  using T = heed::detail::value_t<Q>;
  const detail::problem<T> p = detail::make_problem<T>(q, k, v, gates, pairwise::as_output<T>(o), opt,
                                                       heed::detail::one_axis<Q, K, V, O>);
  detail::sizes size;
  plan how = detail::make_plan(p, where, where.executor.concurrency(), size);
  if (how.ok()) detail::explain(how, p);
  return how;
}

// o = gate * softmax attention, head by head; what has gate 0 (of either sign) is not computed: o = 0, lse = -inf, and
// its q is not read. A gate of NaN is active. q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), gates (B, H, N) in any
// strides, o (B, H, N, E); H is a multiple of Hk. options::lse is that of the head, without its gate. Masks, options
// and errors as softmax::forward; with all gates 1 its bits too. Jin et al., MoH (arXiv 2410.11842).
template <viewable Q, viewable K, viewable V, viewable G, viewable O>
void forward(const Q& q, const K& k, const V& v, const G& gates, O&& o, const options<acc_of<Q>>& opt = {},
             const context& where = {}) {
  static_assert(pairwise::attention_storage<Q, K, V, O>() && pairwise::attention_types<Q, G>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  const detail::problem<T> p = detail::make_problem<T>(q, k, v, gates, tensor_view<T, 4>(o), opt,
                                                       heed::detail::one_axis<Q, K, V, O>);
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  detail::sizes size;
  const plan how = detail::make_plan(p, where, workers, size);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  detail::run(p, how, size, where, workers);
}

// A pointer in place of a tensor
template <class Q, class K, class V, class O, class G, class Options = options<>>
  requires heed::detail::any_pointer<Q, K, V, O>
void forward(const Q&, const K&, const V&, const G&, const O&, const Options& = {}, const context& = {}) {
  static_assert(!heed::detail::any_pointer<Q, K, V, O>,
                "heed: a pointer has no shape: give a view, heed::bhsd(pointer, batch, heads, seq, dim)");
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head
