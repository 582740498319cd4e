// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The forward sweep of backward: the states of forward are computed again, chunk by chunk, and give the gradients of
// the queries. See chunk_backward.hpp.

#include <algorithm>
#include <cstddef>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_rows.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/query_gradients.hpp"
#include "heed/recurrent/slope_gradients.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

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
        keys_(p_.k, *p_.kv_format, {.copies = maps_rows(p_)}, chunk_, memory),
        values_(p_.v, *p_.kv_format, {.read = x.sums_keys(), .lanes = true}, chunk_, memory) {}
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
    if (last && x_.wants_gates() && x_.queries_per_state() == 0) clear_gates();
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

  void clear_gates() const {
    for (index_t t = 0; t < task_.sequence.queries; ++t)
      x_.dlog_gates(task_.sequence.batch, task_.state, task_.sequence.first_query + t) = T(0);
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

}  // namespace HEED_ISA
}  // namespace heed::recurrent
