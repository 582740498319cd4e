// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/plan.hpp"
#include "heed/mixture_of_head/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/mixture_of_head.hpp"
#else
#include "heed/mixture_of_head/decode_call.hpp"
#endif

namespace heed::mixture_of_head {
inline namespace HEED_ISA {

// Says what decode would do with the same arguments, or why it would throw; never throws itself. workspace_bytes is
// enough for any gates, and for any lengths of this cache.
template <viewable Q, class Cache, viewable G, viewable O>
  requires heed::detail::cache_argument<Cache>
plan plan_decode(const Q& q, const Cache& cache, const G& gates, const O& o, const options<acc_of<Q>>& opt = {},
                 const context& context = {}) noexcept {
  static_assert(heed::detail::decode_tensors<Q, Cache, O>() && heed::detail::summed_elements<Q, G>());
  return detail::with_decode(q, cache, gates, o, opt, [&](auto&& call) { return tile::plan_call(call, context); });
}

// Computes o = gate * softmax attention of new tokens with a cache: softmax::decode, with gates (B, H, N) as
// mixture_of_head::forward has them. A key/value head whose group has no active row is not read; compute follows the
// active rows, bytes hardly do: one active head of a group reads all of its keys. Jin et al., MoH (arXiv 2410.11842).
template <viewable Q, class Cache, viewable G, viewable O>
  requires heed::detail::cache_argument<Cache>
void decode(const Q& q, const Cache& cache, const G& gates, O&& o, const options<acc_of<Q>>& opt = {},
            const context& context = {}) {
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  static_assert(heed::detail::decode_tensors<Q, Cache, O>() && heed::detail::summed_elements<Q, G>());
  detail::with_decode(q, cache, gates, o, opt, [&](auto&& call) { tile::run_call(call, context); });
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head
