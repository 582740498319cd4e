// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The reference of softmax's backward, for its tests: a call, and all gradients that it has.

#include <cstddef>
#include <limits>

#include "heed/reference/softmax.hpp"
#include "support/differentiable_call.hpp"

namespace heed_test::softmax_reference {

using options = heed::softmax::options<double>;
using gradients = heed::softmax::gradients<double>;
using call = differentiable_call<options>;
inline constexpr double inf = std::numeric_limits<double>::infinity(),
                        nan_value = std::numeric_limits<double>::quiet_NaN();

// Head counts of either direction, E != D, more keys than queries and the other way round
inline constexpr shape shapes[] = {{2, 4, 2, 5, 7, 3, 4}, {2, 1, 3, 6, 4, 4, 2}};

struct results {
  numbers dq, dk, dv, dbias, dsinks, dslopes;

  explicit results(const call& x)
      : dq(not_written(x.q.size())),
        dk(not_written(x.k.size())),
        dv(not_written(x.v.size())),
        dbias(not_written(x.bias.size())),
        dsinks(not_written(static_cast<std::size_t>(x.s.out_heads()))),
        dslopes(dsinks) {}
  gradients views(const call& x) {
    gradients to{.dq = dense(dq.data(), x.queries().extents()),
                 .dk = dense(dk.data(), x.keys().extents()),
                 .dv = dense(dv.data(), x.values().extents()),
                 .dsink_logits = dsinks,
                 .dalibi_slopes = dslopes,
                 .dlse = x.lse_cotangent()};
    if (!dbias.empty()) to.dbias = dense(dbias.data(), x.bias_extents);
    return to;
  }
};
inline void backward(const call& x, const gradients& to) {
  heed::reference::softmax::backward(x.queries(), x.keys(), x.values(), x.cotangent(), x.cotangent(), to,
                                     x.options);  // o: not read
}
inline results differentiate(const call& x) {
  results r(x);
  backward(x, r.views(x));
  return r;
}

}  // namespace heed_test::softmax_reference
