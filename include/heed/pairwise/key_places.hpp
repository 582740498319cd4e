// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Where the rows of keys are: each of them, or tiles of keys whose rows lie side by side in memory.

#include "heed/pairwise/few_rows_stream.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The keys of a sequence that one key/value head has
template <class T> struct head_keys {
  const attention<T>& p;
  const sequence& s;
  index_t kv_head;

  kv_piece piece_at(index_t key) const { return p.piece_at(s, kv_head, key); }
  void read_scales(index_t key, index_t keys, T* of_k, T* of_v) const {
    for (index_t j = 0; j < keys;) {
      const kv_piece at = piece_at(key + j);
      for (index_t r = 0; j < keys && r < at.count; ++j, ++r) {
        of_k[j] = static_cast<T>(at.k_scale[r * at.k_scale_row]);
        of_v[j] = static_cast<T>(at.v_scale[r * at.v_scale_row]);
      }
    }
  }
};

struct row_places {
  static constexpr index_t most = 128;

  template <class T> void find(const head_keys<T>& head, index_t from, index_t count) {
    key = from, keys = count;
    for (index_t j = 0; j < keys;) {
      const kv_piece at = head.piece_at(key + j);
      const index_t end = std::min(keys, j + at.count);
      for (index_t r = 0; j < end; ++r, ++j) k[j] = at.k + r * at.k_row, v[j] = at.v + r * at.v_row;
    }
  }

  index_t key = -1, keys = 0;
  tile::lane_array<const std::byte*, most> k, v;
};

template <class T> struct stream_tiles {
  static constexpr index_t most = 64, keys_each = few_row_stream<T>::tile_keys;

  // Finds whole tiles of keys [from, end), as far as they lie in a piece of memory each, with rows equally far apart.
  // Returns the keys of these tiles, or, where there is none, of the first.
  index_t find(const head_keys<T>& head, index_t from, index_t end) {
    first = from, count = 0, pieces = 0;
    index_t key = from;
    while (count < most && key + keys_each <= end) {
      const kv_piece at = head.piece_at(key);
      if (at.count < keys_each || !take_strides(at)) break;
      const index_t tiles = std::min({most - count, at.count / keys_each, (end - key) / keys_each});
      for (index_t t = 0; t < tiles; ++t) set(count++, at, t * keys_each);
      key += tiles * keys_each, ++pieces;
    }
    if (count == 0) return std::min(end - from, keys_each);
    if (key < head.s.keys)
      set(count, head.piece_at(key), 0);
    else
      k[count] = k[count - 1], v[count] = v[count - 1];
    return key - from;
  }

  index_t first = 0, count = 0, pieces = 0;  // first: key of the first tile; pieces: that the tiles lie in
  index_t k_row = 0, v_row = 0, k_scale_row = 0, v_scale_row = 0;
  tile::lane_array<const std::byte*, most + 1> k, v;  // with what is read next
  tile::lane_array<const float*, most + 1> k_scale, v_scale;

 private:
  bool take_strides(const kv_piece& x) {
    if (count == 0) k_row = x.k_row, v_row = x.v_row, k_scale_row = x.k_scale_row, v_scale_row = x.v_scale_row;
    return k_row == x.k_row && v_row == x.v_row && k_scale_row == x.k_scale_row && v_scale_row == x.v_scale_row;
  }
  void set(index_t t, const kv_piece& x, index_t row) {
    k[t] = x.k + row * x.k_row, v[t] = x.v + row * x.v_row;
    if (x.k_scale == nullptr) return;
    k_scale[t] = x.k_scale + row * x.k_scale_row, v_scale[t] = x.v_scale + row * x.v_scale_row;
  }
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
