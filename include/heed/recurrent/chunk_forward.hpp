// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Recurrences over a state S (features x E) in chunks of C tokens, at the speed of matrix products. With lambda_t the
// decay of token t (decay.hpp; 1 where there is none) and phi the feature map:
//
//   S_t = lambda_t S_{t-1} + phi(k_t) v_t^T,   o_t = scale S_t^T phi(q_t)
//
// A chunk's queries read the state before it and, pair by pair, the chunk's own tokens (chunk_output.hpp). Then its
// keys and values go into the state (chunk_state.hpp). Per token and head this takes 4 D E + (C + w)(D + E) FLOPs, w
// the vector width: the diagonal is a staircase of w x w squares. Traffic: q, k, v and o once; S stays in cache (D E
// numbers, read twice and written once per chunk). A longer chunk costs more pairs, a shorter one more passes over S:
// see chunk_of() in partition.hpp for the balance.
//
// Kernels that normalise keep z_t = z_{t-1} + phi(k_t) and divide o_t by scale z_t.phi(q_t) + eps.
//
// Qin et al., Lightning Attention-2 (arXiv 2401.04658); Katharopoulos et al. (arXiv 2006.16236); Arora et al., Based
// (arXiv 2402.18668).

#include <algorithm>
#include <cstddef>
#include <optional>

#include "heed/core/context.hpp"
#include "heed/recurrent/chunk_output.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/tile/row_stage.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Returns whether keys are copied: to be mapped or widened, or because they are far apart and read more than once as
// they are.
template <class T> bool copies_keys(const recurrence<T>& p) {
  if ((p.mapped() && !p.taylor()) || !p.kv_format->is_t) return true;
  return tile::far_rows(p.k) && (p.taylor() || p.decay == nullptr || p.queries_per_state > 1);
}

template <class T> class chunk_driver {
 public:
  chunk_driver(const recurrence<T>& p, const chunk_sizes& sizes, heed::detail::arena& memory)
      : p_(p),
        chunk_(sizes.chunk),
        copies_values_(tile::far_rows(p.v) || !p.kv_format->is_t),
        features_(p, chunk_, memory),
        output_(p, task_, sizes, features_, prefetch_, memory),
        k_(memory.take<T>(copies_keys(p) ? chunk_ * p.d : 0)),
        v_(memory.take<T>(copies_values_ || p.e % w != 0 ? chunk_ * odd_lines<T>(sizes.columns) : 0)) {
    for (index_t i = 0; i < sizes.states; ++i) heads_[i].emplace(p, task_, sizes, memory);
  }
  chunk_driver(const chunk_driver&) = delete;  // the parts hold each other
  chunk_driver& operator=(const chunk_driver&) = delete;

  // Computes the task's outputs; the last piece also writes the final state.
  void run(const chunk_task& task) {
    const causal_split split = p_.split(task.sequence);
    const index_t keys = split.prefix_keys, queries = split.leading_queries, pairs = split.pairs;
    const index_t begin = pairs_before(task.piece.begin, pairs, chunk_);
    const index_t end = pairs_before(task.piece.end, pairs, chunk_);
    const bool first = task.piece.first(), last = task.piece.last();
    if (begin == end && !last && (!first || queries == 0)) return;  // fewer chunks than pieces
    task_ = task;
    for (index_t i = 0; i < task.states; ++i) heads_[i]->begin(task.sequence, task.state + i);
    each_chunk(none, 0, keys, chunk_);
    if (first) each_chunk(0, none, queries, max_lanes);
    each_chunk(none, keys, begin, chunk_);
    each_chunk(queries + begin, keys + begin, end - begin, chunk_);
    if (!last) return;
    each_chunk(queries + pairs, none, task.sequence.queries - queries - pairs, max_lanes);
    each_chunk(none, keys + pairs, task.sequence.keys - keys - pairs, chunk_);
    for (index_t i = 0; i < task.states; ++i) heads_[i]->state.end();
  }

 private:
  static constexpr index_t w = simd::width<T>, max_lanes = chunk_output<T>::max_lanes, none = -1;

  // One head of the state
  struct state_head {
    state_head(const recurrence<T>& p, const chunk_task& task, const chunk_sizes& sizes, heed::detail::arena& memory)
        : decay(p, sizes.chunk, memory), state(p, task, sizes, memory) {}

    void begin(const sequence& s, index_t head) {
      number = head;
      state.begin(head), decay.begin_state(s, head);
    }

    chunk_decay<T> decay;
    chunk_state<T> state;
    index_t number = 0;
  };

  // Takes `count` queries from i on, `count` tokens from j on, or both in pairs, at most `most` at a time.
  void each_chunk(index_t i, index_t j, index_t count, index_t most) {
    for (index_t done = 0, n = 0; done < count; done += n) {
      n = std::min(most, count - done);
      const index_t next = std::min(most, count - done - n);
      for (index_t x = 0; x < task_.states; ++x)
        run_chunk(*heads_[x], i == none ? none : i + done, j == none ? none : j + done, n, next, x == 0);
    }
  }
  // Runs one chunk of n queries, tokens or both while rows of the next are prefetched. pages: as in prefetch_queue
  void run_chunk(state_head& head, index_t i, index_t j, index_t n, index_t next, bool pages) {
    tokens_ = {};
    if (j != none) begin_tokens(head, j, n);
    prefetch_.clear();
    if (i != none && next > 0 && p_.queries_per_state > 0) prefetch_queries(head, i + n, next, pages);
    if (j != none && next > 0) prefetch_tokens(head, j + n, next, pages);
    if (i != none) {
      output_.begin(head.decay, head.state, tokens_);
      const index_t first = head.number * p_.queries_per_state;
      for (index_t q = first; q < first + p_.queries_per_state; ++q)
        for (index_t at = 0; at < n; at += max_lanes)
          output_.write({q, i + at, std::min(max_lanes, n - at), j == none ? none : at});
    }
    if (j != none) head.state.update(tokens_, features_, head.decay, prefetch_);
  }

  // Begins tokens [j, j + n): keys go through the feature map, values come in whole vectors, both as numbers of type T.
  void begin_tokens(state_head& head, index_t j, index_t n) {
    const index_t kv_head = head.number / p_.states_per_kv_head, columns = task_.columns;
    head.decay.begin_chunk(j, n);
    const std::byte* const k = p_.key(task_.sequence, kv_head, j);
    const std::byte* const v = p_.value(task_.sequence, kv_head, j) + task_.column * p_.kv_format->element;
    tokens_ = {{tile::row_as<T>(k), p_.k.stride(2), n, p_.d}, {tile::row_as<T>(v), p_.v.stride(2), n, columns}};
    if (copies_values_ || columns % w != 0) {
      const index_t stride = odd_lines<T>(columns), whole = tile::whole_vectors<T>(columns);
      p_.kv_format->read(v, p_.v.row_bytes(), n, columns, v_, stride);
      for (index_t t = 0; t < n; ++t) std::fill(v_ + t * stride + columns, v_ + t * stride + whole, T(0));
      tokens_.values = {v_, stride, n, columns};
    }
    if (k_ == nullptr) return;
    p_.kv_format->read(k, p_.k.row_bytes(), n, p_.d, k_, p_.d);
    if (p_.mapped() && !p_.taylor()) map_rows(p_.map, k_, n, p_.d);
    tokens_.keys = {k_, p_.d, n, p_.d};
  }

  void prefetch_queries(const state_head& head, index_t i, index_t next, bool pages) {
    const index_t q = head.number * p_.queries_per_state;
    const index_t q_element = p_.q_format->element, o_element = p_.o_format->element;
    const std::byte* const o = p_.output(task_.sequence, q, i) + task_.column * o_element;
    prefetch_.set(0, {p_.query(task_.sequence, q, i), p_.q.row_bytes(), next, p_.d * q_element}, pages);
    prefetch_.set(3, {o, p_.o.row_bytes(), next, task_.columns * o_element}, pages);
  }
  void prefetch_tokens(const state_head& head, index_t j, index_t next, bool pages) {
    const index_t kv_head = head.number / p_.states_per_kv_head;
    const index_t element = p_.kv_format->element;
    const std::byte* const v = p_.value(task_.sequence, kv_head, j) + task_.column * element;
    prefetch_.set(1, {p_.key(task_.sequence, kv_head, j), p_.k.row_bytes(), next, p_.d * element}, pages);
    prefetch_.set(2, {v, p_.v.row_bytes(), next, task_.columns * element}, pages);
  }

  const recurrence<T>& p_;
  index_t chunk_;
  bool copies_values_;  // of any number of columns
  chunk_task task_ = {};
  chunk_features<T> features_;
  tile::prefetch_queue<T> prefetch_;
  chunk_output<T> output_;
  T *k_, *v_;  // copied rows of a chunk, or null
  tile::lane_array<std::optional<state_head>, max_states_per_task> heads_;
  chunk_tokens<T> tokens_ = {};  // of the chunk
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
