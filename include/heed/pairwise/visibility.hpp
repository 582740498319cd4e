// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Which pairs of a tile of rows are visible, and what changes their scores: ranges of keys, masks that are asked pair
// by pair, and score mods, for both drivers.

#include "heed/pairwise/pair_masks.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Sets scores of one vector of lanes to -inf where key r.first + j is not in [lo, hi) or below keep_first; all of them
// relative to the tile and small, hence exact in T.
template <class T> HEED_NOINLINE void hide(const score_region<T>& r, const T* lo, const T* hi, T keep_first) {
  using batch = simd::batch<T>;
  const batch low = simd::load(lo), high = simd::load(hi), kept(keep_first);
  const batch hidden(-std::numeric_limits<T>::infinity());
  T* s = r.scores;
  for (index_t j = r.first; j < r.first + r.keys; ++j, s += r.stride) {
    const batch key(static_cast<T>(j));
    simd::store(s, simd::select<T>(((key >= low) | (key < kept)) & (key < high), simd::load(s), hidden));
  }
}

template <class T> class visibility {
 public:
  static constexpr index_t w = simd::width<T>;
  static constexpr index_t step = w < 8 ? 8 : w;  // keys that are classified at once
  static constexpr index_t most_keys = 256;       // of a tile

  explicit visibility(const attention<T>& p)
      : p_(p), tests_pairs_(pair_masks<T>::any_in(p.mask)), modifies_(p.scores.any()) {}

  // width: of a vector of ranges; lanes and place_of: as score_mods::begin
  template <class PlaceOf>
  void begin(const sequence& s, const row_tile& rows, index_t width, index_t lanes, PlaceOf place_of) {
    const key_rule rule = make_rule(p_.mask, s.number, s.keys);
    const index_t place = first_place(p_.align, p_.mask, s.number, s.queries, s.keys);
    lost_ = p_.lost(s, rows.row[0].head / p_.group);
    keys_ = s.keys;
    ranges_.lanes = rows.count, ranges_.keep_first = rule.keep_first;
    for (index_t l = 0; l < rows.count; ++l) ranges_.lane[l] = rule.at(place + rows.row[l].query);
    ranges_.complete(width);
    if (tests_pairs_) pairs_.begin(p_.mask, s, rows);
    if (const bool called = p_.calls_functions(); modifies_ || called)
      mods_.begin(p_.scores, s, rows, place, called, lanes, place_of);
  }

  key_spans spans() const {
    if (lost_.first == lost_.end) return make_spans(ranges_);
    key_set kept;
    kept.add(0, lost_.first), kept.add(lost_.end, keys_);
    return clipped(make_spans(ranges_), kept);
  }
  bool modifies_scores() const { return modifies_; }
  bool tests_pairs() const { return tests_pairs_; }

  // Asks modify() for the slopes of what it does, too.
  void record_slopes(const score_slopes<T>& slopes) { slopes_ = slopes; }
  void modify(const score_region<T>& r) const {
    if (modifies_) mods_.apply(p_.scores, r, slopes_);
  }
  const score_mods<T>& mods() const { return mods_; }

  // Queries in lanes: what each vector sees of each step of keys [first, first + keys), for hide()
  void classify(index_t first, index_t keys, index_t vectors, key_runs& out) {
    const auto in_range = [this](index_t a, index_t b, index_t) {
      return [this, a, b](index_t vector) { return ranges_.classify(vector, a, b); };
    };
    const auto in_both = [this](index_t a, index_t b, index_t number) {
      return [this, keys = pairs_.step(a, b, number)](index_t vector) {
        const coverage seen = ranges_.classify(vector, keys.first, keys.end);
        if (seen == coverage::empty) return seen;
        const coverage kept = pairs_.classify(keys, vector);
        return kept == coverage::full ? seen : kept;
      };
    };
    tests_pairs_ ? make_runs(first, keys, vectors, step, in_both, out)
                 : make_runs(first, keys, vectors, step, in_range, out);
  }

  // Before hide() in the tile of keys from `key` on, for `lanes` lanes
  void begin_tile(index_t key, index_t lanes) {
    key_ = key;
    for (index_t l = 0; l < lanes; ++l) lo_[l] = relative(ranges_.lane[l].lo), hi_[l] = relative(ranges_.lane[l].hi);
  }
  // Sets to -inf what is hidden of a step for one vector of lanes, but for the user's predicate.
  void hide(score_region<T> r) const {
    if (tests_pairs_) pairs_.hide(r, (r.first - key_) / step);
    if (ranges_.classify(r.from, r.first, r.first + r.keys) == coverage::full) return;
    r.first -= key_;
    pairwise::hide(r, &lo_[r.from * w], &hi_[r.from * w], relative(ranges_.keep_first));
  }
  void hide_by_user(const score_region<T>& r) const {
    if (tests_pairs_) pairs_.hide_by_user(r, mods_);
  }

  // Rows side by side, as score_region has them: whether no row sees any of the keys [first, end) under any predicate
  bool hides_all(index_t first, index_t end) const {
    return tests_pairs_ && pairs_.hides_all(pairs_.step(first, end, 0), ranges_.lanes);
  }
  // The same hide() for rows [row, row + rows)
  HEED_NOINLINE void hide_rows(const score_region<T>& r, index_t row, index_t rows) const {
    const index_t apart = w / r.key_step;
    for (index_t x = 0; x < rows; ++x) {
      const visible sees = ranges_.lane[row + x];
      for (index_t key = r.first; key < r.first + r.keys; ++key)
        if (key >= sees.hi || (key < sees.lo && key >= ranges_.keep_first) ||
            (tests_pairs_ && !pairs_.sees(row + x, key)))
          r.scores[(key - r.first) * apart + x] = -std::numeric_limits<T>::infinity();
    }
  }

 private:
  // A key as seen from the tile's first key, cut to what the tile can tell apart
  T relative(index_t key) const { return static_cast<T>(std::clamp<index_t>(key - key_, -1, most_keys + 1)); }

  const attention<T>& p_;
  bool tests_pairs_, modifies_;
  lane_ranges ranges_;
  pair_masks<T> pairs_;
  score_mods<T> mods_;
  score_slopes<T> slopes_;
  typename attention<T>::lost_tokens lost_;
  index_t keys_ = 0, key_ = 0;  // keys_: of the sequence; key_: of the tile at hand
  tile::lane_array<T, lane_capacity> lo_, hi_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
