// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/state.hpp"
#include "heed/core/view.hpp"

namespace heed::linear {

// States have one head per key/value head and the features of the map: D, or 1 + D + D^2 for taylor. Acc is double for
// double inputs, else float. The same object serves forward, decode, backward and the reference.
template <class Acc = float> struct options {
  heed::mask mask = {};            // none, causal(), key_lengths or packed; any other is an error
  alignment align = bottom_right;  // N and M may differ
  double scale = 1;                // on the scores and on the denominator
  feature_map<Acc> feature = heed::feature::elu_plus_one;
  bool normalize = true;
  double eps = 1e-6;                         // added to the denominator
  index_t chunk = 0;                         // tokens, in forward; 0: the cost model chooses
  state_view<const Acc> initial_state = {};  // zeros
  state_view<Acc> final_state = {};          // may be the same memory as initial_state
};

// Overwritten, never added to; what is left out is not computed.
template <class Acc = float> struct gradients {
  tensor_view<Acc, 4> dq = {}, dk = {}, dv = {};
  state_view<Acc> dinitial_state = {};
  state_view<const Acc> dfinal_state = {};  // incoming
};

}  // namespace heed::linear
