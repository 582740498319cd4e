// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of linear::decode.

#include "heed/core/state.hpp"
#include "heed/linear/problem.hpp"
#include "heed/recurrent/decode.hpp"

namespace heed::linear::detail {
inline namespace HEED_ISA {

template <class T, class... Arguments>
recurrent::decode_call<T, kernel> decode_call(const state_view<T>& memory, const Arguments&... x) {
  recurrent::decode_call<T, kernel> call{make_problem(x...)};
  recurrent::decode_in_place(call.p, memory);
  return call;
}

template <class Q, class K, class V, class O>
HEED_INLINE recurrent::decode_call<acc_of<Q>, kernel> decode_of(const Q& q, const K& k, const V& v,
                                                                const state_view<acc_of<Q>>& memory, O& o,
                                                                const options<acc_of<Q>>& opt) {
  return decode_call(memory, opt, tile::rows_of_call(q, k, v, o));
}

}  // namespace HEED_ISA
}  // namespace heed::linear::detail
