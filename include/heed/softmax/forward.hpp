// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/softmax/lanes.hpp"
#include "heed/softmax/problem.hpp"
#include "heed/softmax/rows.hpp"

namespace heed::softmax {
namespace detail {
inline namespace HEED_ISA {

// Fewer rows than this run with the head dim in lanes. bench/softmax_bench.cpp, small-N table.
template <class T> inline constexpr index_t few_rows = simd::width<T> < 8 ? 8 : simd::width<T>;

template <class T, template <class> class Driver> std::size_t slot_bytes(const problem<T>& p) {
  heed::detail::arena count;
  Driver<T> driver(p, count);
  return count.needed();
}

template <class T> plan make_plan(const problem<T>& p, const context& where, index_t workers) noexcept {
  plan out{};
  if (!check_call(p, out.problem)) return out;
  const bool few = p.rows < few_rows<T>;
  out.isa = HEED_NAME(HEED_LEVEL);
  out.path = few ? "softmax: head dim in lanes" : "softmax: queries in lanes";
  out.query_tile = few ? p.rows : lanes_driver<T>::query_tile;
  out.key_tile = few ? rows_driver<T>::key_tile : lanes_driver<T>::key_tile;
  const index_t tiles = few ? (p.rows > 0 ? 1 : 0) : lanes_driver<T>::tiles(p);
  out.tasks = p.batch * p.kv_heads * (p.query_heads > 0 ? tiles : 0);
  const index_t slots = std::min(out.tasks, workers);
  const std::size_t each = slots == 0 ? 0 : few ? slot_bytes<T, rows_driver>(p) : slot_bytes<T, lanes_driver>(p);
  out.workspace_bytes = static_cast<std::size_t>(slots) * each;
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
  return out;
}

// Tasks are (batch, key/value head, tile of rows), the last tiles first: under causal masks they are the longest.
template <class T> void run(const problem<T>& p, const plan& how, const context& where, index_t workers) {
  if (how.tasks == 0) return;
  const index_t slots = std::min(how.tasks, workers);
  const bool few = p.rows < few_rows<T>;
  const std::size_t each = how.workspace_bytes / static_cast<std::size_t>(slots);
  heed::detail::arena memory(where.workspace, how.workspace_bytes);
  std::byte* const base =
      memory.take<std::byte>(static_cast<index_t>(how.workspace_bytes - heed::detail::arena::alignment));
  const index_t tiles = how.tasks / (p.batch * p.kv_heads);
  std::atomic<index_t> next{0};
  auto work = [&](index_t slot) noexcept {
    std::byte* const mine =
        base + static_cast<std::size_t>(slot) * (each - heed::detail::arena::alignment);  // aligned: needs no slack
    heed::detail::arena scratch({mine, each}, each);
    const auto claim = [&] { return next.fetch_add(1, std::memory_order_relaxed); };
    if (few) {
      rows_driver<T> driver(p, scratch);
      for (index_t t = claim(); t < how.tasks; t = claim()) driver.run(t / p.kv_heads, t % p.kv_heads);
    } else {
      lanes_driver<T> driver(p, scratch);
      for (index_t t = claim(); t < how.tasks; t = claim()) {
        const index_t head = t / tiles, first = (tiles - 1 - t % tiles) * lanes_driver<T>::query_tile;
        driver.run(head / p.kv_heads, head % p.kv_heads, first, std::min(lanes_driver<T>::query_tile, p.rows - first));
      }
    }
  };
  where.executor.run(slots, work);
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
  return detail::make_plan(detail::make_problem<T>(q, k, v, o_view, opt), where, where.executor.concurrency());
}

// o = softmax(scale q k^T + masks) v.
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
  const plan how = detail::make_plan(p, where, workers);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  detail::run(p, how, where, workers);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
