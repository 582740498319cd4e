// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The reverse sweep of backward: the gradient of the state, carried from the last token to the first, gives those of
// keys and values. See chunk_backward.hpp.

#include <algorithm>
#include <cstddef>
#include <optional>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_rows.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/gate_gradients.hpp"
#include "heed/recurrent/key_gradients.hpp"
#include "heed/recurrent/sweep_terms.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// The reverse sweep of some heads of k and v of a sequence, side by side, or of a piece of its tokens; where heads have
// more than one state each, one state after the other
template <class T> class reverse_sweep {
 public:
  reverse_sweep(const backward_problem<T>& x, const sweep_terms<T>& terms, const chunk_sizes& sizes,
                heed::detail::arena& memory)
      : x_(x),
        p_(x.p),
        terms_(terms),
        chunk_(sizes.chunk),
        features_(p_, chunk_, memory),
        tiles_(x, task_, sizes, features_, prefetch_, memory),
        scaled_(!heed::detail::equals(p_.scale, 1) || p_.normalize),
        u_(p_.q, *p_.q_format, {.copies = copies_queries()}, chunk_, memory),
        dout_(x.dout, *x.dout_format, {.copies = p_.taylor() && scaled_, .lanes = true}, chunk_, memory),
        factor_(memory.take<T>(chunk_)),
        minus_delta_(memory.take<T>(p_.normalize ? chunk_ : 0)) {
    for (index_t i = 0; i < sizes.states; ++i) heads_[i].emplace(x, task_, sizes, memory);
  }
  reverse_sweep(const reverse_sweep&) = delete;  // the parts hold each other
  reverse_sweep& operator=(const reverse_sweep&) = delete;

  // task.state, task.states: heads of k and v. Pieces count from the last token.
  void run(const chunk_task& task) {
    task_ = task, split_ = p_.split(task.sequence);
    const index_t states = x_.states_per_kv_head();
    for (index_t i = 0; i < states; ++i) run_states(i);
    if (task.piece.first()) write_padding(states > 0 ? task.sequence.keys : 0);
  }

 private:
  static constexpr index_t none = -1;

  // One head of the state
  struct state_head {
    state_head(const backward_problem<T>& x, const chunk_task& task, const chunk_sizes& sizes,
               heed::detail::arena& memory)
        : decay(x.p, sizes.chunk, memory),
          state(x.p, {x.dafter, x.dbefore}, task, sizes, memory),
          gates(x, sizes.chunk, memory) {}

    void begin(const sequence& s, index_t head) { number = head, decay.begin_state(s, head), state.begin(head); }

    chunk_decay<T> decay;
    chunk_state<T> state;  // R and r
    gate_gradients<T> gates;
    index_t number = 0;
  };

  bool copies_queries() const {
    return maps_rows(p_) || (scaled_ && !p_.taylor()) || !heed::detail::equals(p_.q_scale, T(1));
  }

  // Runs state number i of each head of k and v.
  void run_states(index_t i) {
    const sequence& s = task_.sequence;
    const index_t keys = split_.prefix_keys, queries = split_.leading_queries, pairs = split_.pairs;
    const index_t rest_queries = s.queries - queries - pairs, rest_keys = s.keys - keys - pairs;
    const index_t chunks = (pairs + chunk_ - 1) / chunk_, all = chunks * chunk_;
    const index_t end = std::min(pairs, all - pairs_before(task_.piece.begin, all, chunk_));
    const index_t begin = all - pairs_before(task_.piece.end, all, chunk_);
    const bool first = task_.piece.first(), last = task_.piece.last();
    if (begin >= end && !last && !first) return;  // fewer chunks than pieces
    add_ = i > 0, read_again_ = true;
    for (index_t h = 0; h < task_.states; ++h) begin_head(*heads_[h], h, i, queries + pairs, rest_queries);
    if (first) each_chunk(none, keys + pairs, rest_keys, true);
    if (begin >= end && !last) return;
    each_chunk(queries + pairs, none, rest_queries, false);
    each_chunk(queries + end, keys + end, pairs - end, false);
    read_again_ = last && (queries > 0 || keys > 0 || x_.wants_state());
    each_chunk(queries + begin, keys + begin, end - begin, true);
    if (!last) return;
    each_chunk(0, none, queries, false);
    each_chunk(none, 0, keys, true);
    for (index_t h = 0; h < task_.states; ++h) heads_[h]->state.end();
  }
  void begin_head(state_head& head, index_t h, index_t i, index_t first, index_t rest) {
    head.begin(task_.sequence, (task_.state + h) * x_.states_per_kv_head() + i);
    if (!head.gates.wanted()) return;
    const double term = terms_.state[task_.sequence.number * p_.states + head.number];
    head.gates.begin(task_.sequence, head.number, term, first, rest);
  }

  // Goes through chunks from the last to the first; they begin at multiples of chunk_ from i and j on. writes: tokens
  // get their gradients; else R goes past them.
  void each_chunk(index_t i, index_t j, index_t count, bool writes) {
    for (index_t at = (count - 1) / chunk_ * chunk_; count > 0 && at >= 0; at -= chunk_)
      for (index_t h = 0; h < task_.states; ++h)
        run_chunk(*heads_[h], i == none ? none : i + at, j == none ? none : j + at, std::min(chunk_, count - at),
                  at > 0, writes);
  }
  // more: there is a chunk before this one, and its rows are prefetched.
  void run_chunk(state_head& head, index_t i, index_t j, index_t n, bool more, bool writes) {
    const index_t kv_head = head.number / x_.states_per_kv_head();
    head.decay.begin_undecayed();
    if (j != none) head.decay.begin_chunk(j, n, true);
    prefetch_.clear();
    if (more) prefetch(head, i == none ? none : i - chunk_, j == none ? none : j - chunk_, writes);
    writes = writes && (x_.wants_keys() || x_.wants_values());
    if (head.gates.wanted() && j != none) cross(head, j + n);
    if (writes) tiles_.begin(kv_head, j, n, head.decay, head.state, head.gates);
    const index_t heads = x_.queries_per_state(), first = head.number * heads;
    for (index_t q = first; i != none && q < first + heads; ++q) {
      read_queries(q, i, n);
      if (writes) tiles_.add_pairs(queries_);
      if (more || j == none || read_again_)
        head.state.update({queries_.u, queries_.dout, queries_.minus_delta}, features_, head.decay, prefetch_,
                          q > first);
    }
    if (j != none && (i == none || heads == 0)) head.state.scale(head.decay.block_decay());
    if (!writes) return;
    tiles_.finish(add_);
    if (head.gates.wanted()) head.gates.write(head.decay, j, n);
  }

  // Sets what crosses the end of a chunk, before token j, where the state there is saved.
  void cross(state_head& head, index_t j) const {
    const T* const s = terms_.states.before(task_.sequence, split_, head.number, j);
    if (s == nullptr || head.state.empty()) return;
    double sum = 0;
    for (index_t f = 0; f < p_.features; ++f)
      sum += dot_in_double(s + f * p_.e, head.state.s() + f * head.state.stride(), p_.e);
    head.gates.cross(sum);
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

  // The rows of heads side by side share pages.
  void prefetch(const state_head& head, index_t i, index_t j, bool writes) {
    const sequence& s = task_.sequence;
    const index_t q = head.number * x_.queries_per_state(), kv_head = head.number / x_.states_per_kv_head();
    const bool pages = kv_head == task_.state;
    index_t number = 0;
    const auto set = [&](const auto& x, const std::byte* row) {
      prefetch_.set(number++, {row, x.row_bytes(), chunk_, x.extent(3) * x.element_bytes()}, pages, true);
    };
    if (i != none && x_.queries_per_state() > 0) set(p_.q, p_.query(s, q, i)), set(x_.dout, x_.dout_row(s, q, i));
    if (j == none || !writes) return;
    set(p_.k, p_.key(s, kv_head, j)), set(p_.v, p_.value(s, kv_head, j));
    if (x_.dk.data() != nullptr) set(x_.dk, x_.dk.row(s.batch, kv_head, s.first_key + j));
    if (x_.dv.data() != nullptr) set(x_.dv, x_.dv.row(s.batch, kv_head, s.first_key + j));
  }

  // Writes zeros to the gradients of tokens that key_lengths hides.
  void write_padding(index_t keys) const {
    const sequence& s = task_.sequence;
    const index_t all =
        p_.packed() ? p_.mask.key_offsets[static_cast<std::size_t>(s.number) + 1] - s.first_key : p_.k.extent(2);
    for (const heed::detail::output_tensor* const x : {&x_.dk, &x_.dv})
      for (index_t h = task_.state; h < (x->data() != nullptr ? task_.state + task_.states : 0); ++h)
        for (index_t j = keys; j < all; ++j) {
          T* const row = tile::row_as<T>(x->row(s.batch, h, s.first_key + j));
          std::fill(row, row + x->extent(3), T(0));
        }
  }

  const backward_problem<T>& x_;
  const recurrence<T>& p_;
  const sweep_terms<T>& terms_;
  index_t chunk_;
  chunk_task task_ = {};
  causal_split split_ = {};
  bool add_ = false;        // to the gradients that other states have written
  bool read_again_ = true;  // R before the last chunk
  chunk_features<T> features_;
  tile::prefetch_queue<T> prefetch_;
  key_gradients<T> tiles_;
  bool scaled_;
  chunk_rows<T> u_, dout_;
  T *factor_, *minus_delta_;
  chunk_queries<T> queries_ = {};
  tile::lane_array<std::optional<state_head>, max_states_per_task> heads_;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
