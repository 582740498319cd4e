// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/softmax/options.hpp"

namespace heed::mixture_of_head {

using softmax::options;  // lse is that of the head, without its gate, and -inf where the gate is 0

// Overwritten, never added to; what is left out is not computed.
template <class Acc = float> struct gradients {
  tensor_view<Acc, 4> dq = {}, dk = {}, dv = {}, dbias = {};  // shapes of q, k, v, bias
  tensor_view<Acc, 3> dgates = {};                            // (B, H, N); 0 where the gate is 0
};

// Of H heads the first `shared` are on for every token; of the other H - shared each token keeps `active`.
struct routing {
  index_t shared = 0, active = 1;
};

}  // namespace heed::mixture_of_head
