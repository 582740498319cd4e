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
#include <array>
#include <optional>

#include "heed/core/context.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/chunk_output.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/tile/row_stage.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Which of the chunks of pairs are read, as shares of all; those before are only absorbed.
struct piece {
  static constexpr index_t whole = index_t{1} << 20;
  index_t begin = 0, end = whole;
};

// Memories that a task takes through the tokens side by side, at most
inline constexpr index_t most_together = 8;

// Whether keys are copied: to be mapped, or far apart and read more than once as they are.
template <class T> bool copies_keys(const recurrence<T>& p) {
  if (p.mapped() && !p.taylor()) return true;
  return tile::far_rows<T>(p.k.stride(2), p.d) && (p.taylor() || p.decay == nullptr || p.readers > 1);
}

template <class T> class chunk_driver {
 public:
  // Chunks of up to `chunk` tokens, up to `columns` columns of v, up to `together` memories at once
  chunk_driver(const recurrence<T>& p, index_t chunk, index_t columns, index_t together, heed::detail::arena& memory)
      : p_(p),
        chunk_(chunk),
        features_(p, chunk, memory),
        reader_(p, chunk, columns, features_, meanwhile_, memory),
        k_(memory.take<T>(copies_keys(p) ? chunk * p.d : 0)),
        v_(memory.take<T>(tile::far_rows<T>(p.v.stride(2), p.e) ? chunk * odd_lines<T>(columns) : 0)) {
    for (index_t i = 0; i < together; ++i) heads_[static_cast<std::size_t>(i)].emplace(p, chunk, columns, memory);
  }
  chunk_driver(const chunk_driver&) = delete;  // the parts hold each other
  chunk_driver& operator=(const chunk_driver&) = delete;

  // Columns [first, first + columns) of v, with heads [state, state + count) of the state. Only the last piece writes
  // the state.
  void run(const track& t, index_t state, index_t count, index_t first, index_t columns, const piece& part = {}) {
    const auto [all_see, blind, pairs] = p_.order_of(t);
    const index_t n = t.queries, m = t.keys, chunks = (pairs + chunk_ - 1) / chunk_;
    const auto place_of = [&, pairs = pairs](index_t share) {
      return std::min(pairs, (share * chunks + piece::whole / 2) / piece::whole * chunk_);
    };
    const index_t begin = place_of(part.begin), end = place_of(part.end);
    const bool first_piece = part.begin == 0, last_piece = part.end == piece::whole;
    if (begin == end && !last_piece && (!first_piece || blind == 0)) return;  // fewer chunks than pieces

    t_ = t, count_ = count, first_ = first, columns_ = columns;
    for (index_t i = 0; i < count; ++i) head(i).begin(t, state + i, first, columns, p_);
    const auto absorb = [&](index_t j, index_t tokens, index_t next) { this->absorb(j, tokens, next); };
    const auto read = [&](index_t i, index_t tokens, index_t next) { this->read(i, tokens, next); };
    const auto pair = [&, key = all_see - blind](index_t i, index_t tokens, index_t next) {
      this->pair(i, key + i, tokens, next);
    };
    each_chunk(0, all_see, chunk_, absorb);
    if (first_piece) each_chunk(0, blind, tile, read);
    each_chunk(all_see, all_see + begin, chunk_, absorb);
    each_chunk(blind + begin, blind + end, chunk_, pair);
    if (!last_piece) return;
    each_chunk(blind + pairs, n, tile, read);
    each_chunk(all_see + pairs, m, chunk_, absorb);
    for (index_t i = 0; i < count; ++i) head(i).state.end();
  }

 private:
  static constexpr index_t tile = chunk_reader<T>::tile;

  // One of the memories
  struct memory_head {
    memory_head(const recurrence<T>& p, index_t chunk, index_t columns, heed::detail::arena& memory)
        : fade(p, chunk, memory), state(p, chunk, columns, memory) {}

    void begin(const track& t, index_t number, index_t first, index_t columns, const recurrence<T>& p) {
      kv_head = number / p.writers, first_query_head = number * p.readers;
      state.begin(t, number, first, columns);
      fade.begin_state(t, number);
    }

    recurrent::fade<T> fade;
    chunk_state<T> state;
    index_t kv_head = 0, first_query_head = 0;
  };
  memory_head& head(index_t i) { return *heads_[static_cast<std::size_t>(i)]; }

  // f(first, count, count of the next) for chunks of [first, end)
  template <class F> static void each_chunk(index_t first, index_t end, index_t most, F f) {
    for (index_t i = first, count = 0; i < end; i += count) {
      count = std::min(most, end - i);
      f(i, count, std::min(most, end - i - count));
    }
  }

  // Tokens [j, j + n) go into the state
  void absorb(index_t j, index_t n, index_t next) {
    for (index_t x = 0; x < count_; ++x) {
      begin_tokens(head(x), j, n);
      meanwhile_.clear();
      ask_tokens(head(x), j + n, next, x == 0);
      head(x).state.update(tokens_, features_, head(x).fade, meanwhile_);
    }
  }
  // Queries [i, i + n) read the state, n <= tile
  void read(index_t i, index_t n, index_t next) {
    for (index_t x = 0; x < count_; ++x) {
      meanwhile_.clear();
      ask_queries(head(x), i + n, next, x == 0);
      reader_.use(head(x).fade, head(x).state);
      each_query_head(head(x), [&](index_t q) { reader_.read(t_, {}, q, i, n, -1, first_, columns_); });
    }
  }
  // Both: query i comes with token j
  void pair(index_t i, index_t j, index_t n, index_t next) {
    for (index_t x = 0; x < count_; ++x) {
      begin_tokens(head(x), j, n);
      meanwhile_.clear();
      ask_queries(head(x), i + n, next, x == 0), ask_tokens(head(x), j + n, next, x == 0);
      reader_.use(head(x).fade, head(x).state);
      each_query_head(head(x), [&](index_t q) {
        for (index_t at = 0; at < n; at += tile)
          reader_.read(t_, tokens_, q, i + at, std::min(tile, n - at), at, first_, columns_);
      });
      head(x).state.update(tokens_, features_, head(x).fade, meanwhile_);
    }
  }
  template <class F> void each_query_head(const memory_head& x, F f) const {
    for (index_t q = x.first_query_head; q < x.first_query_head + p_.readers; ++q) f(q);
  }

  // The chunk's keys, through the feature map, and its values
  void begin_tokens(memory_head& x, index_t j, index_t n) {
    x.fade.begin_chunk(j, n);
    tokens_ = {p_.key(t_, x.kv_head, j), p_.k.stride(2), p_.value(t_, x.kv_head, j) + first_, p_.v.stride(2), n};
    if (v_ != nullptr) {
      const index_t row = odd_lines<T>(columns_);
      tile::copy_rows(tokens_.values, tokens_.value_row, n, columns_, v_, row);
      tokens_.values = v_, tokens_.value_row = row;
    }
    if (k_ == nullptr) return;
    tile::copy_rows(tokens_.keys, tokens_.key_row, n, p_.d, k_, p_.d);
    if (p_.mapped() && !p_.taylor()) map_rows(p_.map, k_, n, p_.d);
    tokens_.keys = k_, tokens_.key_row = p_.d;
  }

  // While a chunk is computed, the rows of the next are asked for: queries from i, tokens from j, `next` of each; their
  // pages with the first of the memories.
  void ask_queries(const memory_head& x, index_t i, index_t next, bool pages) {
    if (next == 0) return;
    meanwhile_.ask(0, p_.query(t_, x.first_query_head, i), p_.q.stride(2), next, p_.d, pages);
    meanwhile_.ask(3, p_.output(t_, x.first_query_head, i) + first_, p_.o.stride(2), next, columns_, pages);
  }
  void ask_tokens(const memory_head& x, index_t j, index_t next, bool pages) {
    if (next == 0) return;
    meanwhile_.ask(1, p_.key(t_, x.kv_head, j), p_.k.stride(2), next, p_.d, pages);
    meanwhile_.ask(2, p_.value(t_, x.kv_head, j) + first_, p_.v.stride(2), next, columns_, pages);
  }

  const recurrence<T>& p_;
  index_t chunk_;
  chunk_features<T> features_;
  tile::drips<T> meanwhile_;
  chunk_reader<T> reader_;
  T *k_, *v_;  // rows of the chunk, or null: as they are
  std::array<std::optional<memory_head>, static_cast<std::size_t>(most_together)> heads_;
  track t_ = {};
  index_t count_ = 0, first_ = 0, columns_ = 0;  // of the task
  chunk_tokens<T> tokens_ = {};                  // of the chunk
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
