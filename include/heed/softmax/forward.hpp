// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/softmax/lanes.hpp"
#include "heed/softmax/problem.hpp"
#include "heed/softmax/rows.hpp"
#include "heed/tile/tasks.hpp"

namespace heed::softmax {
namespace detail {
inline namespace HEED_ISA {

// Fewer rows than this run with the head dim in lanes. bench/softmax_bench.cpp, small-N table.
template <class T> inline constexpr index_t few_rows = rows_driver<T>::most_rows;

// How the rows of a call are cut. Packed sequences are cut one by one, each as a call of its own would be.
struct tiling {
  index_t tasks = 0;
  index_t most_few = 0;  // rows of the longest sequence that runs with the head dim in lanes
  bool many = false;     // some run with queries in lanes
};

template <class T> index_t tasks_per_head(index_t rows) {
  return rows == 0 ? 0 : rows < few_rows<T> ? 1 : tile::query_tile<T>::tiles(rows);
}

template <class T> tiling make_tiling(const problem<T>& p) {
  tiling out;
  if (p.heads == 0) return out;
  const index_t sequences = p.sequences(), different = p.packed() ? sequences : std::min<index_t>(sequences, 1);
  for (index_t s = 0; s < different; ++s) {
    const index_t rows = p.rows(p.sequence_at(s));
    out.tasks += p.kv_heads * tasks_per_head<T>(rows) * (p.packed() ? 1 : sequences);
    if (rows < few_rows<T>)
      out.most_few = std::max(out.most_few, rows);
    else
      out.many = true;
  }
  return out;
}

template <class T> std::size_t slot_bytes(const problem<T>& p, const tiling& cut) {
  heed::detail::arena few, many;
  if (cut.most_few > 0) static_cast<void>(typename rows_driver<T>::scratch(p, cut.most_few, few));
  if (cut.many) static_cast<void>(lanes_driver<T>(p, many));
  return std::max(few.needed(), many.needed());
}

template <class T> plan make_plan(const problem<T>& p, const context& where, index_t workers, tiling& cut) noexcept {
  plan out{};
  if (!check_call(p, out.problem)) return out;
  cut = make_tiling(p);
  const bool few = !cut.many;
  out.isa = HEED_NAME(HEED_LEVEL);
  out.path = few                 ? "softmax: head dim in lanes"
             : cut.most_few == 0 ? "softmax: queries in lanes"
                                 : "softmax: queries in lanes, head dim in lanes for short sequences";
  out.query_tile = few ? cut.most_few : tile::query_tile<T>::most_rows;
  out.key_tile = few ? rows_driver<T>::key_tile : tile::query_tile<T>::most_keys;
  out.chunk = !few && p.scores.any() ? tile::query_tile<T>::chunk : 0;
  out.tasks = cut.tasks;
  const index_t slots = std::min(out.tasks, workers);
  out.workspace_bytes = slots == 0 ? 0 : static_cast<std::size_t>(slots) * slot_bytes(p, cut);
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
  return out;
}

// Which sizes and options chose the path, and what they change in it; for plan_forward alone.
template <class T> void explain(plan& how, const problem<T>& p) {
  using kind = heed::detail::mask_parts;
  heed::detail::message text(how.why);
  const char* before = "";
  const auto name = [&](bool holds, const char* option) {
    if (holds) text << before << option, before = ", ";
  };
  if (how.tasks == 0)
    text << "no rows";
  else if (p.packed())
    text << "packed: each sequence as a call of its own";
  else
    text << p.rows(p.sequence_at(0)) << " rows share keys, queries go in lanes from " << few_rows<T>;
  before = "; scores changed by ";
  name(p.scores.cap != T(0), "softcap"), name(p.scores.slopes.set(), "alibi_slopes");
  name(p.scores.has_bias(), "bias"), name(p.scores.has_function(), "score");
  before = "; tiles cut by ";
  name(p.mask.has(kind::causal), "causal"), name(p.mask.has(kind::window), "window");
  name(p.mask.has(kind::key_lengths), "key_lengths"), name(p.mask.has(kind::prefix_lm), "prefix_lm");
  name(p.mask.has(kind::segments), "segments"), name(p.mask.has(kind::keep), "keep");
  if (p.mask.has(kind::visible_if)) text << "; every pair tested by visible_if";
  if (p.sink_logits.set()) text << "; sums start from sink_logits";
}

template <class T>
void run(const problem<T>& p, const plan& how, const tiling& cut, const context& where, index_t workers) {
  tile::run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    tile::task_list tasks(static_cast<const tile::attention<T>&>(p), &tasks_per_head<T>);
    const auto each_task = [&](auto f) { claim([&](index_t task) { tasks.visit(task, f); }); };
    heed::detail::arena few_scratch(memory, memory.size()), many_scratch(memory, memory.size());  // one at a time
    if (cut.many && cut.most_few > 0) {
      rows_driver<T> few(p, cut.most_few, few_scratch);
      lanes_driver<T> many(p, many_scratch);
      each_task([&](const tile::sequence& s, index_t kv_head, index_t tile) {
        p.rows(s) < few_rows<T> ? few.run(s, kv_head) : many.run(s, kv_head, tile);
      });
    } else if (cut.many) {
      lanes_driver<T> many(p, many_scratch);
      each_task([&](const tile::sequence& s, index_t kv_head, index_t tile) { many.run(s, kv_head, tile); });
    } else {
      rows_driver<T> few(p, cut.most_few, few_scratch);
      each_task([&](const tile::sequence& s, index_t kv_head, index_t) { few.run(s, kv_head); });
    }
  });
}

template <class Q, class K, class V, class O> constexpr bool same_storage() {
  using T = heed::detail::value_t<Q>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "heed: softmax::forward takes float or double q, k, v");
  static_assert(std::is_same_v<T, heed::detail::value_t<K>> && std::is_same_v<T, heed::detail::value_t<V>>,
                "heed: q, k, v have one element type");
  static_assert(std::is_same_v<T, heed::detail::value_t<O>>, "heed: o has the element type of q");
  return true;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const O& o, const options<acc_of<Q>>& opt = {},
                  const context& where = {}) noexcept {
  static_assert(detail::same_storage<Q, K, V, O>());
  using T = heed::detail::value_t<Q>;
  const tensor_view<const T, 4> output(o);  // read-only here, whatever the caller's constness
  const tensor_view<T, 4> o_view(const_cast<T*>(output.data()),
                                 {output.extent(0), output.extent(1), output.extent(2), output.extent(3)},
                                 {output.stride(0), output.stride(1), output.stride(2), output.stride(3)});
  const detail::problem<T> p = detail::make_problem<T>(q, k, v, o_view, opt);
  detail::tiling cut;
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
  static_assert(detail::same_storage<Q, K, V, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  const detail::problem<T> p = detail::make_problem<T>(q, k, v, tensor_view<T, 4>(o), opt);
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  detail::tiling cut;
  const plan how = detail::make_plan(p, where, workers, cut);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  detail::run(p, how, cut, where, workers);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
