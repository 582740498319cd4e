// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <optional>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/score_function.hpp"
#include "heed/core/view.hpp"

namespace heed::softmax {

// B batch, H the larger of the query and key/value head counts, N queries, M keys. The same object serves forward,
// decode, backward and the reference. Acc is double for double inputs, else float.
// Scores, in this order: scale, softcap, alibi_slopes, bias, score, mask.
template <class Acc = float> struct options {
  heed::mask mask = {};  // every key visible
  alignment align = bottom_right;
  std::optional<double> scale = {};     // 1/sqrt(D); 0 is a legal scale
  double softcap = 0;                   // s -> softcap * tanh(s / softcap); 0: off
  per_head alibi_slopes = {};           // >= 0; adds -slope * |place - key|
  tensor_view<const Acc, 4> bias = {};  // (B|1, H|1, N|1, M|1), added after the soft-cap; -inf hides the key
  score_function<Acc> score = {};       // -inf hides the key
  per_head sink_logits = {};            // joins the denominator and lse; not scaled, not soft-capped. Beyond 2.358e38
                                        // (double: 1.246e308), max / log2(e), of either sign: cut there
  tensor_view<Acc, 3> lse = {};         // (B, H, N), natural log: forward and decode write it, backward reads it
};

// Overwritten, never added to; what is left out is not computed.
template <class Acc = float> struct gradients {
  tensor_view<Acc, 4> dq = {}, dk = {}, dv = {}, dbias = {};  // shapes of q, k, v, bias
  tensor_view<Acc, 1> dsink_logits = {}, dalibi_slopes = {};  // (H)
  tensor_view<const Acc, 3> dlse = {};                        // (B, H, N), incoming
};

}  // namespace heed::softmax
