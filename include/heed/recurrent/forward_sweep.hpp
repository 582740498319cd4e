// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The forward sweep of backward: the states of forward are computed again, chunk by chunk, and give the gradients of
// the queries. See chunk_backward.hpp.

#include <algorithm>
#include <cstddef>
#include <optional>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_rows.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/query_gradients.hpp"
#include "heed/recurrent/slope_gradients.hpp"
#include "heed/recurrent/sweep_terms.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// The forward sweep of some heads of the state of a sequence, side by side, or of a piece of its tokens
template <class T> class forward_sweep {
 public:
  forward_sweep(const backward_problem<T>& x, const sweep_terms<T>& terms, const chunk_sizes& sizes,
                heed::detail::arena& memory)
      : x_(x),
        p_(x.p),
        terms_(terms),
        chunk_(sizes.chunk),
        features_(p_, chunk_, memory),
        slopes_(x, sizes, memory),
        tile_(x, terms, task_, sizes, features_, slopes_, prefetch_, memory),
        keys_(p_.k, *p_.kv_format, {.copies = maps_rows(p_)}, chunk_, memory),
        values_(p_.v, *p_.kv_format, {.read = x.sums_keys(), .lanes = true}, chunk_, memory) {
    for (index_t i = 0; i < sizes.states; ++i) heads_[i].emplace(p_, task_, sizes, memory);
  }
  forward_sweep(const forward_sweep&) = delete;  // the parts hold each other
  forward_sweep& operator=(const forward_sweep&) = delete;

  void run(const chunk_task& task) {
    const causal_split split = p_.split(task.sequence);
    const index_t keys = split.prefix_keys, queries = split.leading_queries, pairs = split.pairs;
    const index_t begin = pairs_before(task.piece.begin, pairs, chunk_);
    const index_t end = pairs_before(task.piece.end, pairs, chunk_);
    const bool first = task.piece.first(), last = task.piece.last();
    if (begin == end && !last && (!first || queries == 0)) return;  // fewer chunks than pieces
    task_ = task, split_ = split;
    for (index_t h = 0; h < task.states; ++h) heads_[h]->begin(task.sequence, task.state + h);
    if (last && x_.wants_gates() && x_.queries_per_state() == 0) clear_gates();
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
    for (index_t h = 0; h < (terms_.state != nullptr ? task.states : 0); ++h) write_state_term(*heads_[h]);
  }

 private:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>, none = -1;

  // One head of the state
  struct state_head {
    state_head(const recurrence<T>& p, const chunk_task& task, const chunk_sizes& sizes, heed::detail::arena& memory)
        : decay(p, sizes.chunk, memory), state(p, task, sizes, memory) {}

    void begin(const sequence& s, index_t head) { number = head, decay.begin_state(s, head), state.begin(head); }

    chunk_decay<T> decay;
    chunk_state<T> state;
    index_t number = 0;
  };

  void each_chunk(index_t i, index_t j, index_t count, index_t most) {
    for (index_t done = 0, n = 0; done < count; done += n) {
      n = std::min(most, count - done);
      const index_t next = std::min(most, count - done - n);
      for (index_t h = 0; h < task_.states; ++h)
        run_chunk(*heads_[h], i == none ? none : i + done, j == none ? none : j + done, n, next);
    }
  }
  // Runs a chunk of n queries, tokens or both while rows of the next are prefetched.
  void run_chunk(state_head& head, index_t i, index_t j, index_t n, index_t next) {
    tokens_ = {};
    head.decay.begin_undecayed();
    if (j != none) begin_tokens(head, j, n);
    if (i != none && j != none) save_state(head, j);  // once: later pieces read the keys alone
    prefetch_.clear();
    if (next > 0) prefetch(head, i == none ? none : i + n, j == none ? none : j + n, next);
    if (i != none) {
      tile_.begin(head.number, head.decay, head.state, tokens_, j == none || finite_rows(tokens_.keys));
      const index_t heads = x_.queries_per_state(), first = head.number * heads;
      for (index_t q = first; q < first + heads; ++q)
        for (index_t at = 0; at < n; at += max_lanes)
          tile_.write({q, i + at, std::min(max_lanes, n - at), j == none ? none : at});
    }
    if (j == none || (i != none && next == 0 && !read_again_)) return;
    if (x_.wants_slopes()) slopes_.update(tokens_, head.state, head.decay);
    if (x_.sums_keys())
      head.state.update(tokens_, features_, head.decay, prefetch_);
    else
      head.state.update_z(tokens_, features_, head.decay);
  }

  // Saves the state before token j of a pair where it is asked for.
  void save_state(const state_head& head, index_t j) const {
    T* const to = terms_.states.before(task_.sequence, split_, head.number, j);
    for (index_t f = 0; f < (to != nullptr ? p_.features : 0); ++f)
      std::copy_n(head.state.s() + f * head.state.stride(), p_.e, to + f * p_.e);
  }

  void begin_tokens(state_head& head, index_t j, index_t n) {
    const index_t kv_head = head.number / p_.states_per_kv_head;
    head.decay.begin_chunk(j, n);
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

  // The rows of heads side by side share pages.
  void prefetch(const state_head& head, index_t i, index_t j, index_t next) {
    const sequence& s = task_.sequence;
    const index_t q = head.number * x_.queries_per_state(), kv_head = head.number / p_.states_per_kv_head;
    index_t number = 0;
    const auto set = [&](const auto& x, const std::byte* row) {
      prefetch_.set(number++, {row, x.row_bytes(), next, x.extent(3) * x.element_bytes()}, head.number == task_.state);
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
    for (index_t state = task_.state; state < task_.state + task_.states; ++state)
      for (index_t t = 0; t < task_.sequence.queries; ++t)
        x_.dlog_gates(task_.sequence.batch, state, task_.sequence.first_query + t) = T(0);
  }

  // Gates: <gradient of the final state, final state>. Slopes: what this sequence adds to their gradients.
  void write_state_term(const state_head& head) const {
    const index_t sequence = task_.sequence.number;
    double sum = 0;
    if (x_.wants_slopes())
      sum = -slopes_.end(task_.sequence, head.number);
    else if (x_.dafter.s.data() != nullptr && !head.state.empty())
      for (index_t f = 0; f < p_.d; ++f)
        sum += dot_in_double(head.state.s() + f * head.state.stride(), &x_.dafter.s(sequence, head.number, f, 0), p_.e);
    terms_.state[sequence * p_.states + head.number] = sum;
  }

  const backward_problem<T>& x_;
  const recurrence<T>& p_;
  const sweep_terms<T>& terms_;
  index_t chunk_;
  chunk_task task_ = {};
  chunk_features<T> features_;
  slope_gradients<T> slopes_;  // of one head: there are no others beside it
  tile::prefetch_queue<T> prefetch_;
  query_gradients<T> tile_;
  chunk_rows<T> keys_, values_;
  tile::lane_array<std::optional<state_head>, max_states_per_task> heads_;
  chunk_tokens<T> tokens_ = {};
  causal_split split_ = {};
  bool read_again_ = true;  // the state after the last chunk
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
