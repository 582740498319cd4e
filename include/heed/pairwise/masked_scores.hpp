// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What happens to the scores of a tile between the product with K and the softmax, whatever unit multiplies: score
// mods, masks, and the maximum of each lane.
//
// Full key tiles, which every lane sees, run without a test. In partial ones the keys are cut into runs that the same
// vectors see, and pairs are tested only in the steps where a mask cuts through a vector. Scores that score mods change
// are made and changed 48 keys at a time, in L1.

#include "heed/pairwise/key_tiles.hpp"
#include "heed/pairwise/visibility.hpp"
#include "heed/tile/online_softmax.hpp"
#include "heed/tile/pack.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Scores [key][lane] of vectors [from, to) of a tile's lanes
template <class T> struct score_rows {
  T* data;
  index_t stride, from, to;

  HEED_INLINE tile::lane_block<T> part(const weight_block& b) const {
    constexpr index_t w = simd::width<T>;
    return {data + b.first * stride + (b.from - from) * w, stride, b.keys, (b.to - b.from) * w};
  }
};

template <class T> class masked_scores {
 public:
  static constexpr index_t w = simd::width<T>, step = visibility<T>::step;
  static constexpr index_t score_block = 48;  // keys whose scores are changed while they are in L1
  static_assert(visibility<T>::most_keys / step <= key_runs::capacity && score_block % step == 0);

  // together: so many neighbouring vectors are never in different runs or blocks
  explicit masked_scores(const attention<T>& p, index_t together = 1) : seen_(p), together_(together) {}

  void begin(const sequence& s, const row_tile& rows) {
    vectors_ = (rows.count + w - 1) / w;
    HEED_ASSERT(vectors_ % together_ == 0);
    seen_.begin(s, rows, w, rows.count, lane_per_row{});
  }
  index_t vectors() const { return vectors_; }
  key_spans spans() const { return seen_.spans(); }
  bool modifies() const { return seen_.modifies_scores(); }
  void record_slopes(const score_slopes<T>& slopes) { seen_.record_slopes(slopes); }
  const score_mods<T>& mods() const { return seen_.mods(); }

  // Notes what the lanes see of a tile, the one that add_blocks and scores are asked about next.
  void classify(key_tile<T>& keys) {
    keys.full = !keys.partial && !seen_.tests_pairs();
    if (keys.full) return;
    seen_.classify(keys.key, keys.keys, vectors_, runs_);
    keys.full = runs_.full;
    if (together_ > 1 && !keys.full) join_vectors();
  }

  // Sets the blocks of vectors [from, to): one where all is seen, else neighbouring vectors that see the same keys.
  void add_blocks(key_tile<T>& keys, index_t from, index_t to) const {
    keys.count = 0;
    if (keys.full) keys.block[keys.count++] = {0, keys.keys, from, to};
    for (index_t a = from, b = 0; !keys.full && runs_.count > 0 && a < to; a = b) {
      const index_t first = runs_.first_key[a], end = runs_.end_key[a];
      for (b = a + 1; b < to && runs_.first_key[b] == first && runs_.end_key[b] == end;) ++b;
      if (first < end) keys.block[keys.count++] = {first, end - first, a, b};
    }
  }

  // Makes s of the tile's blocks, hidden pairs at -inf; with m, per lane of them: row_max = max(m, s), both from lane 0
  // of the tile on. product(b, row_max): s = K q over the block; row_max, of its lanes, if not null, is raised.
  template <class Product>
  void scores(const key_tile<T>& keys, const score_rows<T>& s, const T* m, T* row_max, Product product) {
    keys.full ? full_tile(keys, s, m, row_max, product) : partial_tile(keys, s, m, row_max, product);
  }

 private:
  static constexpr T hidden = -std::numeric_limits<T>::infinity();

  void join_vectors() {
    const index_t n = together_;
    for (index_t v = 0; v < vectors_; v += n) {
      index_t first = runs_.first_key[v], end = runs_.end_key[v];
      for (index_t x = v + 1; x < v + n; ++x)
        first = std::min(first, runs_.first_key[x]), end = std::max(end, runs_.end_key[x]);
      std::fill(&runs_.first_key[v], &runs_.first_key[v] + n, first);
      std::fill(&runs_.end_key[v], &runs_.end_key[v] + n, end);
    }
    for (index_t i = 0; i < runs_.count; ++i)
      runs_.run[i].from = runs_.run[i].from / n * n, runs_.run[i].to = (runs_.run[i].to + n - 1) / n * n;
  }

  score_region<T> region(const key_tile<T>& keys, const score_rows<T>& s, const weight_block& b) const {
    return {s.part(b).data, s.stride, keys.key + b.first, b.keys, b.from, b.to};
  }

  template <class Product>
  void full_tile(const key_tile<T>& keys, const score_rows<T>& s, const T* m, T* row_max, Product product) const {
    const weight_block& all = keys.block[0];
    if (m != nullptr) std::copy(m + all.from * w, m + all.to * w, row_max + all.from * w);
    if (!modifies()) return product(all, m != nullptr ? row_max + all.from * w : nullptr);
    for (index_t first = 0; first < keys.keys; first += score_block) {
      const weight_block b{first, std::min(score_block, keys.keys - first), all.from, all.to};
      product(b, static_cast<T*>(nullptr));
      seen_.modify(region(keys, s, b));
      if (m != nullptr) tile::raise_max<T>(s.part(b), row_max + b.from * w, row_max + b.from * w);
    }
  }

  template <class Product>
  void partial_tile(const key_tile<T>& keys, const score_rows<T>& s, const T* m, T* row_max, Product product) {
    seen_.begin_tile(keys.key, vectors_ * w);
    for (index_t i = 0; i < runs_.count; ++i) {
      const key_run& run = runs_.run[i];
      const index_t from = std::max(run.from, s.from), to = std::min(run.to, s.to);
      if (from >= to) continue;
      for (index_t first = run.first; first < run.first + run.keys; first += score_block)
        visible_scores(keys, s, {first, std::min(score_block, run.first + run.keys - first), from, to}, product);
    }
    for (index_t i = 0; i < keys.count; ++i) {
      const weight_block& b = keys.block[i];
      for (index_t x = b.from; x < b.to; ++x) close_gaps(s, x, b.first, b.first + b.keys);
      if (m != nullptr) tile::raise_max<T>(s.part(b), m + b.from * w, row_max + b.from * w);
    }
  }

  // Through all score mods, with hidden pairs at -inf; b.first: a whole number of steps
  template <class Product>
  void visible_scores(const key_tile<T>& keys, const score_rows<T>& s, const weight_block& b, Product product) {
    product(b, static_cast<T*>(nullptr));
    seen_.modify(region(keys, s, b));
    for (index_t a = b.first; a < b.first + b.keys; a += step)
      for (index_t x = b.from; x < b.to; ++x) {
        const weight_block here{a, std::min(step, b.first + b.keys - a), x, x + 1};
        const coverage seen = runs_.step_coverage[a / step][x];
        if (seen == coverage::empty) tile::fill(s.part(here).data, s.stride, here.keys, w, hidden);
        if (seen == coverage::partial) seen_.hide(region(keys, s, here));
      }
    seen_.hide_by_user(region(keys, s, b));
  }

  // Keys between a vector's first and last that no run computed for it: hidden
  void close_gaps(const score_rows<T>& s, index_t vector, index_t first, index_t end) const {
    index_t covered = first;
    for (index_t i = 0; i < runs_.count; ++i) {
      const key_run& run = runs_.run[i];
      if (run.from > vector || run.to <= vector) continue;
      const weight_block gap{covered, run.first - covered, vector, vector + 1};
      if (gap.keys > 0) tile::fill(s.part(gap).data, s.stride, gap.keys, w, hidden);
      covered = run.first + run.keys;
    }
    HEED_ASSERT(covered == end);
    static_cast<void>(end);
  }

  visibility<T> seen_;
  index_t together_, vectors_ = 0;
  key_runs runs_;  // of the tile at hand
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
