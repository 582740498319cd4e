// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A tile of queries in lanes against its keys, tile after tile of them:
//
//   s[key][lane] = score(scale q[lane] . k[key])  in units of log 2,  -inf where lane does not see key
//
// Any rows that share keys make a tile, each lane with its own place. Full key tiles, which every lane sees, run
// without a test. In partial ones the keys are cut into runs that the same vectors see, and pairs are tested only in
// the steps where a mask cuts through a vector. Scores that score mods change are made and changed 48 keys at a time,
// in L1.

#include "heed/pairwise/key_tiles.hpp"
#include "heed/pairwise/visibility.hpp"
#include "heed/tile/online_softmax.hpp"
#include "heed/tile/pack.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class score_tiles {
 public:
  static constexpr index_t w = simd::width<T>, most_rows = tile::max_lanes<T>, most_keys = visibility<T>::most_keys;
  static constexpr index_t step = visibility<T>::step;
  static constexpr index_t score_block = 48;  // keys whose scores are changed while they are in L1
  static_assert(most_rows <= lane_capacity && most_keys / step <= key_runs::capacity && score_block % step == 0);

  static index_t tiles(index_t rows) { return (rows + most_rows - 1) / most_rows; }

  // k_use: again where its caller reads the rows of K too
  score_tiles(const attention<T>& p, heed::detail::arena& memory, tile::row_use k_use = tile::row_use::once)
      : p_(p), q_(memory.take<T>(most_rows * p.d)), kv_(p, most_keys, k_use, tile::row_use::again, memory), seen_(p) {}

  void begin(const sequence& s, index_t kv_head, const row_tile& rows) {
    vectors_ = (rows.count + w - 1) / w, stride_ = vectors_ * w;
    kv_.begin(s, kv_head);
    p_.q_format->gather(find_rows(rows, p_.q, s, p_.repeat).data(), rows.count, p_.d, p_.scores.query_factor, q_,
                        stride_);
    seen_.begin(s, rows, w, rows.count, lane_per_row{});
  }

  index_t vectors() const { return vectors_; }
  index_t stride() const { return stride_; }  // lanes in whole vectors: the stride of everything [..][lane]
  tile::lane_block<T> lanes_of(T* x, index_t rows) const { return {x, stride_, rows, stride_}; }
  kv_tiles<T>& kv() { return kv_; }
  tile::row_prefetcher<T> next_keys(const key_tile<T>& keys) { return kv_.k().stream(keys.next, keys.next_keys); }

  // f(number, tile) for the key tiles from number `first` on; scores() is for the tile at hand.
  template <class F> void each(F f, index_t first = 0) {
    index_t number = 0;
    kv_.each(seen_.spans(), even_keys, [&](key_tile<T>& keys) {
      if (number >= first) add_blocks(keys), f(number, keys);
      ++number;
    });
  }

  // s[key][lane] of the tile's blocks; with m, per lane of them: row_max = max(m, s). prefetch: rows that come next
  void scores(const key_tile<T>& keys, T* s, const T* m, T* row_max, tile::row_prefetcher<T>* prefetch = nullptr) {
    prefetch_ = prefetch;
    const tile::lane_block<T> all = lanes_of(s, keys.keys);
    keys.full ? full_tile(keys, all, m, row_max) : partial_tile(keys, all, m, row_max);
    prefetch_ = nullptr;
  }

 private:
  static constexpr T hidden = -std::numeric_limits<T>::infinity();

  // Tiles of nearly one size
  static index_t even_keys(const key_span& span) {
    const index_t keys = span.end - span.first, tiles = (keys + most_keys - 1) / most_keys;
    return ((keys + tiles - 1) / tiles + step - 1) / step * step;
  }

  // One block where all is seen, else neighbouring vectors that see the same keys
  void add_blocks(key_tile<T>& keys) {
    keys.full = !keys.partial && !seen_.tests_pairs();
    if (!keys.full) {
      seen_.classify(keys.key, keys.keys, vectors_, runs_);
      keys.full = runs_.full;
    }
    if (keys.full) keys.block[keys.count++] = {0, keys.keys, 0, vectors_};
    for (index_t from = 0, to = 0; !keys.full && runs_.count > 0 && from < vectors_; from = to) {
      const index_t first = runs_.first_key[from], end = runs_.end_key[from];
      for (to = from + 1; to < vectors_ && runs_.first_key[to] == first && runs_.end_key[to] == end;) ++to;
      if (first < end) keys.block[keys.count++] = {first, end - first, from, to};
    }
  }

  score_region<T> region(const key_tile<T>& keys, const tile::lane_block<T>& s, const weight_block& b) const {
    return {b.of(s).data, s.stride, keys.key + b.first, b.keys, b.from, b.to};
  }

  // s = K q; row_max, if not null, is raised to the largest
  void product(const key_tile<T>& keys, const tile::lane_block<T>& s, const weight_block& b,
               T* row_max = nullptr) const {
    const tile::lane_block<const T> k = b.rows_of(keys.k);
    tile::matrix_product<T> p = tile::product_of<T>(k.data, k.stride, 1, {q_ + b.from * w, stride_, p_.d}, b.of(s));
    p.row_max = row_max;
    tile::multiply_streaming<T>(p, b.to - b.from, prefetch_);
  }

  void full_tile(const key_tile<T>& keys, const tile::lane_block<T>& s, const T* m, T* row_max) const {
    if (m != nullptr) std::copy(m, m + stride_, row_max);
    if (!seen_.modifies_scores()) return product(keys, s, keys.block[0], m != nullptr ? row_max : nullptr);
    for (index_t first = 0; first < keys.keys; first += score_block) {
      const weight_block b{first, std::min(score_block, keys.keys - first), 0, vectors_};
      product(keys, s, b);
      seen_.modify(region(keys, s, b));
      if (m != nullptr) tile::raise_max<T>(b.of(s), row_max, row_max);
    }
  }

  void partial_tile(const key_tile<T>& keys, const tile::lane_block<T>& s, const T* m, T* row_max) {
    seen_.begin_tile(keys.key, stride_);
    for (index_t i = 0; i < runs_.count; ++i) {
      const key_run& run = runs_.run[i];
      for (index_t first = run.first; first < run.first + run.keys; first += score_block)
        visible_scores(keys, s, {first, std::min(score_block, run.first + run.keys - first), run.from, run.to});
    }
    for (index_t i = 0; i < keys.count; ++i) {
      const weight_block& b = keys.block[i];
      for (index_t x = b.from; x < b.to; ++x) close_gaps(s, x, b.first, b.first + b.keys);
      if (m != nullptr) tile::raise_max<T>(b.of(s), m + b.from * w, row_max + b.from * w);
    }
  }

  // Through all score mods, with hidden pairs at -inf; b.first: a whole number of steps
  void visible_scores(const key_tile<T>& keys, const tile::lane_block<T>& s, const weight_block& b) {
    product(keys, s, b);
    seen_.modify(region(keys, s, b));
    for (index_t a = b.first; a < b.first + b.keys; a += step)
      for (index_t x = b.from; x < b.to; ++x) {
        const weight_block here{a, std::min(step, b.first + b.keys - a), x, x + 1};
        const coverage seen = runs_.step_coverage[a / step][x];
        if (seen == coverage::empty) tile::fill(here.of(s).data, stride_, here.keys, w, hidden);
        if (seen == coverage::partial) seen_.hide(region(keys, s, here));
      }
    seen_.hide_by_user(region(keys, s, b));
  }

  // Keys between a vector's first and last that no run computed for it: hidden
  void close_gaps(const tile::lane_block<T>& s, index_t vector, index_t first, index_t end) const {
    index_t covered = first;
    for (index_t i = 0; i < runs_.count; ++i) {
      const key_run& run = runs_.run[i];
      if (run.from > vector || run.to <= vector) continue;
      if (run.first > covered) tile::fill(s.row(covered) + vector * w, stride_, run.first - covered, w, hidden);
      covered = run.first + run.keys;
    }
    HEED_ASSERT(covered == end);
    static_cast<void>(end);
  }

  const attention<T>& p_;
  T* q_;
  kv_tiles<T> kv_;
  visibility<T> seen_;
  tile::row_prefetcher<T>* prefetch_ = nullptr;  // of the products of scores()
  index_t vectors_ = 0, stride_ = 0;
  key_runs runs_;  // of the tile at hand
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
