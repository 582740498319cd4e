// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/problem.hpp"
#include "heed/pairwise/score_tiles.hpp"
#include "heed/pairwise/weighted_sums.hpp"
#include "heed/tile/known_weights.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// t[key][lane] = row[key] . x[lane] over a block of a tile: rows of its keys or values; x: [d][lane]
template <class T>
void row_products(const tile::lane_block<const T>& rows, const pairwise::weight_block& b,
                  const tile::lane_block<const T>& x, T* t) {
  constexpr index_t w = simd::width<T>;
  const tile::lane_block<const T> a = b.rows_of(rows);
  const index_t from = b.from * w, lanes = (b.to - b.from) * w;
  tile::multiply<T>(tile::product_of<T>(a.data, a.stride, 1, x.part(0, x.rows, from, lanes),
                                        {t + b.first * x.stride + from, x.stride, b.keys, lanes}),
                    b.to - b.from);
}

// What forward wrote of its rows and options have, so that a pass reads it instead of making it
struct known_moments {
  bool lse = false, mean = false;
};

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
  using tile_type = pairwise::score_tiles<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows;
  static constexpr index_t kept_bytes = index_t(1) << 22;
  static constexpr index_t kept_keys = kept_bytes / (lanes * static_cast<index_t>(sizeof(T)));
  static constexpr index_t copied_bytes = index_t(1) << 21;  // of keys that are copied once and not for every pass
  static constexpr index_t kept_tiles = kept_keys / (tile_type::most_keys / 2) + 16;

  tile_weights(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        tile_(p, memory, tile::row_use::again),
        sums_(p.d, memory),
        capacity_(std::min(p.k.extent(2), kept_keys)),
        kept_(memory.take<T>(lanes * capacity_)),
        key_capacity_(tile_.kv().k().copies() ? std::min(capacity_, copied_bytes / key_bytes()) : 0),
        copied_keys_(memory.take<T>(key_capacity_ * tile_.kv().k().copy_row())),
        tiles_(memory.take<pairwise::key_tile<T>>(kept_tiles)),
        factors_(memory.take<T>(lanes * kept_tiles)),
        scores_(memory.take<T>(lanes * tile_type::most_keys)),
        keys_(memory.take<T>(tile_type::most_keys * std::max(p.d, pairwise::weighted_sums<T>::slice))),
        state_{memory.take<T>(lanes), memory.take<T>(lanes)},
        factor_(memory.take<T>(lanes)) {}

  // The first pass over the keys: weights and mean keys, [d][lane]. What is known of them from forward is read.
  void begin(const pairwise::sequence& s, index_t kv_head, const pairwise::row_tile& rows, T* mean,
             known_moments known = {}) {
    tile_.begin(s, kv_head, rows);
    known_ = known;
    nonfinite_pass_ = false, nonfinite_rows_ = 0;
    if (known_.lse) read_lse(s, rows);
    sum_keys();
    if (!known_.mean && !sums_.finite()) {  // perhaps by a key that some lane must not see
      nonfinite_pass_ = true;
      sum_keys();
    }
    for (index_t l = 0; known_.lse && l < row(); ++l)
      if (lost_rows_ >> l & 1) state_.l[l] = std::numeric_limits<T>::quiet_NaN();
    state_.reciprocals(row(), factor_);
    for (index_t i = 0; i < count_; ++i)  // kept weights are relative to the m of their time
      for (index_t lane = 0; lane < row(); lane += w) {
        T* const f = factors_ + i * lanes + lane;
        simd::store(f, simd::load(factor_ + lane) * simd::exp2_nonpositive(simd::load(f) - simd::load(m() + lane)));
      }
    if (known_.mean) return read_mean(s, rows, mean);
    for (index_t d = 0; d < p_.d; ++d)
      for (index_t lane = 0; lane < row(); lane += w)
        simd::store(mean + d * row() + lane, simd::load(sums_.data() + d * row() + lane) * simd::load(factor_ + lane));
  }

  index_t vectors() const { return tile_.vectors(); }
  index_t row() const { return tile_.stride(); }  // lanes in whole vectors
  index_t keys() const { return seen_keys_; }     // that some lane sees, and those between them
  const T* m() const { return state_.m; }
  const T* l() const { return state_.l; }
  const T* inv_l() const { return factor_; }  // 0 where no key is seen
  // Whether one key has all the weight, as far as l tells
  bool on_one_key(index_t lane) const { return !known_.lse && heed::detail::equals(l()[lane], T(1)); }
  T lse(index_t lane) const { return state_.at(lane).lse(); }
  std::uint64_t nonfinite_rows() const { return nonfinite_rows_; }  // lanes that see a key that is not finite

  // f(tile, weights of its blocks) with rows of K as they may enter a sum
  template <class F> void each(F f) {
    for (index_t i = 0; i < count_; ++i) {
      pairwise::key_tile<T> keys = tiles_[i];
      if (keys.count > 0) copy_keys(i, keys), call(f, keys, kept(i));
    }
    if (all_kept_) return;
    tile_.each(
        [&](index_t number, pairwise::key_tile<T>& keys) {
          if (keys.count > 0) copy_keys(number, keys), call(f, keys, computed(keys));
        },
        count_);
  }

  // The same with scores() beside: which lanes see a key is known from them only.
  template <class F> void each_with_scores(F f) {
    tile_.each([&](index_t number, pairwise::key_tile<T>& keys) {
      if (keys.count == 0) return;
      copy_keys(number, keys);
      const tile::known_weights<T> p = computed(keys);
      call(f, keys, number < count_ ? kept(number) : p);
    });
  }
  // The same, with the slopes of what changes the scores; slopes.scores is scores().
  template <class F> void each_with_slopes(pairwise::score_slopes<T> slopes, F f) {
    slopes.scores = scores_;
    tile_.record_slopes(slopes);
    each_with_scores(f);
    tile_.record_slopes({});
  }
  // Copies the rows of V of a tile, where they are copied.
  void copy_values(pairwise::key_tile<T>& keys) { tile_.kv().copy_values(keys); }
  const T* scores() const { return scores_; }

 private:
  tile::known_weights<T> kept(index_t i) const { return {kept_ + offset_[i] * row(), row(), factors_ + i * lanes}; }
  tile::known_weights<T> computed(const pairwise::key_tile<T>& keys) {
    tile_.scores(keys, scores_, nullptr, nullptr);
    return {scores_, row(), factor_, m()};
  }
  template <class F> void call(F f, pairwise::key_tile<T>& keys, const tile::known_weights<T>& p) {
    finite_keys(keys);
    f(keys, p);
  }
  index_t key_bytes() { return tile_.kv().k().copy_row() * static_cast<index_t>(sizeof(T)); }
  // Where the copy of a kept tile is; null for those that find no room: they are copied in every pass
  T* copied(index_t number, const pairwise::key_tile<T>& keys) {
    const index_t at = offset_[number];
    return at + keys.keys > key_capacity_ ? nullptr : copied_keys_ + at * tile_.kv().k().copy_row();
  }
  void copy_keys(index_t number, pairwise::key_tile<T>& keys) {
    if (T* const there = number < count_ ? copied(number, keys) : nullptr; there != nullptr)
      tile_.kv().k().recall(keys.key, keys.keys, there);
    else
      tile_.kv().k().copy(keys.key, keys.keys);
    tile_.kv().place_keys(keys);
  }
  // Keys that are not finite have spoiled the rows that see them by the mean; in products they must not reach others.
  void finite_keys(pairwise::key_tile<T>& keys) {
    if (!nonfinite_pass_ || tile::all_finite(keys.k.data, keys.k.stride, keys.keys, p_.d)) return;
    tile::copy_finite<T>(keys.k, keys_, p_.d);
    keys.k.data = keys_, keys.k.stride = p_.d;
  }

  // m of each row: lse, so that l is 1 but for the rounding of lse
  void read_lse(const pairwise::sequence& s, const pairwise::row_tile& rows) {
    constexpr T least = tile::row_state<T>{}.m, none = -std::numeric_limits<T>::infinity();
    lost_rows_ = 0;
    for (index_t l = 0; l < row(); ++l) {
      const pairwise::lane_row at = rows.at(l);
      const T lse = *p_.lse_at(s, at.head, at.query);
      known_m_[l] = pairwise::finite_factor<T>(static_cast<double>(lse), std::numbers::log2e);
      if (std::isfinite(lse)) continue;
      known_m_[l] = heed::detail::equals(lse, none) ? least : T(0);
      if (!heed::detail::equals(lse, none)) lost_rows_ |= std::uint64_t{1} << l;
    }
    for (index_t l = rows.count; l < row(); ++l) known_m_[l] = std::numeric_limits<T>::max() / 4;
  }
  void read_mean(const pairwise::sequence& s, const pairwise::row_tile& rows, T* mean) {
    const heed::detail::output_tensor given(p_.opt.mean_key);
    tile::gather<T>(pairwise::find_rows(rows, given, s).data(), rows.count, p_.d, T(1), mean, row());
  }

  void sum_keys() {
    state_.init(row());
    if (known_.lse) std::copy(known_m_.begin(), known_m_.begin() + row(), state_.m);
    sums_.begin(vectors(), factor_);
    count_ = seen_keys_ = 0;
    index_t used = 0;
    all_kept_ = true;
    tile_.each([&](index_t, pairwise::key_tile<T>& keys) {
      all_kept_ = all_kept_ && count_ < kept_tiles && used + keys.keys <= capacity_;
      T* s = scores_;
      if (all_kept_) {
        tiles_[count_] = keys;
        offset_[count_] = used;
        s = kept_ + used * row();
        used += keys.keys;
      }
      if (keys.count > 0) {
        tile_.kv().k().copy(keys.key, keys.keys, all_kept_ ? copied(count_, keys) : nullptr);
        tile_.kv().place_keys(keys);
        add_keys(keys, s);
      }
      if (all_kept_) std::copy(m(), m() + row(), factors_ + count_ * lanes), ++count_;
    });
    sums_.finish();
  }
  void add_keys(const pairwise::key_tile<T>& keys, T* scores) {
    const bool check =
        (nonfinite_pass_ || known_.mean) && !tile::all_finite(keys.k.data, keys.k.stride, keys.keys, p_.d);
    tile_.scores(keys, scores, known_.lse ? nullptr : m(), factor_);
    if (known_.lse) std::copy(m(), m() + row(), factor_);
    seen_keys_ += keys.keys;
    const tile::lane_block<T> s = tile_.lanes_of(scores, keys.keys);
    for (index_t i = 0; i < keys.count; ++i) {
      const pairwise::weight_block& b = keys.block[i];
      if (check) pairwise::note_seen<T>(s, b, seen_);
      state_.update(b.of(s), b.from * w, factor_);
      if (known_.mean) {
        if (check) note_nonfinite(keys, b);
        continue;
      }
      sums_.rescale_next(b.from, b.to);
      check ? add_visible_keys(keys, s, b) : sums_.add(keys.k, s, b);
    }
  }
  // Notes the lanes that see a key of a block that is not finite.
  void note_nonfinite(const pairwise::key_tile<T>& keys, const pairwise::weight_block& b) {
    nonfinite_pass_ = true;
    for (index_t j = 0; j < b.keys; ++j)
      if (!tile::all_finite(keys.k.row(b.first + j), keys.k.stride, 1, p_.d)) nonfinite_rows_ |= seen_[j];
  }
  void add_visible_keys(const pairwise::key_tile<T>& keys, const tile::lane_block<T>& p,
                        const pairwise::weight_block& b) {
    note_nonfinite(keys, b);
    sums_.add_visible(keys.k, p, b, seen_, keys_);
  }

  const problem<T>& p_;
  tile_type tile_;
  pairwise::weighted_sums<T> sums_;
  index_t capacity_;
  T* kept_;  // [key][lane], tile after tile of keys
  index_t key_capacity_;
  T* copied_keys_;  // those of the kept tiles, where rows are copied
  pairwise::key_tile<T>* tiles_;
  T *factors_, *scores_, *keys_;
  tile::lane_states<T> state_;
  T* factor_;
  tile::lane_array<T, lanes> known_m_;
  known_moments known_;
  tile::lane_array<index_t, kept_tiles> offset_;
  index_t count_ = 0, seen_keys_ = 0;  // count: kept tiles
  bool all_kept_ = false, nonfinite_pass_ = false;
  pairwise::seen_keys<T> seen_;
  std::uint64_t nonfinite_rows_ = 0, lost_rows_ = 0;  // lost: their lse is not finite
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
