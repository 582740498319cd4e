// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <optional>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/score_function.hpp"
#include "heed/core/view.hpp"

namespace heed::local_linear {

// How C y = q - mean key is solved for the slope y of a query. automatic chooses between the two by the sizes of the
// call and finishes directly, in double, what conjugate gradients leave unconverged: it always converges, short of
// ridge * tolerance below about 1e-15 of the variance of keys of which some are sums of others.
enum class solver { automatic, conjugate_gradient, direct };

// How the solves of a call went. A row is one query of one head.
struct report {
  double max_residual = 0;          // the largest |C y - r| / |r| of all rows, r = q - mean key; see docs on rounding
  double mean_iterations = 0;       // over the rows that ran conjugate gradients
  double mean_tile_iterations = 0;  // over the tiles that did: a tile runs until its last row has converged
  index_t max_iterations = 0;
  index_t unconverged = 0;  // rows whose residual is above the tolerance
  index_t direct_rows = 0;  // rows solved directly
};

// B batch, H the larger of the query and key/value head counts, N queries, M keys, D head dim of keys. The same object
// serves forward, apply, decode, backward and the reference. Acc is double for double inputs, else float.
// Scores, in this order: scale, softcap, alibi_slopes, bias, score, mask.
template <class Acc = float> struct options {
  heed::mask mask = {};  // every key visible
  alignment align = bottom_right;
  std::optional<double> scale = {};     // 1/sqrt(D); 0 is a legal scale
  double softcap = 0;                   // s -> softcap * tanh(s / softcap); 0: off
  per_head alibi_slopes = {};           // >= 0; adds -slope * |place - key|
  tensor_view<const Acc, 4> bias = {};  // (B|1, H|1, N|1, M|1), added after the soft-cap; -inf hides the key
  score_function<Acc> score = {};       // -inf hides the key
  local_linear::solver solver = local_linear::solver::automatic;
  double tolerance = 1e-5;                 // |C y - r| <= tolerance * |r|, 2-norms; see docs on stiff problems
  index_t max_iterations = 64;             // of conjugate gradients
  tensor_view<Acc, 3> lse = {};            // (B, H, N), natural log
  tensor_view<Acc, 4> slope = {};          // (B, H, N, D): y
  tensor_view<Acc, 4> mean_key = {};       // (B, H, N, D): the mean of the visible keys under the softmax weights
  local_linear::report* report = nullptr;  // without one, unconverged rows throw not_converged
};

// Overwritten, never added to; what is left out is not computed.
template <class Acc = float> struct gradients {
  tensor_view<Acc, 4> dq = {}, dk = {}, dv = {}, dbias = {};  // shapes of q, k, v, bias
  tensor_view<Acc, 1> dridge = {};                            // (H)
};

}  // namespace heed::local_linear
