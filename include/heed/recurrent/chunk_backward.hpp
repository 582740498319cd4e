// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of the recurrence of chunk_forward.hpp, in two sweeps over the chunks. Nothing of size N F E is stored.
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

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_rows.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/key_gradients.hpp"
#include "heed/recurrent/query_gradients.hpp"
#include "heed/recurrent/slope_gradients.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Whether keys (queries) are mapped row by row
template <class T> bool maps_rows(const recurrence<T>& p) { return p.mapped() && !p.taylor(); }

// The forward sweep of one head of the state of a sequence, or of a piece of its tokens
template <class T> class forward_sweep {
 public:
  forward_sweep(const backward_problem<T>& x, const sweep_terms<T>& terms, const chunk_sizes& sizes,
                heed::detail::arena& memory)
      : x_(x),
        p_(x.p),
        terms_(terms),
        chunk_(sizes.chunk),
        features_(p_, chunk_, memory),
        decay_(p_, chunk_, memory),
        state_(p_, task_, sizes, memory),
        slopes_(x, sizes, memory),
        tile_(x, terms, task_, sizes, features_, slopes_, prefetch_, memory),
        keys_(p_.k, *p_.kv_format, true, maps_rows(p_), false, chunk_, memory),
        values_(p_.v, *p_.kv_format, x.sums_keys(), false, true, chunk_, memory) {}
  forward_sweep(const forward_sweep&) = delete;  // the parts hold each other
  forward_sweep& operator=(const forward_sweep&) = delete;

  void run(const chunk_task& task) {
    const causal_split split = p_.split(task.sequence);
    const index_t keys = split.prefix_keys, queries = split.leading_queries, pairs = split.pairs;
    const index_t begin = pairs_before(task.piece.begin, pairs, chunk_);
    const index_t end = pairs_before(task.piece.end, pairs, chunk_);
    const bool first = task.piece.first(), last = task.piece.last();
    if (begin == end && !last && (!first || queries == 0)) return;  // fewer chunks than pieces
    task_ = task;
    decay_.begin_state(task.sequence, task.state), state_.begin(task.state);
    if (x_.wants_slopes()) slopes_.begin();
    const index_t rest = task.sequence.queries - queries - pairs;
    read_again_ = true;
    each_chunk(none, 0, keys, chunk_);
    if (first) each_chunk(0, none, queries, max_lanes);
    each_chunk(none, keys, begin, chunk_);
    read_again_ = last && (rest > 0 || terms_.state != nullptr);
    each_chunk(queries + begin, keys + begin, end - begin, chunk_);
    if (!last) return;
    each_chunk(queries + pairs, none, rest, max_lanes);
    if (terms_.state != nullptr) write_state_term();
  }

 private:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>, none = -1;

  void each_chunk(index_t i, index_t j, index_t count, index_t most) {
    for (index_t done = 0, n = 0; done < count; done += n) {
      n = std::min(most, count - done);
      const index_t next = std::min(most, count - done - n);
      run_chunk(i == none ? none : i + done, j == none ? none : j + done, n, next);
    }
  }
  // Runs a chunk of n queries, tokens or both while rows of the next are prefetched.
  void run_chunk(index_t i, index_t j, index_t n, index_t next) {
    tokens_ = {};
    decay_.begin_undecayed();
    if (j != none) begin_tokens(j, n);
    prefetch_.clear();
    if (next > 0) prefetch(i == none ? none : i + n, j == none ? none : j + n, next);
    if (i != none) {
      tile_.begin(decay_, state_, tokens_, j == none || finite_rows(tokens_.keys));
      const index_t heads = x_.queries_per_state(), head = task_.state * heads;
      for (index_t q = head; q < head + heads; ++q)
        for (index_t at = 0; at < n; at += max_lanes)
          tile_.write({q, i + at, std::min(max_lanes, n - at), j == none ? none : at});
    }
    if (j == none || (i != none && next == 0 && !read_again_)) return;
    if (x_.wants_slopes()) slopes_.update(tokens_, state_, decay_);
    if (x_.sums_keys())
      state_.update(tokens_, features_, decay_, prefetch_);
    else
      state_.update_z(tokens_, features_, decay_);
  }

  void begin_tokens(index_t j, index_t n) {
    const index_t kv_head = task_.state / p_.states_per_kv_head;
    decay_.begin_chunk(j, n);
    const std::byte* const k = p_.key(task_.sequence, kv_head, j);
    if (maps_rows(p_)) {
      const tile::lane_block<T> keys = keys_.copy(k, n);
      map_rows(p_.map, keys.data, n, p_.d);
      tokens_.keys = keys;
    } else {
      tokens_.keys = keys_.read(k, n);
    }
    if (x_.sums_keys()) tokens_.values = values_.read(p_.value(task_.sequence, kv_head, j), n);
  }

  void prefetch(index_t i, index_t j, index_t next) {
    const sequence& s = task_.sequence;
    const index_t q = task_.state * x_.queries_per_state(), kv_head = task_.state / p_.states_per_kv_head;
    index_t number = 0;
    const auto set = [&](const auto& x, const std::byte* row) {
      prefetch_.set(number++, {row, x.row_bytes(), next, x.extent(3) * x.element_bytes()}, true);
    };
    if (i != none && x_.queries_per_state() > 0) {
      set(x_.dout, x_.dout_row(s, q, i));
      if (tile_.reads_q()) set(p_.q, p_.query(s, q, i));
      if (p_.normalize) set(p_.o, p_.output(s, q, i));
    }
    if (j != none) set(p_.k, p_.key(s, kv_head, j));
    if (j != none && x_.sums_keys()) set(p_.v, p_.value(s, kv_head, j));
    if (i != none && x_.dq.data() != nullptr && x_.queries_per_state() > 0)
      set(x_.dq, x_.dq.row(s.batch, q, s.first_query + i));
  }

  // Gates: <gradient of the final state, final state>. Slopes: what this sequence adds to their gradients.
  void write_state_term() const {
    double sum = 0;
    if (x_.wants_slopes())
      sum = -slopes_.end(task_.sequence, task_.state);
    else if (x_.dafter.s.data() != nullptr && !state_.empty())
      for (index_t f = 0; f < p_.d; ++f)
        sum += dot_in_double(state_.s() + f * state_.stride(), &x_.dafter.s(task_.sequence.number, task_.state, f, 0),
                             p_.e);
    terms_.state[task_.sequence.number * p_.states + task_.state] = sum;
  }

  const backward_problem<T>& x_;
  const recurrence<T>& p_;
  const sweep_terms<T>& terms_;
  index_t chunk_;
  chunk_task task_ = {};
  chunk_features<T> features_;
  chunk_decay<T> decay_;
  chunk_state<T> state_;
  slope_gradients<T> slopes_;
  tile::prefetch_queue<T> prefetch_;
  query_gradients<T> tile_;
  chunk_rows<T> keys_, values_;
  chunk_tokens<T> tokens_ = {};
  bool read_again_ = true;  // the state after the last chunk
};

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
        tiles_(x, task_, sizes, features_, prefetch_, memory),
        scaled_(!heed::detail::equals(p_.scale, 1) || p_.normalize),
        u_(p_.q, *p_.q_format, true, copies_queries(), false, chunk_, memory),
        dout_(x.dout, *x.dout_format, true, p_.taylor() && scaled_, true, chunk_, memory),
        factor_(memory.take<T>(chunk_)),
        minus_delta_(memory.take<T>(p_.normalize ? chunk_ : 0)),
        gates_(memory.take<T>(x.wants_gates() ? chunk_ : 0)) {}
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
    if (x_.wants_gates()) begin_gates(queries + pairs, rest_queries);
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
    tiles_.finish(add_, gates_);
    if (gates_ != nullptr) write_gates(j, n);
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

  // With G_t the sum of the gates up to t, dL/dG_t = q_t.dq_t - k_t.dk_t, and at the end <gradient of the final state,
  // final state> and the queries that read it more; gradients of gates are its sums over the tokens from t on.
  // Forward sweeps have left q_t.dq_t. No pair goes past a reset.
  void begin_gates(index_t i, index_t count) {
    sum_ = terms_.state[task_.sequence.number * p_.states + task_.state];
    for (index_t t = i; t < i + count; ++t) {
      T& g = gate_gradient(t);
      sum_ += static_cast<double>(g), g = T(0);
    }
  }
  void write_gates(index_t j, index_t n) {
    for (index_t t = n - 1; t >= 0; --t) {
      T& g = gate_gradient(j + t);
      sum_ += static_cast<double>(g) - static_cast<double>(gates_[t]);
      if (decay_.resets(*p_.gate(task_.sequence, task_.state, j + t))) sum_ = 0;
      g = static_cast<T>(sum_);
    }
  }
  T& gate_gradient(index_t t) const {
    return x_.dlog_gates(task_.sequence.batch, task_.state, task_.sequence.first_key + t);
  }

  // Writes zeros to the gradients of tokens that key_lengths hides.
  void write_padding(index_t keys) const {
    const sequence& s = task_.sequence;
    const index_t all = p_.packed() ? p_.mask.key_offsets[static_cast<std::size_t>(s.number) + 1] - s.first_key
                                    : p_.k.extent(2);
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
  key_gradients<T> tiles_;
  bool scaled_;
  chunk_rows<T> u_, dout_;
  T *factor_, *minus_delta_, *gates_;
  chunk_queries<T> queries_ = {};
  double sum_ = 0;  // of gradients of gates
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
