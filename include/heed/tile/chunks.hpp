// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Recurrences over a state S (features x E) in chunks of C tokens, at the speed of matrix products. With lambda_t how
// much of the state is left by token t (tile/fade.hpp; 1 where nothing fades) and phi the feature map:
//
//   S_t = lambda_t S_{t-1} + phi(k_t) v_t^T,   o_t = scale S_t^T phi(q_t)
//
// A chunk's queries read the state before it and, pair by pair, the chunk's own tokens (tile/chunk_reader.hpp); then
// its keys and values go into the state (tile/chunk_state.hpp). Per token and head 4 D E + (C + w)(D + E) FLOPs, w the
// vector width: the diagonal is a staircase of w x w squares. Traffic: q, k, v and o once; S stays in cache (D E
// numbers, read twice and written once per chunk). More tokens in a chunk cost more pairs, fewer cost more passes over
// S: see chunk_of() in tile/chunk_tasks.hpp for the balance. A chunk longer than the lanes of a tile is read tile by
// tile. The blocks are those of tile/multiply.hpp.
//
// normalize: z_t = z_{t-1} + phi(k_t), and o_t is divided by scale z_t.phi(q_t) + eps.
//
// Qin et al., Lightning Attention-2 (arXiv 2401.04658); Katharopoulos et al. (arXiv 2006.16236); Arora et al., Based
// (arXiv 2402.18668).

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/tile/chunk_features.hpp"
#include "heed/tile/chunk_reader.hpp"
#include "heed/tile/chunk_state.hpp"
#include "heed/tile/drip.hpp"
#include "heed/tile/fade.hpp"
#include "heed/tile/features.hpp"
#include "heed/tile/recurrence.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Which of the chunks of pairs are read, as shares of all; those before are only absorbed.
struct piece {
  static constexpr index_t whole = index_t{1} << 20;
  index_t begin = 0, end = whole;
};

template <class T> class chunk_driver {
 public:
  // Chunks of up to `chunk` tokens, up to `columns` columns of v
  chunk_driver(const recurrence<T>& p, index_t chunk, index_t columns, heed::detail::arena& memory)
      : p_(p),
        chunk_(chunk),
        fade_(p, chunk, memory),
        features_(p, chunk, memory),
        state_(p, chunk, columns, memory),
        reader_(p, chunk, columns, features_, fade_, state_, meanwhile_, memory),
        k_(memory.take<T>(p.mapped() && !p.taylor() ? chunk * p.d : 0)) {}
  chunk_driver(const chunk_driver&) = delete;  // the parts hold each other
  chunk_driver& operator=(const chunk_driver&) = delete;

  // Columns [first, first + columns) of v, with the state's head number `state`. Only the last piece writes the state.
  void run(const track& t, index_t state, index_t first, index_t columns, const piece& part = {}) {
    const auto [all_see, blind, pairs] = p_.order_of(t);
    const index_t n = t.queries, m = t.keys, chunks = (pairs + chunk_ - 1) / chunk_;
    const auto place_of = [&, pairs = pairs](index_t share) {
      return std::min(pairs, (share * chunks + piece::whole / 2) / piece::whole * chunk_);
    };
    const index_t begin = place_of(part.begin), end = place_of(part.end);
    const bool first_piece = part.begin == 0, last_piece = part.end == piece::whole;
    if (begin == end && !last_piece && (!first_piece || blind == 0)) return;  // fewer chunks than pieces

    t_ = t, kv_head_ = state / p_.writers, first_head_ = state * p_.readers, first_ = first, columns_ = columns;
    state_.begin(t, state, first, columns);
    fade_.begin_state(t, state);
    const auto absorb = [&](index_t j, index_t count, index_t next) { this->absorb(j, count, next); };
    const auto read = [&](index_t i, index_t count, index_t next) { this->read(i, count, next); };
    const auto pair = [&, key = all_see - blind](index_t i, index_t count, index_t next) {
      this->pair(i, key + i, count, next);
    };
    each_chunk(0, all_see, chunk_, absorb);
    if (first_piece) each_chunk(0, blind, tile, read);
    each_chunk(all_see, all_see + begin, chunk_, absorb);
    each_chunk(blind + begin, blind + end, chunk_, pair);
    if (!last_piece) return;
    each_chunk(blind + pairs, n, tile, read);
    each_chunk(all_see + pairs, m, chunk_, absorb);
    state_.end();
  }

 private:
  static constexpr index_t tile = chunk_reader<T>::tile;

  // f(first, count, count of the next) for chunks of [first, end)
  template <class F> static void each_chunk(index_t first, index_t end, index_t most, F f) {
    for (index_t i = first, count = 0; i < end; i += count) {
      count = std::min(most, end - i);
      f(i, count, std::min(most, end - i - count));
    }
  }

  // Tokens [j, j + n) go into the state
  void absorb(index_t j, index_t n, index_t next) {
    begin_tokens(j, n);
    meanwhile_.clear();
    ask_tokens(j + n, next);
    state_.update(tokens_, features_, fade_, meanwhile_);
  }
  // Queries [i, i + n) read the state, n <= tile
  void read(index_t i, index_t n, index_t next) {
    meanwhile_.clear();
    ask_queries(i + n, next);
    each_head([&](index_t head) { reader_.read(t_, {}, head, i, n, -1, first_, columns_); });
  }
  // Both: query i comes with token j
  void pair(index_t i, index_t j, index_t n, index_t next) {
    begin_tokens(j, n);
    meanwhile_.clear();
    ask_queries(i + n, next), ask_tokens(j + n, next);
    each_head([&](index_t head) {
      for (index_t at = 0; at < n; at += tile)
        reader_.read(t_, tokens_, head, i + at, std::min(tile, n - at), at, first_, columns_);
    });
    state_.update(tokens_, features_, fade_, meanwhile_);
  }
  template <class F> void each_head(F f) const {
    for (index_t head = first_head_; head < first_head_ + p_.readers; ++head) f(head);
  }

  // The chunk's keys, through the feature map, and its values
  void begin_tokens(index_t j, index_t n) {
    fade_.begin_chunk(j, n);
    tokens_ = {p_.key(t_, kv_head_, j), p_.k.stride(2), p_.value(t_, kv_head_, j) + first_, p_.v.stride(2), n};
    if (k_ == nullptr) return;
    for (index_t s = 0; s < n; ++s) {
      const T* const key = tokens_.keys + s * tokens_.key_row;
      std::copy(key, key + p_.d, k_ + s * p_.d);
    }
    map_rows(p_.map, k_, n, p_.d);
    tokens_.keys = k_, tokens_.key_row = p_.d;
  }

  // While a chunk is computed, the rows of the next are asked for: queries from i, tokens from j, `next` of each.
  void ask_queries(index_t i, index_t next) {
    if (next == 0) return;
    meanwhile_.ask(0, p_.query(t_, first_head_, i), p_.q.stride(2), next, p_.d);
    meanwhile_.ask(3, p_.output(t_, first_head_, i) + first_, p_.o.stride(2), next, columns_);
  }
  void ask_tokens(index_t j, index_t next) {
    if (next == 0) return;
    meanwhile_.ask(1, p_.key(t_, kv_head_, j), p_.k.stride(2), next, p_.d);
    meanwhile_.ask(2, p_.value(t_, kv_head_, j) + first_, p_.v.stride(2), next, columns_);
  }

  const recurrence<T>& p_;
  index_t chunk_;
  fade<T> fade_;
  chunk_features<T> features_;
  chunk_state<T> state_;
  drips<T> meanwhile_;
  chunk_reader<T> reader_;
  T* k_;
  track t_ = {};
  index_t kv_head_ = 0, first_head_ = 0, first_ = 0, columns_ = 0;  // of the task
  chunk_tokens<T> tokens_ = {};                                     // of the chunk
};

}  // namespace HEED_ISA
}  // namespace heed::tile
