// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A tile of queries in lanes against its keys, tile after tile of them:
//
//   s[key][lane] = score(scale q[lane] . k[key])  in units of log 2,  -inf where lane does not see key
//
// Any rows that share keys make a tile, each lane with its own place. Full key tiles, which every lane sees, run
// without a test. In partial ones the keys are cut into runs that the same vectors see, and pairs are tested only in
// the steps where a mask cuts through a vector. Where scores pass further steps (tile/scores.hpp) they are made and
// changed 48 keys at a time, in L1.

#include <array>

#include "heed/core/context.hpp"
#include "heed/pairwise/pair_masks.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/pairwise/row_tile.hpp"
#include "heed/tile/online_softmax.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/row_stage.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Keys [first, first + keys) of a key tile over vectors [from, to) of lanes: all of its weights are worth a product.
struct weight_block {
  index_t first, keys, from, to;
};

struct key_tile {
  index_t key = 0, keys = 0;        // the sequence's first key of it, how many
  index_t count = 0;                // of blocks; 0: no lane sees anything of it
  bool full = false;                // every lane sees every key: one block
  index_t next = 0, next_keys = 0;  // the tile after it; 0 keys: none
  std::array<weight_block, most_vectors> block{};
};

template <class T> class query_tile {
 public:
  static constexpr index_t w = simd::width<T>, most_rows = tile::max_lanes<T>, most_keys = 256;
  static constexpr index_t step = w < 8 ? 8 : w;  // keys of one step of the staircase
  static constexpr index_t chunk = 48;            // keys whose scores are changed while they are in L1
  static_assert(most_rows <= most_lanes && most_keys / step <= key_runs::most && chunk % step == 0);

  static index_t tiles(index_t rows) { return (rows + most_rows - 1) / most_rows; }

  // again: whether its caller reads the rows of K too
  query_tile(const attention<T>& p, heed::detail::arena& memory, bool again = false)
      : p_(p),
        q_(memory.take<T>(most_rows * p.d)),
        lo_(memory.take<T>(most_rows)),
        hi_(memory.take<T>(most_rows)),
        k_(p.k, most_keys, again, p.key_value_bytes(), memory) {}

  void begin(const sequence& s, index_t kv_head, const tile_rows& rows) {
    const key_rule rule = make_rule(p_.mask, s.number, s.keys);
    const index_t place = first_place(p_.align, p_.mask, s.number, s.queries, s.keys);
    vectors_ = (rows.count + w - 1) / w;
    row_ = vectors_ * w;
    if (s.keys > 0) k_.begin(p_.key(s, kv_head, 0));
    at_.lanes = rows.count, at_.keep_first = rule.keep_first;
    std::array<const T*, most_lanes> q;
    find_rows(rows, p_.q, s, p_.repeat, q);
    for (std::size_t l = 0; l < static_cast<std::size_t>(rows.count); ++l)
      at_.lane[l] = rule.at(place + rows.row[l].query);
    summarize(at_, w);
    tile::gather(q.data(), rows.count, p_.d, p_.scores.query_factor, q_, row_);
    pairs_ = pair_mask<T>::asked_by(p_.mask);
    if (p_.scores.any() || pairs_) begin_options(s, rows, place);
  }

  index_t vectors() const { return vectors_; }
  index_t row() const { return row_; }  // lanes in whole vectors: the stride of everything [..][lane]

  // f(number, tile) for the key tiles from number `first` on; scores() is for the tile at hand.
  template <class F> void each(F f, index_t first = 0) {
    const key_spans spans = make_spans(at_);
    index_t number = 0;
    for (index_t i = 0; i < spans.count; ++i) {
      const key_span& span = spans.span[static_cast<std::size_t>(i)];
      const index_t even = even_keys(span);
      for (index_t j = span.first; j < span.end; j += even, ++number) {
        if (number < first) continue;
        key_tile tile = look(j, std::min(even, span.end - j), span.partial);
        if (j + even < span.end) {
          tile.next = j + even, tile.next_keys = std::min(even, span.end - tile.next);
        } else if (i + 1 < spans.count) {
          const key_span& after = spans.span[static_cast<std::size_t>(i + 1)];
          tile.next = after.first, tile.next_keys = std::min(even_keys(after), after.end - after.first);
        }
        f(number, tile);
      }
    }
  }

  tile::row_stage<T>& key_rows() { return k_; }
  tile::row_stream<T> next_keys(const key_tile& tile) { return k_.stream(tile.next, tile.next_keys); }

  // s[key][lane] of the tile's blocks; with m, per lane of them: top = max(m, s). meanwhile: rows for what comes next
  void scores(const key_tile& tile, T* s, const T* m, T* top, tile::row_stream<T>* meanwhile = nullptr) {
    meanwhile_ = meanwhile;
    tile.full ? full_tile(tile, s, m, top) : partial_tile(tile, s, m, top);
    meanwhile_ = nullptr;
  }

 private:
  void partial_tile(const key_tile& tile, T* s, const T* m, T* top) {
    for (index_t lane = 0; lane < row_; ++lane) {
      lo_[lane] = relative(at_.lane[static_cast<std::size_t>(lane)].lo, tile.key);
      hi_[lane] = relative(at_.lane[static_cast<std::size_t>(lane)].hi, tile.key);
    }
    for (index_t i = 0; i < runs_.count; ++i) {
      const key_run& run = runs_.run[static_cast<std::size_t>(i)];
      for (index_t first = run.first; first < run.first + run.keys; first += chunk)
        visible_scores(tile, s, {first, std::min(chunk, run.first + run.keys - first), run.from, run.to});
    }
    for (index_t i = 0; i < tile.count; ++i) {
      const weight_block& b = tile.block[static_cast<std::size_t>(i)];
      for (index_t x = b.from; x < b.to; ++x) close_gaps(s, x, b.first, b.first + b.keys);
      if (m != nullptr)
        tile::raise(s + b.first * row_ + b.from * w, row_, b.keys, b.to - b.from, m + b.from * w, top + b.from * w);
    }
  }

  // Tiles of nearly one size
  static index_t even_keys(const key_span& span) {
    const index_t keys = span.end - span.first, parts = (keys + most_keys - 1) / most_keys;
    return ((keys + parts - 1) / parts + step - 1) / step * step;
  }

  void begin_options(const sequence& s, const tile_rows& rows, index_t place) {
    steps_.begin(p_.scores, s, p_.calls_functions());
    pair_mask_.begin(p_.mask, s);
    for (index_t l = 0; l < rows.count; ++l) {
      const auto [head, query] = rows.row[static_cast<std::size_t>(l)];
      steps_.set(p_.scores, l, head, query, place + query);
      pair_mask_.set(l, head, query);
    }
    steps_.complete(rows.count);
    pair_mask_.complete(rows.count);
  }

  key_tile look(index_t j, index_t keys, bool partial) {
    key_tile tile{.key = j, .keys = keys};
    if (partial || pairs_) {
      if (pairs_) {
        joint_sight<T> eyes(at_, pair_mask_, j);
        make_runs(eyes, j, keys, vectors_, step, runs_);
      } else {
        interval_sight eyes(at_);
        make_runs(eyes, j, keys, vectors_, step, runs_);
      }
      if (runs_.count == 0) return tile;
      if (!hides_nothing(keys)) {
        add_blocks(tile);
        return tile;
      }
    }
    tile.full = true, tile.count = 1;
    tile.block[0] = {0, keys, 0, vectors_};
    return tile;
  }
  bool hides_nothing(index_t keys) const {
    for (index_t a = 0; a < (keys + step - 1) / step; ++a)
      for (index_t x = 0; x < vectors_; ++x)
        if (runs_.step_sight[static_cast<std::size_t>(a)][static_cast<std::size_t>(x)] != sight::all) return false;
    return true;
  }
  // Neighbouring vectors that see the same keys
  void add_blocks(key_tile& tile) const {
    for (index_t from = 0, to = 0; from < vectors_; from = to) {
      const index_t first = runs_.first_key[static_cast<std::size_t>(from)],
                    end = runs_.end_key[static_cast<std::size_t>(from)];
      for (to = from + 1; to < vectors_ && runs_.first_key[static_cast<std::size_t>(to)] == first &&
                          runs_.end_key[static_cast<std::size_t>(to)] == end;)
        ++to;
      if (first < end) tile.block[static_cast<std::size_t>(tile.count++)] = {first, end - first, from, to};
    }
  }

  score_region<T> region(const key_tile& tile, T* s, const weight_block& b) const {
    return {s + b.first * row_ + b.from * w, row_, tile.key + b.first, b.keys, b.from, b.to};
  }

  // s = K q; top, if not null, is raised to the largest
  void product(const key_tile& tile, T* s, const weight_block& b, T* top = nullptr) const {
    const tile::row_block<T> k = k_.at(tile.key);
    tile::multiply_streaming<T>({.a = k.data + b.first * k.row,
                           .a_row = k.row,
                           .a_col = 1,
                           .b = q_ + b.from * w,
                           .b_row = row_,
                           .c = s + b.first * row_ + b.from * w,
                           .c_row = row_,
                           .rows = b.keys,
                           .depth = p_.d,
                           .top = top},
                          b.to - b.from, meanwhile_);
  }

  void full_tile(const key_tile& tile, T* s, const T* m, T* top) const {
    if (m != nullptr) std::copy(m, m + row_, top);
    if (!p_.scores.any()) return product(tile, s, tile.block[0], m != nullptr ? top : nullptr);
    for (index_t first = 0; first < tile.keys; first += chunk) {
      const weight_block part{first, std::min(chunk, tile.keys - first), 0, vectors_};
      product(tile, s, part);
      steps_.apply(p_.scores, region(tile, s, part));
      if (m != nullptr) tile::raise(s + first * row_, row_, part.keys, vectors_, top, top);
    }
  }

  // Through all steps, with hidden pairs at -inf; b.first: a whole number of steps
  void visible_scores(const key_tile& tile, T* s, const weight_block& b) {
    product(tile, s, b);
    if (p_.scores.any()) steps_.apply(p_.scores, region(tile, s, b));
    for (index_t a = b.first; a < b.first + b.keys; a += step) {
      const index_t count = std::min(step, b.first + b.keys - a), j = tile.key + a;
      for (index_t x = b.from; x < b.to; ++x) {
        const sight seen = runs_.step_sight[static_cast<std::size_t>(a / step)][static_cast<std::size_t>(x)];
        if (seen == sight::none) tile::fill(s + a * row_ + x * w, row_, count, w, hidden);
        if (seen != sight::some) continue;
        if (!at_.vector[static_cast<std::size_t>(x)].all(j, j + count, at_.keep_first))
          hide(s + x * w, row_, a, count, lo_ + x * w, hi_ + x * w, relative(at_.keep_first, tile.key));
        if (pairs_) pair_mask_.hide(region(tile, s, {a, count, x, x + 1}));
      }
    }
    if (pairs_) pair_mask_.hide_by_user(region(tile, s, b), steps_);
  }

  // Keys between a vector's first and last that no run computed for it: hidden
  void close_gaps(T* s, index_t vector, index_t first, index_t end) const {
    index_t covered = first;
    for (index_t i = 0; i < runs_.count; ++i) {
      const key_run& run = runs_.run[static_cast<std::size_t>(i)];
      if (run.from > vector || run.to <= vector) continue;
      if (run.first > covered) tile::fill(s + covered * row_ + vector * w, row_, run.first - covered, w, hidden);
      covered = run.first + run.keys;
    }
    HEED_ASSERT(covered == end);
    static_cast<void>(end);
  }

  // A key as seen from the tile's first key, cut to what the tile can tell apart
  static T relative(index_t key, index_t j) { return static_cast<T>(std::clamp<index_t>(key - j, -1, most_keys + 1)); }
  static constexpr T hidden = -std::numeric_limits<T>::infinity();

  const attention<T>& p_;
  T *q_, *lo_, *hi_;
  tile::row_stage<T> k_;
  tile::row_stream<T>* meanwhile_ = nullptr;  // of the products of scores()
  index_t vectors_ = 0, row_ = 0;
  bool pairs_ = false;  // some masks are asked pair by pair
  positions at_;
  key_runs runs_;  // of the tile at hand
  pair_mask<T> pair_mask_;
  score_steps<T> steps_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
