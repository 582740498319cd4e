// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Tiles of keys, each with its rows of K and V, wherever a cache has them.

#include "heed/core/context.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/tile/row_stage.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Keys [first, first + keys) of a key tile over vectors [from, to) of lanes: all of its weights are worth a product.
struct weight_block {
  index_t first, keys, from, to;

  // The block of [key][lane] of the tile
  template <class X> HEED_INLINE tile::lane_block<X> of(const tile::lane_block<X>& s) const {
    constexpr index_t w = simd::width<std::remove_const_t<X>>;
    return s.part(first, keys, from * w, (to - from) * w);
  }
  // Its rows of K or V
  template <class X> HEED_INLINE tile::lane_block<X> rows_of(const tile::lane_block<X>& x) const {
    return x.part(first, keys, 0, x.lanes);
  }
};

template <class T> struct key_tile {
  index_t key = 0, keys = 0;           // the sequence's first key of it, how many
  index_t before = 0;                  // keys of the same span before it
  bool partial = false;                // some ranges end inside
  index_t next = 0, next_keys = 0;     // the tile after it; 0 keys: none
  bool last = false;                   // of this task: the next one, if any, is to be prefetched and not copied
  tile::lane_block<const T> k{}, v{};  // its rows, where they are now
  index_t count = 0;                   // of blocks; 0: no lane sees anything of it
  bool full = false;                   // every lane sees every key: one block
  tile::lane_array<weight_block, vector_capacity> block;
};

// f(tile) for tiles of keys_of(span) keys each, in ascending order. end: keys up to which others may be next
template <class T, class KeysOf, class F> void each_tile(const key_spans& spans, KeysOf keys_of, F f, index_t end = 0) {
  for (index_t i = 0; i < spans.count; ++i) {
    const key_span& span = spans.span[i];
    const index_t most = keys_of(span);
    for (index_t j = span.first; j < span.end; j += most) {
      key_tile<T> tile;
      tile.key = j, tile.keys = std::min(most, span.end - j), tile.before = j - span.first;
      tile.partial = span.partial;
      if (j + most < span.end)
        tile.next = j + most, tile.next_keys = std::min(most, span.end - tile.next);
      else if (i + 1 < spans.count)
        tile.next = spans.span[i + 1].first,
        tile.next_keys = std::min(keys_of(spans.span[i + 1]), spans.span[i + 1].end - tile.next);
      else
        tile.last = true, tile.next = span.end, tile.next_keys = std::clamp<index_t>(end - span.end, 0, most);
      f(tile);
    }
  }
}

// The keys and values of one sequence and head at a time.
template <class T> class kv_tiles {
 public:
  // k_use, v_use: how products read rows of K, of V
  kv_tiles(const attention<T>& p, index_t most_keys, tile::row_use k_use, tile::row_use v_use,
           heed::detail::arena& memory)
      : p_(p),
        k_(p.k, *p.kv_format, most_keys, k_use, p.key_value_bytes(), memory, finds_pieces()),
        v_(p.v, *p.kv_format, most_keys, v_use, p.key_value_bytes(), memory, finds_pieces()) {}

  void begin(const sequence& s, index_t kv_head) {
    s_ = s, kv_head_ = kv_head;
    if (finds_pieces())
      k_.begin({this, &key_piece}), v_.begin({this, &value_piece});
    else if (s.keys > 0)
      k_.begin(p_.key(s, kv_head, 0)), v_.begin(p_.value(s, kv_head, 0));
  }

  // As each_tile; the tiles know their rows.
  template <class KeysOf, class F> void each(const key_spans& spans, KeysOf keys_of, F f, index_t end = 0) const {
    const auto placed = [&](key_tile<T>& tile) {
      place_keys(tile), place_values(tile);
      f(tile);
    };
    each_tile<T>(spans, keys_of, placed, end);
  }

  // Notes where the rows of a tile are now: again after they have been copied.
  void place_keys(key_tile<T>& tile) const { tile.k = k_.at(tile.key, tile.keys); }
  void place_values(key_tile<T>& tile) const { tile.v = v_.at(tile.key, tile.keys); }
  // Copies the rows of a tile, where they are copied, and notes where they are.
  void copy_keys(key_tile<T>& tile) { k_.copy(tile.key, tile.keys), place_keys(tile); }
  void copy_values(key_tile<T>& tile) { v_.copy(tile.key, tile.keys), place_values(tile); }

  tile::row_stage<T>& k() { return k_; }
  tile::row_stage<T>& v() { return v_; }

 private:
  bool finds_pieces() const { return p_.in_pieces() || p_.scaled(); }

  static tile::row_piece key_piece(const void* self, index_t j) {
    const kv_tiles& x = *static_cast<const kv_tiles*>(self);
    const kv_piece at = x.p_.piece_at(x.s_, x.kv_head_, j);
    return {at.k, at.k_row, at.count, at.k_scale, at.k_scale_row};
  }
  static tile::row_piece value_piece(const void* self, index_t j) {
    const kv_tiles& x = *static_cast<const kv_tiles*>(self);
    const kv_piece at = x.p_.piece_at(x.s_, x.kv_head_, j);
    return {at.v, at.v_row, at.count, at.v_scale, at.v_scale_row};
  }

  const attention<T>& p_;
  sequence s_;
  index_t kv_head_ = 0;
  tile::row_stage<T> k_, v_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
