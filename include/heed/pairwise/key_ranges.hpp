// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks as ranges of keys. A rule turns a place on the key axis into the keys that it sees; a tile of rows turns the
// ranges of its lanes into spans of keys: what is in no span is never visited, inside a full span nothing is tested.

#include <algorithm>
#include <limits>
#include <utility>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

inline constexpr index_t lane_capacity = 64, vector_capacity = 4;

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

// Whether no query at a place from first to last sees any of the keys [a, b): ranges ascend with the places.
HEED_INLINE bool hides_keys(const key_rule& rule, index_t first, index_t last, index_t a, index_t b) {
  return a >= rule.at(last).hi || (b <= rule.at(first).lo && a >= rule.keep_first);
}

// What lanes see of some keys: nothing, a part, everything
enum class coverage : unsigned char { empty, partial, full };

// Bounds of the ranges of some lanes
struct range_bounds {
  index_t min_lo, max_lo, min_hi, max_hi;

  HEED_INLINE void add(visible v) {
    min_lo = std::min(min_lo, v.lo), max_lo = std::max(max_lo, v.lo);
    min_hi = std::min(min_hi, v.hi), max_hi = std::max(max_hi, v.hi);
  }
  // Says what the lanes see of keys [a, b).
  HEED_INLINE coverage classify(index_t a, index_t b, index_t keep_first) const {
    if (a >= max_hi || (b <= min_lo && a >= keep_first)) return coverage::empty;
    return b <= min_hi && (a >= max_lo || b <= keep_first) ? coverage::full : coverage::partial;
  }
};

// The ranges of a tile's lanes
struct lane_ranges {
  index_t lanes = 0, keep_first = 0;
  tile::lane_array<visible, lane_capacity> lane;         // lanes of them, the rest of a last vector repeats the last
  tile::lane_array<range_bounds, lane_capacity> vector;  // of each vector of lanes
  range_bounds all;

  // Fills `vector` and `all` from lane[0 .. lanes), for vectors of `width` lanes.
  void complete(index_t width) {
    for (index_t first = 0; first < lanes; first += width) {
      const visible v = lane[first];
      range_bounds x{v.lo, v.lo, v.hi, v.hi};
      for (index_t l = first + 1; l < std::min(first + width, lanes); ++l) x.add(lane[l]);
      for (index_t l = lanes; l < first + width; ++l) lane[l] = lane[lanes - 1];
      vector[first / width] = x;
      if (first == 0) all = x;
      all.add({x.min_lo, x.min_hi}), all.add({x.max_lo, x.max_hi});
    }
  }
  HEED_INLINE coverage classify(index_t x, index_t a, index_t b) const { return vector[x].classify(a, b, keep_first); }
};

// Keys [first, end); partial: some lanes do not see some of them
struct key_span {
  index_t first, end;
  bool partial;
};

struct key_spans {
  tile::lane_array<key_span, 10> span;
  index_t count = 0;
};

// Some keys, as up to three runs in ascending order
struct key_set {
  struct run {
    index_t first, end;
  };
  tile::lane_array<run, 3> runs;
  index_t count = 0;

  void add(index_t first, index_t end) {
    if (first < end) runs[count++] = {first, end};
  }
  index_t total() const {
    index_t keys = 0;
    for (index_t i = 0; i < count; ++i) keys += runs[i].end - runs[i].first;
    return keys;
  }
  // The keys from number `from` on, up to number `to`
  key_set part(index_t from, index_t to) const {
    key_set out;
    for (index_t i = 0; i < count; ++i) {
      const index_t first = runs[i].first, keys = runs[i].end - first;
      out.add(first + std::clamp<index_t>(from, 0, keys), first + std::clamp<index_t>(to, 0, keys));
      from -= keys, to -= keys;
    }
    return out;
  }
};

// Leaves of the spans what is in the set.
inline key_spans clipped(const key_spans& spans, const key_set& keys) {
  key_spans out;
  for (index_t i = 0; i < spans.count; ++i)
    for (index_t r = 0; r < keys.count; ++r) {
      const key_span& s = spans.span[i];
      const index_t first = std::max(s.first, keys.runs[r].first), end = std::min(s.end, keys.runs[r].end);
      if (first < end) out.span[out.count++] = {first, end, s.partial};
    }
  return out;
}

// Cuts what a tile sees into spans in ascending order. A partial span starts at the last key that all lanes see, so
// that the steps of a causal diagonal fall on its squares.
inline key_spans make_spans(const lane_ranges& ranges) {
  const range_bounds& t = ranges.all;
  const index_t kept = ranges.keep_first;
  key_spans out;
  if (t.min_lo == t.max_lo && t.min_hi == t.max_hi && (kept == 0 || t.min_lo == 0)) {  // one interval for all lanes
    if (t.min_lo < t.max_hi) out.span[out.count++] = {t.min_lo, t.max_hi, false};
    return out;
  }
  const index_t last_seen_by_all = t.min_hi < t.max_hi ? t.min_hi - 1 : t.min_hi;
  tile::lane_array<index_t, 7> cut{0, kept, t.min_lo, t.max_lo, last_seen_by_all, t.min_hi, t.max_hi};
  for (index_t& c : cut) c = std::clamp<index_t>(c, 0, t.max_hi);
  for (index_t i = 1; i < 7; ++i)
    for (index_t j = i; j > 0 && cut[j] < cut[j - 1]; --j) std::swap(cut[j], cut[j - 1]);
  for (index_t i = 0; i + 1 < 7; ++i) {
    const index_t a = cut[i], b = cut[i + 1];
    const coverage seen = t.classify(a, b, kept);
    if (a == b || seen == coverage::empty) continue;
    const bool partial = seen == coverage::partial || (b == t.min_hi && b < t.max_hi && b - a == 1);
    key_span* const last = out.count > 0 ? &out.span[out.count - 1] : nullptr;
    if (last != nullptr && last->end == a && last->partial == partial)
      last->end = b;
    else
      out.span[out.count++] = {a, b, partial};
  }
  return out;
}

// Part of a partial tile: keys [first, first + keys) from the tile's start over vectors [from, to) of lanes
struct key_run {
  index_t first, keys, from, to;
};

struct key_runs {
  static constexpr index_t capacity = 64;
  tile::lane_array<key_run, capacity> run;
  index_t count = 0;
  tile::lane_array<index_t, vector_capacity> first_key, end_key;  // of each vector; empty where it sees no key
  tile::lane_array<tile::lane_array<coverage, vector_capacity>, capacity> step_coverage;  // of the vectors of its run
  bool full = false;                                                                      // every vector sees every key
};

// Cuts the keys [first, first + keys) into runs of whole steps over which the same vectors see any key at all: a
// causal diagonal becomes a staircase. Between from and to a vector may see nothing: it is masked there.
// classify(first, end, number of the step)(vector): what the vector sees of these keys
template <class Classify>
void make_runs(index_t first, index_t keys, index_t vectors, index_t step, Classify classify, key_runs& out) {
  HEED_ASSERT(vectors <= vector_capacity && keys <= key_runs::capacity * step);
  out.count = 0, out.full = true;
  for (index_t v = 0; v < vectors; ++v) out.first_key[v] = keys, out.end_key[v] = 0;
  for (index_t j = 0; j < keys; j += step) {
    const index_t count = std::min(step, keys - j);
    const auto of_vector = classify(first + j, first + j + count, j / step);
    index_t from = vectors, to = 0;
    for (index_t v = 0; v < vectors; ++v) {
      const coverage seen = of_vector(v);
      out.step_coverage[j / step][v] = seen;
      out.full = out.full && seen == coverage::full;
      if (seen != coverage::empty) from = std::min(from, v), to = v + 1;
    }
    if (from >= to) continue;
    for (index_t v = from; v < to; ++v) out.first_key[v] = std::min(out.first_key[v], j), out.end_key[v] = j + count;
    key_run* const last = out.count > 0 ? &out.run[out.count - 1] : nullptr;
    if (last != nullptr && last->from == from && last->to == to && last->first + last->keys == j)
      last->keys += count;
    else
      out.run[out.count++] = {j, count, from, to};
  }
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
