// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/config.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/state.hpp"
#include "heed/core/view.hpp"

namespace heed::lightning {

// States have as many heads as the decay: one per query head, or one per key/value head. Acc is double for double
// inputs, else float. The same object serves forward, decode, backward and the reference.
template <class Acc = float> struct options {
  heed::mask mask = {};                      // none, key_lengths or packed
  double scale = 1;                          // on the scores
  index_t chunk = 0;                         // tokens, in forward; 0: the cost model chooses
  state_view<const Acc> initial_state = {};  // zeros
  state_view<Acc> final_state = {};          // may be the same memory as initial_state
};

// Overwritten, never added to; what is left out is not computed.
template <class Acc = float> struct gradients {
  tensor_view<Acc, 4> dq = {}, dk = {}, dv = {};
  tensor_view<Acc, 1> dslopes = {};
  tensor_view<Acc, 3> dlog_gates = {};
  state_view<Acc> dinitial_state = {};
  state_view<const Acc> dfinal_state = {};  // incoming
};

}  // namespace heed::lightning
