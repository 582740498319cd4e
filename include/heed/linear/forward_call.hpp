// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of linear::forward.

#include "heed/linear/problem.hpp"
#include "heed/recurrent/partition.hpp"

namespace heed::linear::detail {
inline namespace HEED_ISA {

template <class Q, class K, class V, class O>
HEED_INLINE recurrent::chunk_call<acc_of<Q>, kernel> forward_of(const Q& q, const K& k, const V& v, O& o,
                                                                const options<acc_of<Q>>& opt) {
  return {make_problem(opt, tile::rows_of_call(q, k, v, o))};
}

}  // namespace HEED_ISA
}  // namespace heed::linear::detail
