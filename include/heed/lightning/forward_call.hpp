// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of lightning::forward.

#include "heed/lightning/problem.hpp"
#include "heed/recurrent/partition.hpp"

namespace heed::lightning::detail {
inline namespace HEED_ISA {

template <class Q, class K, class V, class O>
HEED_INLINE recurrent::chunk_call<acc_of<Q>, kernel> forward_of(const Q& q, const K& k, const V& v,
                                                                const heed::decay<acc_of<Q>>& decay, O& o,
                                                                const options<acc_of<Q>>& opt) {
  return {make_problem(decay, opt, tile::rows_of_call(q, k, v, o))};
}

}  // namespace HEED_ISA
}  // namespace heed::lightning::detail
