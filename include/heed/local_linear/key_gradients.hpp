// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The key pass of backward: dk and dv of a tile of keys, over the tiles of queries that see them, from what the row
// pass has saved of the rows. Scores and the products k . y, k . w and v . dout are made anew, queries in lanes; then
//
//   dv[key][e] += sum over lanes of (p a)[key][lane] dout[lane][e], and dk likewise from y, w and scale q
//
// with the lanes as the depth of the product, see pair_gradients.hpp and pairwise/key_block.hpp.

#include "heed/local_linear/kept_weights.hpp"
#include "heed/local_linear/pair_gradients.hpp"
#include "heed/local_linear/saved_rows.hpp"
#include "heed/pairwise/bias_gradient.hpp"
#include "heed/pairwise/key_block.hpp"
#include "heed/tile/weight_gradients.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> class key_gradients {
 public:
  using tile_type = pairwise::score_tiles<T>;
  using rows_of_tile = pairwise::tile_copy<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows, most_keys = tile_type::most_keys;

  static index_t tiles(index_t keys) { return (keys + most_keys - 1) / most_keys; }

  key_gradients(const gradient_problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        adjoint_(p.wants_scores()),
        tile_(p, memory, tile::row_use::again),
        dk_(p.d, most_keys, p.wants_keys(), memory),
        dv_(p.e, most_keys, p.wants_values(), memory),
        q_(p.d, p.wants_keys(), memory),
        y_(p.d, true, memory),
        w_(p.d, true, memory),
        dout_(p.e, true, memory) {
    for (T** x : {&y_lanes_, &w_lanes_}) *x = memory.take<T>(lanes * p.d);
    dout_lanes_ = memory.take<T>(lanes * p.e);
    const index_t pairs = lanes * most_keys;
    for (T** x : {&s_, &t_, &r_, &b_}) *x = memory.take<T>(pairs);
    slopes_ = {s_, memory.take<T>(p.scores.has_cap() ? pairs : 0), memory.take<T>(p.scores.has_function() ? pairs : 0)};
    if (adjoint_ && p.has_slopes()) tile_.record_slopes(slopes_);
  }

  // The keys of a sequence from `number` tiles on
  void run(const pairwise::sequence& s, index_t kv_head, index_t number, const saved_rows<T>& saved) {
    first_key_ = number * most_keys;
    const index_t keys = std::min(most_keys, s.keys - first_key_), rows = p_.rows(s);
    if (dk_.wanted()) dk_.begin(keys);
    if (dv_.wanted()) dv_.begin(keys);
    pairwise::key_set mine;
    mine.add(first_key_, first_key_ + keys);
    for (index_t first = 0; first < rows; first += lanes) {
      rows_.take(kv_head, p_.group, first, std::min(lanes, rows - first));
      tile_.begin(s, kv_head, rows_, &mine);
      if (tile_.empty()) continue;
      read_rows(s, p_.row_number(s, kv_head, first), saved);
      tile_.each([&](index_t, pairwise::key_tile<T>& tile) {
        if (tile.count > 0) visit(tile);
      });
    }
    if (dk_.wanted()) dk_.write(p_.dk, s, kv_head, first_key_, T(1));
    if (dv_.wanted()) dv_.write(p_.dv, s, kv_head, first_key_, T(1));
  }

 private:
  // What the tile of queries has: its rows side by side, and the same with queries in lanes
  void read_rows(const pairwise::sequence& s, index_t row, const saved_rows<T>& saved) {
    const index_t count = rows_.count;
    const auto dout = pairwise::find_rows(rows_, p_.dout, s);
    dout_.take(*p_.dout_format, dout, count);
    read_saved(saved.y(row), saved.stride(), y_, y_lanes_);
    finite_dout_ = dout_.finite(), finite_q_ = true;
    for (index_t x = 0; x < saved_rows<T>::numbers; ++x) {
      const T* const from = saved.of(static_cast<typename saved_rows<T>::number>(x), row);
      std::copy(from, from + count, &numbers_[x * lanes]);
      std::fill(&numbers_[x * lanes + count], &numbers_[x * lanes] + tile_.stride(), from[count - 1]);
    }
    if (p_.wants_pair_bias()) dbias_.begin(p_.dbias, s, rows_);
    if (!adjoint_) return;
    read_saved(saved.w(row), saved.stride(), w_, w_lanes_);
    p_.dout_format->gather(dout.data(), count, p_.e, T(1), dout_lanes_, tile_.stride());
    if (!dk_.wanted()) return;
    q_.take(*p_.q_format, pairwise::find_rows(rows_, p_.q, s, p_.repeat), count);
    const simd::batch<T> scale(p_.scale_of_products);
    for (T *x = q_.row(0), *end = q_.row(count); x != end; x += w) simd::store(x, scale * simd::load(x));
    finite_q_ = q_.finite();
  }
  void read_saved(const T* from, index_t stride, rows_of_tile& rows, T* in_lanes) {
    pairwise::row_pointers<const std::byte> at;
    for (index_t l = 0; l < rows_.count; ++l) at[l] = reinterpret_cast<const std::byte*>(from + l * stride);
    rows.take(tile::row_format_of<T, T>, at, rows_.count);
    tile::gather<T>(at.data(), rows_.count, p_.d, T(1), in_lanes, tile_.stride());
  }
  const T* of(typename saved_rows<T>::number x) const { return &numbers_[x * lanes]; }

  void visit(pairwise::key_tile<T>& keys) {
    tile_.kv().copy_keys(keys);
    if (adjoint_) tile_.kv().copy_values(keys);
    tile_.scores(keys, s_, nullptr, nullptr);
    for (index_t i = 0; i < keys.count; ++i) {
      make_gradients(keys, keys.block[i]);
      add_block(keys, keys.block[i]);
    }
  }
  // t_ = p a, b_ = p c, r_ = ds over a block
  void make_gradients(const pairwise::key_tile<T>& keys, const pairwise::weight_block& b) {
    using rows = saved_rows<T>;
    const index_t row = tile_.stride(), lane = b.from * w;
    row_products<T>(keys.k, b, {y_lanes_, row, p_.d, row}, t_);
    if (adjoint_) {
      row_products<T>(keys.k, b, {w_lanes_, row, p_.d, row}, r_);
      row_products<T>(keys.v, b, {dout_lanes_, row, p_.e, row}, b_);
    }
    const tile::known_weights<T> scores{s_, row, of(rows::inv_l), of(rows::m)};
    const lane_offsets<T> offsets{of(rows::a), of(rows::c), of(rows::b_mean), of(rows::delta)};
    pair_gradients(scores.at(b.first, lane), b.keys, b.to - b.from, pair_products<T>{t_, r_, b_, row}.at(b.first, lane),
                   offsets.at(lane), adjoint_);
    if (!adjoint_) return;
    const tile::lane_block<T> ds = b.of(tile_.lanes_of(r_, keys.keys));
    const index_t at = ds.data - r_;
    if (slopes_.function != nullptr) tile::multiply_slopes<T>(ds, slopes_.function + at);
    if (p_.wants_pair_bias()) dbias_.add(tile_.lanes_of(r_, keys.keys), b, keys.key);
    if (slopes_.cap != nullptr) tile::multiply_slopes<T>(ds, slopes_.cap + at);
  }
  void add_block(const pairwise::key_tile<T>& keys, const pairwise::weight_block& b) {
    const index_t at = keys.key - first_key_;
    const auto weights = [&](T* x) { return tile_.lanes_of(x, keys.keys); };
    if (!finite_dout_ || !finite_q_) pairwise::note_seen<T>(weights(s_), b, seen_);
    if (dv_.wanted()) add(dv_, weights(t_), b, dout_, at, finite_dout_);
    if (!dk_.wanted()) return;
    dk_.add(weights(b_), b, y_, at), dk_.add(weights(t_), b, w_, at);
    add(dk_, weights(r_), b, q_, at, finite_q_);
  }
  void add(pairwise::key_sums<T>& sums, const tile::lane_block<T>& weights, const pairwise::weight_block& b,
           const rows_of_tile& rows, index_t key, bool finite) {
    finite ? sums.add(weights, b, rows, key) : sums.add_visible(weights, b, rows, key, seen_);
  }

  const gradient_problem<T>& p_;
  bool adjoint_;
  tile_type tile_;
  pairwise::key_sums<T> dk_, dv_;
  rows_of_tile q_, y_, w_, dout_;  // q: times the scale
  pairwise::bias_gradient<T> dbias_;
  pairwise::score_slopes<T> slopes_;
  T *y_lanes_, *w_lanes_, *dout_lanes_;  // [dim][lane]
  T *s_, *t_, *r_, *b_;                  // [key][lane]
  pairwise::row_tile rows_;
  pairwise::seen_keys<T> seen_;
  tile::lane_array<T, saved_rows<T>::numbers * lanes> numbers_;
  index_t first_key_ = 0;
  bool finite_dout_ = true, finite_q_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
