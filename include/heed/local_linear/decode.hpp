// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/local_linear.hpp"
#else
#include "heed/local_linear/decode_call.hpp"
#endif

namespace heed::local_linear {
inline namespace HEED_ISA {

// Says what decode would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, class Cache, viewable O>
  requires heed::detail::cache_argument<Cache>
plan plan_decode(const Q& q, const Cache& cache, const per_head& ridge, const O& o, const options<acc_of<Q>>& opt = {},
                 const context& context = {}) noexcept {
  static_assert(heed::detail::decode_tensors<Q, Cache, O>());
  return detail::with_decode(q, cache, ridge, o, opt, [&](auto&& call) { return tile::plan_call(call, context); });
}

// Computes local linear attention of new tokens with a cache: forward, with caches, places and masks as
// softmax::decode. The weights of a tile of queries are kept where they fit, so that iterations read K alone; keys are
// not split, one task is the rows of a sequence that share a key/value head.
template <viewable Q, class Cache, viewable O>
  requires heed::detail::cache_argument<Cache>
void decode(const Q& q, const Cache& cache, const per_head& ridge, O&& o, const options<acc_of<Q>>& opt = {},
            const context& context = {}) {
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  static_assert(heed::detail::decode_tensors<Q, Cache, O>());
  detail::with_decode(q, cache, ridge, o, opt, [&](auto&& call) { tile::run_call(call, context); });
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
