// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The reverse sweep of backward: the gradient of the state, carried from the last token to the first, gives those of
// keys and values. See chunk_backward.hpp.

#include <algorithm>
#include <cstddef>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_rows.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/gate_gradients.hpp"
#include "heed/recurrent/key_gradients.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// The reverse sweep of one head of k and v of a sequence, with all states that it has, or of a piece of its tokens
template <class T> class reverse_sweep {
 public:
  reverse_sweep(const backward_problem<T>& x, const sweep_terms<T>& terms, const chunk_sizes& sizes,
                heed::detail::arena& memory)
      : x_(x),
        p_(x.p),
        terms_(terms),
        chunk_(sizes.chunk),
        features_(p_, chunk_, memory),
        decay_(p_, chunk_, memory),
        state_(p_, {x.dafter, x.dbefore}, task_, sizes, memory),
        gates_(x, chunk_, memory),
        tiles_(x, task_, sizes, features_, gates_, prefetch_, memory),
        scaled_(!heed::detail::equals(p_.scale, 1) || p_.normalize),
        u_(p_.q, *p_.q_format, {.copies = copies_queries()}, chunk_, memory),
        dout_(x.dout, *x.dout_format, {.copies = p_.taylor() && scaled_, .lanes = true}, chunk_, memory),
        factor_(memory.take<T>(chunk_)),
        minus_delta_(memory.take<T>(p_.normalize ? chunk_ : 0)) {}
  reverse_sweep(const reverse_sweep&) = delete;  // the parts hold each other
  reverse_sweep& operator=(const reverse_sweep&) = delete;

  // task.state: the head of k and v. Pieces count from the last token.
  void run(const chunk_task& task) {
    task_ = task, kv_head_ = task.state;
    const index_t states = x_.states_per_kv_head();
    for (index_t i = 0; i < states; ++i) run_state(kv_head_ * states + i, i > 0);
    if (task.piece.first()) write_padding(states > 0 ? task.sequence.keys : 0);
  }

 private:
  static constexpr index_t none = -1;

  bool copies_queries() const {
    return maps_rows(p_) || (scaled_ && !p_.taylor()) || !heed::detail::equals(p_.q_scale, T(1));
  }

  void run_state(index_t state, bool add) {
    const sequence& s = task_.sequence;
    const causal_split split = p_.split(s);
    const index_t keys = split.prefix_keys, queries = split.leading_queries, pairs = split.pairs;
    const index_t rest_queries = s.queries - queries - pairs, rest_keys = s.keys - keys - pairs;
    const index_t chunks = (pairs + chunk_ - 1) / chunk_, all = chunks * chunk_;
    const index_t end = std::min(pairs, all - pairs_before(task_.piece.begin, all, chunk_));
    const index_t begin = all - pairs_before(task_.piece.end, all, chunk_);
    const bool first = task_.piece.first(), last = task_.piece.last();
    if (begin >= end && !last && !first) return;  // fewer chunks than pieces
    task_.state = state, add_ = add;
    decay_.begin_state(s, state), state_.begin(state);
    if (gates_.wanted())
      gates_.begin(s, state, terms_.state[s.number * p_.states + state], queries + pairs, rest_queries);
    if (first) each_chunk(none, keys + pairs, rest_keys, true);
    if (begin >= end && !last) return;
    each_chunk(queries + pairs, none, rest_queries, false);
    each_chunk(queries + end, keys + end, pairs - end, false);
    each_chunk(queries + begin, keys + begin, end - begin, true);
    if (!last) return;
    each_chunk(0, none, queries, false);
    each_chunk(none, 0, keys, true);
    state_.end();
  }

  // Goes through chunks from the last to the first; they begin at multiples of chunk_ from i and j on. writes: tokens
  // get their gradients; else R goes past them.
  void each_chunk(index_t i, index_t j, index_t count, bool writes) {
    for (index_t at = (count - 1) / chunk_ * chunk_; count > 0 && at >= 0; at -= chunk_)
      run_chunk(i == none ? none : i + at, j == none ? none : j + at, std::min(chunk_, count - at), at > 0, writes);
  }
  // more: there is a chunk before this one, and its rows are prefetched.
  void run_chunk(index_t i, index_t j, index_t n, bool more, bool writes) {
    decay_.begin_undecayed();
    if (j != none) decay_.begin_chunk(j, n, true);
    prefetch_.clear();
    if (more) prefetch(i == none ? none : i - chunk_, j == none ? none : j - chunk_, writes);
    writes = writes && (x_.wants_keys() || x_.wants_values());
    if (writes) tiles_.begin(kv_head_, j, n, decay_, state_);
    const index_t heads = x_.queries_per_state(), head = task_.state * heads;
    for (index_t q = head; i != none && q < head + heads; ++q) {
      read_queries(q, i, n);
      if (writes) tiles_.add_pairs(queries_);
      state_.update({queries_.u, queries_.dout, queries_.minus_delta}, features_, decay_, prefetch_, q > head);
    }
    if (j != none && (i == none || heads == 0)) state_.scale(decay_.block_decay());
    if (!writes) return;
    tiles_.finish(add_);
    if (gates_.wanted()) gates_.write(decay_, j, n);
  }

  // Reads u and dout of n queries of a head, from the last to the first.
  void read_queries(index_t head, index_t i, index_t n) {
    const sequence& s = task_.sequence;
    const T scale = static_cast<T>(p_.scale);
    for (index_t r = 0; r < n; ++r) factor_[r] = scale;
    if (p_.normalize) {
      const index_t row = x_.number_of(s, head, i);
      std::copy(terms_.factor + row, terms_.factor + row + n, factor_);
      for (index_t r = 0; r < n; ++r)
        minus_delta_[n - 1 - r] = -terms_.delta[row + r] * (p_.taylor() ? factor_[r] : T(1));
    }
    const tile::lane_block<const T> u = read_u(p_.query(s, head, i), n), dout = read_dout(x_.dout_row(s, head, i), n);
    queries_ = {reversed(u), reversed(dout), minus_delta_, finite_rows(u) && finite_rows(dout)};
  }
  tile::lane_block<const T> read_u(const std::byte* first, index_t n) const {
    if (!copies_queries()) return u_.read(first, n);
    const tile::lane_block<T> u = u_.copy(first, n);
    if (maps_rows(p_)) map_rows(p_.map, u.data, n, p_.d);
    for (index_t r = 0; r < n; ++r)
      scale_values(u.row(r), p_.d, p_.taylor() ? p_.q_scale : p_.q_scale * factor_[r], u.row(r));
    return u;
  }
  tile::lane_block<const T> read_dout(const std::byte* first, index_t n) const {
    if (!p_.taylor() || !scaled_) return dout_.read(first, n);
    const tile::lane_block<T> dout = dout_.copy(first, n);
    for (index_t r = 0; r < n; ++r) scale_values(dout.row(r), p_.e, factor_[r], dout.row(r));
    return dout;
  }

  void prefetch(index_t i, index_t j, bool writes) {
    const sequence& s = task_.sequence;
    const index_t q = task_.state * x_.queries_per_state();
    index_t number = 0;
    const auto set = [&](const auto& x, const std::byte* row) {
      prefetch_.set(number++, {row, x.row_bytes(), chunk_, x.extent(3) * x.element_bytes()}, true, true);
    };
    if (i != none && x_.queries_per_state() > 0) set(p_.q, p_.query(s, q, i)), set(x_.dout, x_.dout_row(s, q, i));
    if (j == none || !writes) return;
    set(p_.k, p_.key(s, kv_head_, j)), set(p_.v, p_.value(s, kv_head_, j));
    if (x_.dk.data() != nullptr) set(x_.dk, x_.dk.row(s.batch, kv_head_, s.first_key + j));
    if (x_.dv.data() != nullptr) set(x_.dv, x_.dv.row(s.batch, kv_head_, s.first_key + j));
  }

  // Writes zeros to the gradients of tokens that key_lengths hides.
  void write_padding(index_t keys) const {
    const sequence& s = task_.sequence;
    const index_t all =
        p_.packed() ? p_.mask.key_offsets[static_cast<std::size_t>(s.number) + 1] - s.first_key : p_.k.extent(2);
    for (const heed::detail::output_tensor* const x : {&x_.dk, &x_.dv})
      for (index_t j = keys; j < (x->data() != nullptr ? all : 0); ++j) {
        T* const row = tile::row_as<T>(x->row(s.batch, kv_head_, s.first_key + j));
        std::fill(row, row + x->extent(3), T(0));
      }
  }

  const backward_problem<T>& x_;
  const recurrence<T>& p_;
  const sweep_terms<T>& terms_;
  index_t chunk_;
  chunk_task task_ = {};
  index_t kv_head_ = 0;
  bool add_ = false;  // to the gradients that other states have written
  chunk_features<T> features_;
  chunk_decay<T> decay_;
  chunk_state<T> state_;  // R and r
  tile::prefetch_queue<T> prefetch_;
  gate_gradients<T> gates_;
  key_gradients<T> tiles_;
  bool scaled_;
  chunk_rows<T> u_, dout_;
  T *factor_, *minus_delta_;
  chunk_queries<T> queries_ = {};
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
