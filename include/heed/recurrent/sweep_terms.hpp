// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the forward sweep of backward leaves for the reverse sweep.

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// States for the gradients of gates, one every few chunks: with the state S before a token and its gradient R, what
// crosses the token is <R, S> (gate_gradients.hpp). They take at most a quarter of what v takes, and one state more.
template <class T> class saved_states {
 public:
  saved_states(const backward_problem<T>& x, index_t chunk, heed::detail::arena& memory)
      : heads_(x.p.states), size_(x.p.d * x.p.e), keys_(x.p.k.extent(2)) {
    if (!x.wants_gates()) return;
    const index_t least = std::max<index_t>(256, 4 * x.p.d);
    gap_ = (least + chunk - 1) / chunk * chunk;
    data_ = memory.take<T>((x.p.k.extent(0) * (keys_ / gap_) + x.p.sequences()) * heads_ * size_);
  }

  // Returns where the state before token j is saved, [feature][column], or null. Both sweeps have chunks that begin at
  // multiples of their length: keys that all queries see, from 0 on, and pairs, from the first pair on.
  T* before(const sequence& s, const causal_split& split, index_t head, index_t j) const {
    const index_t prefix_keys = split.prefix_keys;
    const bool prefix = j < prefix_keys;
    const index_t at = prefix ? j : j - prefix_keys;
    if (data_ == nullptr || j == 0 || j >= prefix_keys + split.pairs || at % gap_ != 0) return nullptr;
    const index_t first = s.batch * (keys_ / gap_) + s.first_key / gap_ + s.number;
    const index_t number = prefix ? at / gap_ - 1 : prefix_keys / gap_ + at / gap_;
    return data_ + ((first + number) * heads_ + head) * size_;
  }

 private:
  index_t heads_, size_, keys_, gap_ = 1;
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
