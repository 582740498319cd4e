// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of the recurrence of chunk_forward.hpp, in two sweeps over the chunks. Nothing of size N F E is stored, for
// gradients of gates N E / 4 numbers at most (sweep_terms.hpp).
//
// Forward sweep: the state S before each chunk is computed again, as in forward. It gives the gradients of the queries,
// and where the kernel normalises, scale / denominator and dout.o of each row, which the reverse sweep needs
// (query_gradients.hpp).
//
// Reverse sweep, from the last token to the first: the gradient R of the state, which begins as that of the final
// state, gives the gradients of keys and values (key_gradients.hpp), and ends as that of the initial state. Where no
// kernel normalises,
//
//   R_{t-1} = lambda_t (R_t + scale phi(q_t) dout_t^T),   dphi(k_t) = R_t' v_t,   dv_t = R_t'^T phi(k_t)
//
// with R_t' = R_t + scale phi(q_t) dout_t^T. A chunk is the chunk of forward in reverse: its state update takes rows
// of q and dout for those of k and v.
//
// Per token and head, D = E, this takes 10 D^2 FLOPs for the states (forward: 4 D^2) and 6 (C + w) D for the pairs of
// chunks of C tokens (forward: 2), the scores of k and v with lanes and rows exchanged: each sweep has its own.
//
// Katharopoulos et al. (arXiv 2006.16236); Qin et al., Lightning Attention-2 (arXiv 2401.04658).

#include <cstddef>
#include <optional>
#include <span>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/forward_sweep.hpp"
#include "heed/recurrent/reverse_sweep.hpp"
#include "heed/recurrent/sweep_terms.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// What a worker runs tasks with: one sweep of each kind. They take turns in one scratch, in which tasks leave nothing.
template <class T> class backward_driver {
 public:
  backward_driver(const backward_problem<T>& x, const sweep_terms<T>& terms, const chunk_sizes& forward,
                  const chunk_sizes& reverse, std::span<std::byte> scratch)
      : forward_scratch_(scratch, scratch.size()), reverse_scratch_(scratch, scratch.size()) {
    if (x.has_forward_sweep() && x.p.states > 0) forward_.emplace(x, terms, forward, forward_scratch_);
    if (x.has_reverse_sweep() && x.p.kv_heads > 0) reverse_.emplace(x, terms, reverse, reverse_scratch_);
  }

  void run_forward(const chunk_task& task) { forward_->run(task); }
  void run_reverse(const chunk_task& task) { reverse_->run(task); }

 private:
  heed::detail::arena forward_scratch_, reverse_scratch_;
  std::optional<forward_sweep<T>> forward_;
  std::optional<reverse_sweep<T>> reverse_;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
