// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/state.hpp"
#include "heed/lightning/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/lightning.hpp"
#else
#include "heed/lightning/decode_call.hpp"
#endif

namespace heed::lightning {
inline namespace HEED_ISA {

// Says what decode would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_decode(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, state_view<acc_of<Q>> memory,
                 const O& o, const options<acc_of<Q>>& opt = {}, const context& context = {}) noexcept {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return tile::plan_call(detail::decode_of(q, k, v, decay, memory, o, opt), context);
}

// N new tokens after those that memory holds: o_i as forward would give it for the whole sequence, memory (s: B, heads
// of the decay, D, E, unit stride on the last axis) is read and left after the last of them. Shapes and decay as in
// forward; opt.chunk, opt.initial_state and opt.final_state are not used. A token costs O(D E) per head, and no scratch
// up to D = 512. Token by token, the same bits however many a call brings: dozens at once are faster by forward, with
// memory as both of its states.
template <viewable Q, viewable K, viewable V, viewable O>
void decode(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, state_view<acc_of<Q>> memory, O&& o,
            const options<acc_of<Q>>& opt = {}, const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  tile::run_call(detail::decode_of(q, k, v, decay, memory, o, opt), context);
}

}  // namespace HEED_ISA
}  // namespace heed::lightning
