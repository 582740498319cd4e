// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A tile of queries in lanes against its keys, tile after tile of them:
//
//   s[key][lane] = score(scale q[lane] . k[key])  in units of log 2,  -inf where lane does not see key
//
// Any rows that share keys make a tile, each lane with its own place.

#include "heed/pairwise/masked_scores.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class score_tiles {
 public:
  static constexpr index_t w = simd::width<T>, most_rows = tile::max_lanes<T>, most_keys = visibility<T>::most_keys;
  static constexpr index_t step = visibility<T>::step, score_block = masked_scores<T>::score_block;
  static_assert(most_rows <= lane_capacity);

  static index_t tiles(index_t rows) { return (rows + most_rows - 1) / most_rows; }

  // k_use: again where its caller reads the rows of K too
  score_tiles(const attention<T>& p, heed::detail::arena& memory, tile::row_use k_use = tile::row_use::once)
      : p_(p),
        q_(memory.take<T>(most_rows * p.d)),
        kv_(p, most_keys, k_use, tile::row_use::again, memory),
        masked_(p) {}

  // keys: those of them to visit; null: all
  void begin(const sequence& s, index_t kv_head, const row_tile& rows, const key_set* keys = nullptr) {
    vectors_ = (rows.count + w - 1) / w, stride_ = vectors_ * w;
    kv_.begin(s, kv_head);
    p_.q_format->gather(find_rows(rows, p_.q, s, p_.repeat).data(), rows.count, p_.d, p_.scores.query_factor, q_,
                        stride_);
    masked_.begin(s, rows);
    spans_ = keys == nullptr ? masked_.spans() : clipped(masked_.spans(), *keys);
    end_ = keys == nullptr ? 0 : s.keys;
  }

  index_t vectors() const { return vectors_; }
  index_t stride() const { return stride_; }  // lanes in whole vectors: the stride of everything [..][lane]
  tile::lane_block<T> lanes_of(T* x, index_t rows) const { return {x, stride_, rows, stride_}; }
  kv_tiles<T>& kv() { return kv_; }
  bool empty() const { return spans_.count == 0; }  // no lane sees any key
  void record_slopes(const score_slopes<T>& slopes) { masked_.record_slopes(slopes); }
  const score_mods<T>& mods() const { return masked_.mods(); }
  tile::row_prefetcher<T> next_keys(const key_tile<T>& keys) {
    if (keys.last && kv_.k().copies()) return {};
    return kv_.k().stream(keys.next, keys.next_keys);
  }

  // f(number, tile) for the key tiles from number `first` on; scores() is for the tile at hand.
  template <class F> void each(F f, index_t first = 0) {
    index_t number = 0;
    const auto visit = [&](key_tile<T>& keys) {
      if (number >= first) masked_.classify(keys), masked_.add_blocks(keys, 0, vectors_), f(number, keys);
      ++number;
    };
    kv_.each(spans_, even_keys, visit, end_);
  }

  // s[key][lane] of the tile's blocks; with m, per lane of them: row_max = max(m, s). prefetch: rows that come next
  void scores(const key_tile<T>& keys, T* s, const T* m, T* row_max, tile::row_prefetcher<T>* prefetch = nullptr) {
    const score_rows<T> all{s, stride_, 0, vectors_};
    masked_.scores(keys, all, m, row_max, [&](const weight_block& b, T* most) {
      const tile::lane_block<const T> k = b.rows_of(keys.k);
      tile::matrix_product<T> p =
          tile::product_of<T>(k.data, k.stride, 1, {q_ + b.from * w, stride_, p_.d}, all.part(b));
      p.row_max = most;
      tile::multiply_streaming<T>(p, b.to - b.from, prefetch);
    });
  }

 private:
  // Tiles of nearly one size
  static index_t even_keys(const key_span& span) {
    const index_t keys = span.end - span.first, tiles = (keys + most_keys - 1) / most_keys;
    return ((keys + tiles - 1) / tiles + step - 1) / step * step;
  }

  const attention<T>& p_;
  T* q_;
  kv_tiles<T> kv_;
  masked_scores<T> masked_;
  key_spans spans_;
  index_t end_ = 0;  // of the keys that a share's neighbour may have
  index_t vectors_ = 0, stride_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
