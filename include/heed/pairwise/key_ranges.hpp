// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks as ranges of keys. A rule turns a place on the key axis into the keys that it sees; a query tile turns the
// rules of its lanes into spans of keys: what is in no span is never visited, inside a full span nothing is tested.

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/simd/batch.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

inline constexpr index_t most_lanes = 64, most_vectors = 4;

// Keys j with (lo <= j or j < keep_first) and j < hi
struct visible {
  index_t lo, hi;
};

// Interval masks (causal, window, key_lengths, prefix_lm) of one sequence
struct key_rule {
  index_t keys = 0;               // keys present
  index_t left = -1, right = -1;  // -1: no limit
  index_t keep_first = 0;         // visible whatever left says
  index_t prefix = -1;            // visible whatever comes later, then up to the place; -1: no such rule

  HEED_INLINE visible at(index_t place) const {
    index_t hi = right < 0 ? keys : std::clamp<index_t>(place + right + 1, 0, keys);
    if (prefix >= 0) hi = std::min(hi, std::max(place + 1, prefix));
    const index_t lo = left < 0 ? 0 : std::clamp<index_t>(place - left, 0, hi);
    return {lo, hi};
  }
};

// place(i) = first + i in sequence b of n queries and m keys
HEED_INLINE index_t first_place(const heed::detail::alignment_parts& align, const heed::detail::mask_parts& mask,
                                index_t b, index_t n, index_t m) {
  if (align.has_first) return align.first[static_cast<std::size_t>(b)];
  if (align.end_of_lengths) return mask.lengths[static_cast<std::size_t>(b)] - n;
  return align.top_left ? 0 : m - n;
}

HEED_INLINE key_rule make_rule(const heed::detail::mask_parts& mask, index_t b, index_t m) {
  using kind = heed::detail::mask_parts;
  constexpr index_t beyond = std::numeric_limits<index_t>::max() / 8 + 1;  // more than any place
  key_rule rule{.keys = mask.has(kind::key_lengths) ? mask.lengths[static_cast<std::size_t>(b)] : m};
  if (mask.has(kind::window)) {
    rule.left = std::min(mask.left, beyond);
    rule.right = std::min(mask.right, beyond);
    rule.keep_first = rule.left < 0 ? 0 : mask.keep_first;
  }
  if (mask.has(kind::causal)) rule.right = 0;
  if (mask.has(kind::prefix_lm)) rule.prefix = mask.prefix[static_cast<std::size_t>(b)];
  return rule;
}

// Keys [first, end); partial: some lanes do not see some of them
struct key_span {
  index_t first, end;
  bool partial;
};

struct extremes {
  index_t min_lo, max_lo, min_hi, max_hi;

  HEED_INLINE void add(visible v) {
    min_lo = std::min(min_lo, v.lo), max_lo = std::max(max_lo, v.lo);
    min_hi = std::min(min_hi, v.hi), max_hi = std::max(max_hi, v.hi);
  }
  // No lane sees any key of [a, b); every lane sees all of them
  HEED_INLINE bool none(index_t a, index_t b, index_t keep_first) const {
    return a >= max_hi || (b <= min_lo && a >= keep_first);
  }
  HEED_INLINE bool all(index_t a, index_t b, index_t keep_first) const {
    return b <= min_hi && (a >= max_lo || b <= keep_first);
  }
};

struct positions {
  index_t lanes = 0, keep_first = 0;
  std::array<visible, most_lanes> lane;     // lanes of them, the rest of a last vector repeats the last
  std::array<extremes, most_lanes> vector;  // of each vector of lanes
  extremes tile;
};

// Completes p.vector and p.tile from p.lane[0 .. lanes), for vectors of `width` lanes.
inline void summarize(positions& p, index_t width) {
  for (index_t first = 0; first < p.lanes; first += width) {
    const visible v = p.lane[static_cast<std::size_t>(first)];
    extremes x{v.lo, v.lo, v.hi, v.hi};
    for (index_t l = first + 1; l < std::min(first + width, p.lanes); ++l) x.add(p.lane[static_cast<std::size_t>(l)]);
    for (index_t l = p.lanes; l < first + width; ++l)
      p.lane[static_cast<std::size_t>(l)] = p.lane[static_cast<std::size_t>(p.lanes - 1)];
    p.vector[static_cast<std::size_t>(first / width)] = x;
    if (first == 0) p.tile = x;
    p.tile.add({x.min_lo, x.min_hi});
    p.tile.add({x.max_lo, x.max_hi});
  }
}

struct key_spans {
  std::array<key_span, 8> span;
  index_t count = 0;
};

// The spans of a tile in ascending order. A partial span starts at the last key that all lanes see, so that the steps
// of a causal diagonal fall on its squares.
inline key_spans make_spans(const positions& p) {
  const extremes& t = p.tile;
  key_spans out;
  if (t.min_lo == t.max_lo && t.min_hi == t.max_hi &&
      (p.keep_first == 0 || t.min_lo == 0)) {  // one interval for all lanes
    if (t.min_lo < t.max_hi) out.span[static_cast<std::size_t>(out.count++)] = {t.min_lo, t.max_hi, false};
    return out;
  }
  std::array<index_t, 7> cut{0,        p.keep_first, t.min_lo, t.max_lo, t.min_hi < t.max_hi ? t.min_hi - 1 : t.min_hi,
                             t.min_hi, t.max_hi};
  for (index_t& c : cut) c = std::clamp<index_t>(c, 0, t.max_hi);
  for (std::size_t i = 1; i < cut.size(); ++i)
    for (std::size_t j = i; j > 0 && cut[j] < cut[j - 1]; --j) std::swap(cut[j], cut[j - 1]);
  for (std::size_t i = 0; i + 1 < cut.size(); ++i) {
    const index_t a = cut[i], b = cut[i + 1];
    if (a == b || t.none(a, b, p.keep_first)) continue;
    bool partial = !t.all(a, b, p.keep_first);
    if (b == t.min_hi && b < t.max_hi && b - a == 1) partial = true;
    key_span* last = out.count > 0 ? &out.span[static_cast<std::size_t>(out.count - 1)] : nullptr;
    if (last != nullptr && last->end == a && last->partial == partial)
      last->end = b;
    else
      out.span[static_cast<std::size_t>(out.count++)] = {a, b, partial};
  }
  return out;
}

// What the lanes of a vector see of some keys
enum class sight : unsigned char { none, some, all };

// Part of a partial tile: keys [first, first + keys) from the tile's start over vectors [from, to) of lanes
struct key_run {
  index_t first, keys, from, to;
};

struct key_runs {
  static constexpr index_t most = 64;
  std::array<key_run, most> run;
  index_t count = 0;
  std::array<index_t, most_lanes> first_key, end_key;  // of each vector; empty where it sees no key of the tile
  std::array<std::array<sight, most_vectors>, most> step_sight;  // of each step of keys, for the vectors of its run

  HEED_INLINE bool sees(index_t vector) const {
    return first_key[static_cast<std::size_t>(vector)] < end_key[static_cast<std::size_t>(vector)];
  }
};

// What intervals say of the keys that look() was told.
class interval_sight {
 public:
  explicit interval_sight(const positions& p) : p_(p) {}
  void look(index_t a, index_t b) { a_ = a, b_ = b; }
  sight of(index_t vector) const {
    const extremes& x = p_.vector[static_cast<std::size_t>(vector)];
    if (x.none(a_, b_, p_.keep_first)) return sight::none;
    return x.all(a_, b_, p_.keep_first) ? sight::all : sight::some;
  }

 private:
  const positions& p_;
  index_t a_ = 0, b_ = 0;
};

// Cuts the keys [first, first + keys) into runs of whole steps over which the same vectors see any key at all: a
// causal diagonal becomes a staircase. Between from and to a vector may see nothing: it is masked there.
template <class Sight>
void make_runs(Sight& eyes, index_t first, index_t keys, index_t vectors, index_t step, key_runs& out) {
  HEED_ASSERT(vectors <= most_vectors && keys <= key_runs::most * step);
  out.count = 0;
  for (index_t v = 0; v < vectors; ++v)
    out.first_key[static_cast<std::size_t>(v)] = keys, out.end_key[static_cast<std::size_t>(v)] = 0;
  for (index_t j = 0; j < keys; j += step) {
    const index_t count = std::min(step, keys - j);
    eyes.look(first + j, first + j + count);
    index_t from = vectors, to = 0;
    for (index_t v = 0; v < vectors; ++v) {
      const sight seen = eyes.of(v);
      out.step_sight[static_cast<std::size_t>(j / step)][static_cast<std::size_t>(v)] = seen;
      if (seen != sight::none) from = std::min(from, v), to = v + 1;
    }
    if (from >= to) continue;
    for (index_t v = from; v < to; ++v) {
      index_t& start = out.first_key[static_cast<std::size_t>(v)];
      start = std::min(start, j), out.end_key[static_cast<std::size_t>(v)] = j + count;
    }
    key_run* last = out.count > 0 ? &out.run[static_cast<std::size_t>(out.count - 1)] : nullptr;
    if (last != nullptr && last->from == from && last->to == to && last->first + last->keys == j)
      last->keys += count;
    else
      out.run[static_cast<std::size_t>(out.count++)] = {j, count, from, to};
  }
}

inline key_runs make_runs(const positions& p, index_t first, index_t keys, index_t vectors, index_t step) {
  interval_sight eyes(p);
  key_runs runs;
  make_runs(eyes, first, keys, vectors, step, runs);
  return runs;
}

// hide: scores of one vector of lanes to -inf where key first + j is not in [lo, hi) or below keep_first; all of them
// relative to the tile and small, hence exact in T
template <class T>
HEED_NOINLINE void hide(T* scores, index_t row, index_t first, index_t keys, const T* lo, const T* hi, T keep_first) {
  using batch = simd::batch<T>;
  const batch low = simd::load(lo), high = simd::load(hi), kept(keep_first);
  const batch hidden(-std::numeric_limits<T>::infinity());
  for (index_t j = 0; j < keys; ++j) {
    const batch key(static_cast<T>(first + j));
    T* s = scores + (first + j) * row;
    simd::store(s, simd::select<T>(((key >= low) | (key < kept)) & (key < high), simd::load(s), hidden));
  }
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
