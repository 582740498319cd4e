// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the forward sweep of backward leaves for the reverse sweep.

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// States for the gradients of gates, one every few chunks: with the state S before a token and its gradient R, what
// crosses the token is <R, S> (gate_gradients.hpp). They take at most a quarter of what v takes.
template <class T> class saved_states {
 public:
  saved_states(const backward_problem<T>& x, index_t chunk, heed::detail::arena& memory)
      : heads_(x.p.states), size_(x.p.features * x.p.e), keys_(x.p.k.extent(2)) {
    if (!x.wants_gates()) return;
    const index_t least = std::max<index_t>(256, 4 * x.p.features);
    gap_ = (least + chunk - 1) / chunk * chunk;
    if (keys_ >= gap_) data_ = memory.take<T>(x.p.k.extent(0) * (keys_ / gap_) * heads_ * size_);
    any_ = keys_ >= gap_;
  }

  // Returns where the state before token j of a pair is saved, [feature][column], or null. In both sweeps, chunks of
  // pairs begin at multiples of their length from the first pair on.
  T* before(const sequence& s, const causal_split& split, index_t head, index_t j) const {
    const index_t at = j - split.prefix_keys;
    if (!any_ || at <= 0 || at >= split.pairs || at % gap_ != 0) return nullptr;
    const index_t number = s.batch * (keys_ / gap_) + s.first_key / gap_ + at / gap_ - 1;
    return data_ + (number * heads_ + head) * size_;
  }

 private:
  index_t heads_, size_, keys_, gap_ = 1;
  bool any_ = false;
  T* data_ = nullptr;
};

// What the forward sweep leaves for the reverse sweep, or for the end of the call; null where it is not needed.
template <class T> struct sweep_terms {
  // Of each query's row: scale / denominator, and dout.o
  T *factor = nullptr, *delta = nullptr;
  // Of each head of the state of each sequence: <gradient of the final state, final state>, or what the sequence adds
  // to the gradient of the slope
  double* state = nullptr;
  saved_states<T> states;

  sweep_terms(const backward_problem<T>& x, index_t chunk, heed::detail::arena& memory) : states(x, chunk, memory) {
    const index_t rows = x.p.q.extent(0) * x.p.query_heads * x.p.q.extent(2);
    if (x.p.normalize && x.has_reverse_sweep()) factor = memory.take<T>(rows), delta = memory.take<T>(rows);
    if (x.wants_gates() || x.wants_slopes()) state = memory.take<double>(x.p.sequences() * x.p.states);
  }
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
