// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/problem.hpp"
#include "heed/pairwise/score_tiles.hpp"
#include "heed/pairwise/weighted_sums.hpp"
#include "heed/tile/known_weights.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// t[key][lane] = k[key] . x[lane] over a block; x: [d][lane]
template <class T>
void key_products(const T* k, index_t k_row, const pairwise::weight_block& b, const T* x, index_t d, index_t row, T* t) {
  constexpr index_t w = simd::width<T>;
  tile::multiply<T>({.a = k + b.first * k_row,
                     .a_row = k_row,
                     .a_col = 1,
                     .b = x + b.from * w,
                     .b_row = row,
                     .c = t + b.first * row + b.from * w,
                     .c_row = row,
                     .rows = b.keys,
                     .depth = d},
                    b.to - b.from);
}

// The softmax weights p of one tile of queries, tile after tile of keys, as often as they are wanted:
//
//   p_j = 2^(s_j - m) / l,   mean key = sum_j p_j k_j
//
// Weights of the first keys stay in memory, up to 4 MiB of them; those of the others are computed from their scores
// every time, which makes a pass three products instead of two. A pass reads what is kept once, at about 2 GB/s, so it
// need not stay in the second-level cache: with 16384 keys an iteration costs 1.5 softmaxes where 0.25 MiB are kept,
// 1.4 with 1 MiB and 1.0 with 4 MiB (docs/kernels/local_linear.md).
template <class T> class tile_weights {
 public:
  using tile_type = pairwise::query_tile<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows;
  static constexpr index_t kept_bytes = index_t(1) << 22;
  static constexpr index_t kept_keys = kept_bytes / (lanes * static_cast<index_t>(sizeof(T)));
  static constexpr index_t copied_bytes = index_t(1) << 21;  // of keys that are copied once and not for every pass
  static constexpr index_t kept_tiles = kept_keys / (tile_type::most_keys / 2) + 16;

  tile_weights(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        tile_(p, memory, true),
        sums_(p.d, memory),
        capacity_(std::min(p.k.extent(2), kept_keys)),
        kept_(memory.take<T>(lanes * capacity_)),
        key_capacity_(tile_.key_rows().copies() ? std::min(capacity_, copied_bytes / key_bytes()) : 0),
        copied_keys_(memory.take<T>(key_capacity_ * tile_.key_rows().copy_row())),
        tiles_(memory.take<pairwise::key_tile>(kept_tiles)),
        factors_(memory.take<T>(lanes * kept_tiles)),
        scores_(memory.take<T>(lanes * tile_type::most_keys)),
        keys_(memory.take<T>(tile_type::most_keys * std::max(p.d, pairwise::lane_sums<T>::slice))),
        m_(memory.take<T>(lanes)),
        l_(memory.take<T>(lanes)),
        gain_(memory.take<T>(lanes)) {}

  // The first pass over the keys: weights and mean keys, [d][lane].
  void begin(const pairwise::sequence& s, index_t kv_head, const pairwise::tile_rows& rows, T* mean) {
    tile_.begin(s, kv_head, rows);
    careful_ = false, spoiled_ = 0;
    sum_keys();
    if (!sums_.finite()) {  // perhaps by a key that some lane must not see
      careful_ = true;
      sum_keys();
    }
    tile::reciprocals(l_, row(), gain_);
    for (index_t i = 0; i < count_; ++i)  // kept weights are relative to the m of their time
      for (index_t lane = 0; lane < row(); lane += w) {
        T* const f = factors_ + i * lanes + lane;
        simd::store(f, simd::load(gain_ + lane) * simd::exp2_nonpositive(simd::load(f) - simd::load(m_ + lane)));
      }
    for (index_t d = 0; d < p_.d; ++d)
      for (index_t lane = 0; lane < row(); lane += w)
        simd::store(mean + d * row() + lane, simd::load(sums_.data() + d * row() + lane) * simd::load(gain_ + lane));
  }

  index_t vectors() const { return tile_.vectors(); }
  index_t row() const { return tile_.row(); }
  index_t keys() const { return seen_keys_; }  // that some lane sees, and those between them
  const T* m() const { return m_; }
  const T* l() const { return l_; }
  std::uint64_t spoiled() const { return spoiled_; }  // lanes that see a key that is not finite

  // f(tile, weights of its blocks, rows of k as they may enter a sum, their stride)
  template <class F> void each(F f) {
    for (index_t i = 0; i < count_; ++i)
      if (tiles_[i].count > 0) copy_keys(i, tiles_[i]), call(f, tiles_[i], kept(i));
    if (all_kept_) return;
    tile_.each(
        [&](index_t number, const pairwise::key_tile& keys) {
          if (keys.count == 0) return;
          copy_keys(number, keys);
          tile_.scores(keys, scores_, nullptr, nullptr);
          call(f, keys, {scores_, row(), gain_, m_});
        },
        count_);
  }

  // The same with scores() beside: which lanes see a key is known from them only.
  template <class F> void each_with_scores(F f) {
    tile_.each([&](index_t number, const pairwise::key_tile& keys) {
      if (keys.count == 0) return;
      copy_keys(number, keys);
      tile_.scores(keys, scores_, nullptr, nullptr);
      call(f, keys, number < count_ ? kept(number) : tile::known_weights<T>{scores_, row(), gain_, m_});
    });
  }
  const T* scores() const { return scores_; }

 private:
  tile::known_weights<T> kept(index_t i) const {
    return {kept_ + offset_[static_cast<std::size_t>(i)] * row(), row(), factors_ + i * lanes};
  }
  template <class F> void call(F f, const pairwise::key_tile& keys, const tile::known_weights<T>& p) {
    auto [k, k_row] = tile_.key_rows().at(keys.key);
    finite_keys(keys, k, k_row);
    f(keys, p, k, k_row);
  }
  index_t key_bytes() { return tile_.key_rows().copy_row() * static_cast<index_t>(sizeof(T)); }
  // Where the copy of a kept tile is; null for those that find no room: they are copied in every pass
  T* copied(index_t number, const pairwise::key_tile& keys) {
    const index_t at = offset_[static_cast<std::size_t>(number)];
    return at + keys.keys > key_capacity_ ? nullptr : copied_keys_ + at * tile_.key_rows().copy_row();
  }
  void first_copy(const pairwise::key_tile& keys) {
    tile_.key_rows().copy(keys.key, keys.keys, all_kept_ ? copied(count_, keys) : nullptr);
  }
  void copy_keys(index_t number, const pairwise::key_tile& keys) {
    T* const there = number < count_ ? copied(number, keys) : nullptr;
    if (there != nullptr)
      tile_.key_rows().recall(keys.key, keys.keys, there);
    else
      tile_.key_rows().copy(keys.key, keys.keys);
  }
  // Keys that are not finite have spoiled the rows that see them by the mean; in products they must not reach others.
  void finite_keys(const pairwise::key_tile& keys, const T*& k, index_t& k_row) {
    if (!careful_ || tile::all_finite(k, k_row, keys.keys, p_.d)) return;
    tile::copy_finite<T>({k, k_row, keys.keys, p_.d}, keys_, p_.d);
    k = keys_, k_row = p_.d;
  }

  void sum_keys() {
    std::fill(m_, m_ + row(), std::numeric_limits<T>::lowest());
    std::fill(l_, l_ + row(), T(0));
    sums_.begin(vectors(), gain_);
    count_ = seen_keys_ = 0;
    index_t used = 0;
    all_kept_ = true;
    tile_.each([&](index_t, const pairwise::key_tile& keys) {
      all_kept_ = all_kept_ && count_ < kept_tiles && used + keys.keys <= capacity_;
      T* s = scores_;
      if (all_kept_) {
        tiles_[count_] = keys;
        offset_[static_cast<std::size_t>(count_)] = used;
        s = kept_ + used * row();
        used += keys.keys;
      }
      if (keys.count > 0) {
        first_copy(keys);
        add_keys(keys, s);
      }
      if (all_kept_) std::copy(m_, m_ + row(), factors_ + count_ * lanes), ++count_;
    });
    sums_.finish();
  }
  void add_keys(const pairwise::key_tile& keys, T* s) {
    const auto [k, k_row] = tile_.key_rows().at(keys.key);
    const bool check = careful_ && !tile::all_finite(k, k_row, keys.keys, p_.d);
    tile_.scores(keys, s, m_, gain_);
    seen_keys_ += keys.keys;
    for (index_t i = 0; i < keys.count; ++i) {
      const pairwise::weight_block& b = keys.block[static_cast<std::size_t>(i)];
      const index_t lane = b.from * w;
      if (check) pairwise::note_seen(s, row(), b, seen_);
      tile::online_softmax(s + b.first * row() + lane, row(), b.keys, b.to - b.from, m_ + lane, l_ + lane,
                           gain_ + lane);
      sums_.rescale_next(b.from, b.to);
      check ? add_visible_keys(k, k_row, s, b) : sums_.add(k, k_row, s, b);
    }
  }
  void add_visible_keys(const T* k, index_t k_row, const T* p, const pairwise::weight_block& b) {
    for (index_t j = 0; j < b.keys; ++j)
      if (!tile::all_finite(k + (b.first + j) * k_row, k_row, 1, p_.d)) spoiled_ |= seen_[static_cast<std::size_t>(j)];
    sums_.add_visible(k, k_row, p, b, seen_, keys_);
  }

  const problem<T>& p_;
  tile_type tile_;
  pairwise::lane_sums<T> sums_;
  index_t capacity_;
  T* kept_;  // [key][lane], tile after tile of keys
  index_t key_capacity_;
  T* copied_keys_;  // those of the kept tiles, where rows are copied
  pairwise::key_tile* tiles_;
  T *factors_, *scores_, *keys_, *m_, *l_, *gain_;
  std::array<index_t, static_cast<std::size_t>(kept_tiles)> offset_;
  index_t count_ = 0, seen_keys_ = 0;  // count: kept tiles
  bool all_kept_ = false, careful_ = false;
  pairwise::seen_keys<T> seen_;
  std::uint64_t spoiled_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
