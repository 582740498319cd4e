// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/plan.hpp"
#include "heed/softmax/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/softmax.hpp"
#else
#include "heed/softmax/decode_call.hpp"
#endif

namespace heed::softmax {
inline namespace HEED_ISA {

// Says what decode would do with the same arguments, or why it would throw; never throws itself. workspace_bytes is
// enough for any lengths of this cache.
template <viewable Q, class Cache, viewable O>
  requires heed::detail::cache_argument<Cache>
plan plan_decode(const Q& q, const Cache& cache, const O& o, const options<acc_of<Q>>& opt = {},
                 const context& context = {}) noexcept {
  static_assert(heed::detail::decode_tensors<Q, Cache, O>());
  return detail::with_decode(q, cache, o, opt, [&](auto&& call) { return tile::plan_call(call, context); });
}

// Computes attention of new tokens, whose keys and values are in the cache already: q (B, H, N, D), o (B, max(H, Hk),
// N, E). Query i of a sequence of n tokens is at place n - N + i, or first_place. The mask is that of the options:
// causal() for N > 1 tokens one after the other, keep() for a tree of them; keys are counted in tokens, in a ring too.
// Options as softmax::forward; key_lengths and packed are errors, the cache has its lengths. bias, keep and segments
// have as many keys as the longest sequence, or more. q and o are float or 16-bit, double with a cache of double. A
// cache of std::int8_t holds number * scale. Rows that see nothing: o = 0, lse = -inf. K and V are read once for all
// heads of a group, those of a shared_prefix for all sequences. The keys of long sequences are split into pieces that
// run on the context's executor, with the same bits for any number of workers. Throws heed::error, before anything is
// written, where shapes, lengths, pages or options do not fit. Flash-Decoding (Dao et al., 2023) with ragged pieces as
// in Lean Attention (arXiv 2405.10480).
template <viewable Q, class Cache, viewable O>
  requires heed::detail::cache_argument<Cache>
void decode(const Q& q, const Cache& cache, O&& o, const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  static_assert(heed::detail::decode_tensors<Q, Cache, O>());
  detail::with_decode(q, cache, o, opt, [&](auto&& call) { tile::run_call(call, context); });
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
