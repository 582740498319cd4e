// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Backward of a tile of rows against a block of keys, queries in lanes:
//
//   s = K q,  dp = V dout,  p = 2^(s - lse),  ds = p (dp - delta)          [key][lane]
//   dv += p dout,  dk += ds q,  dq += K^T ds
//
// Five products of the size of forward's two. A block has as many keys as let K, V, dK and dV stay in the second-level
// cache while the tiles of rows pass. Whatever loop calls visit(), the same tile and block give the same bits.

#include <algorithm>

#include "heed/pairwise/bias_gradient.hpp"
#include "heed/pairwise/key_block.hpp"
#include "heed/tile/weight_gradients.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Sums over the keys of a row, for all rows of a call; null: not wanted
template <class T> struct row_sums {
  T* delta = nullptr;     // dout . o - dlse
  T* lse = nullptr;       // where the call has none
  T* distance = nullptr;  // of ds |place - key|
  T* bias = nullptr;      // of ds

  row_sums() = default;
  row_sums(const gradient_problem<T>& p, heed::detail::arena& memory)
      : delta(memory.take<T>(p.all_rows())),
        lse(memory.take<T>(p.lse.data() == nullptr ? p.all_rows() : 0)),
        distance(memory.take<T>(p.wants_slopes() ? p.all_rows() : 0)),
        bias(memory.take<T>(p.wants_row_bias() ? p.all_rows() : 0)) {}
};

// What a pass over tiles and blocks adds to
struct gradient_pass {
  bool rows = true, keys = true;
};

template <class T> class gradient_tile {
 public:
  using tiles = score_tiles<T>;
  static constexpr index_t w = simd::width<T>, lanes = tiles::most_rows;

  // Keys of a block: as many as keep four rows of it in half a second-level cache. bench/softmax_bench.cpp, backward.
  static index_t block_keys(const gradient_problem<T>& p) {
    constexpr index_t bytes = index_t(1) << 19, step = 64;
    const index_t each =
        2 * (tile::whole_vectors<T>(p.d) + tile::whole_vectors<T>(p.e)) * static_cast<index_t>(sizeof(T));
    const index_t most = std::clamp<index_t>(bytes / each / step * step, step, 2048);
    return std::min(most, std::max<index_t>(1, p.k.extent(2)));
  }

  gradient_tile(const gradient_problem<T>& p, const row_sums<T>& sums, heed::detail::arena& memory)
      : p_(p),
        sums_(sums),
        tiles_(p, memory, tile::row_use::as_stored),
        k_(p.k, *p.kv_format, block_keys(p), memory),
        v_(p.v, *p.kv_format, block_keys(p), memory),
        dk_(p.d, block_keys(p), p.dk.data() != nullptr, memory),
        dv_(p.e, block_keys(p), p.dv.data() != nullptr, memory),
        q_(p.d, dk_.wanted(), memory),
        dout_(p.e, true, memory),
        dout_lanes_(memory.take<T>(lanes * p.e)),
        dq_(p.d, memory),
        s_(memory.take<T>(lanes * tiles::most_keys)),
        ds_(memory.take<T>(lanes * tiles::most_keys)),
        finite_(memory.take<T>(tiles::most_keys * weighted_sums<T>::slice)),
        factor_(memory.take<T>(lanes)),
        lse_(memory.take<T>(lanes)),
        delta_(memory.take<T>(lanes)),
        distance_(memory.take<T>(lanes)),
        bias_(memory.take<T>(lanes)) {
    slopes_.scores = s_;
    if (p.scores.has_cap()) slopes_.cap = memory.take<T>(lanes * tiles::most_keys);
    if (p.scores.has_function()) slopes_.function = memory.take<T>(lanes * tiles::most_keys);
    tiles_.record_slopes(slopes_);
  }

  // Begins a block of keys [first, first + keys) of a key/value head.
  void begin(const sequence& s, index_t kv_head, index_t first, index_t keys, const gradient_pass& pass) {
    s_at_ = s, kv_head_ = kv_head, first_ = first, keys_ = keys, pass_ = pass;
    k_.begin(p_.key(s, kv_head, first), keys), v_.begin(p_.value(s, kv_head, first), keys);
    if (pass.keys && dk_.wanted()) dk_.begin(keys);
    if (pass.keys && dv_.wanted()) dv_.begin(keys);
  }
  // Writes dK and dV of the block.
  void finish() {
    if (pass_.keys && dk_.wanted()) dk_.write(p_.dk, s_at_, kv_head_, first_, p_.q_scale);
    if (pass_.keys && dv_.wanted()) dv_.write(p_.dv, s_at_, kv_head_, first_, T(1));
  }

  // Adds what a tile of rows and the block have to do with each other. gate: what dout of each row is multiplied with,
  // or null
  void visit(const row_tile& rows, const T* gate = nullptr) {
    key_set block;
    block.add(first_, first_ + keys_);
    tiles_.begin(s_at_, kv_head_, rows, &block);
    if (tiles_.empty()) return;
    take_rows(rows, gate);
    const bool adds_q = pass_.rows && p_.dq.data() != nullptr;
    if (adds_q) dq_.begin(tiles_.vectors(), factor_);
    if (pass_.keys && p_.wants_pair_bias()) dbias_.begin(p_.dbias, s_at_, rows);
    tiles_.each([&](index_t, key_tile<T>& keys) {
      if (keys.count > 0) visit(keys);
    });
    if (adds_q) dq_.finish(), add_queries(rows);
    if (pass_.rows) add_row_sums(rows);
  }

 private:
  void take_rows(const row_tile& rows, const T* gate) {
    const index_t stride = tiles_.stride();
    dout_.take(*p_.dout_format, find_rows(rows, p_.dout, s_at_), rows.count);
    for (index_t l = 0; gate != nullptr && l < rows.count; ++l)
      for (index_t e = 0; e < p_.e; ++e) dout_.row(l)[e] *= gate[l];
    row_pointers<const std::byte> copied;
    for (index_t l = 0; l < rows.count; ++l) copied[l] = reinterpret_cast<const std::byte*>(dout_.row(l));
    tile::gather<T>(copied.data(), rows.count, p_.e, T(1), dout_lanes_, stride);
    const bool keys = pass_.keys && dk_.wanted();
    if (keys) q_.take(*p_.q_format, find_rows(rows, p_.q, s_at_, p_.repeat), rows.count);
    finite_rows_ = !pass_.keys || (dout_.finite() && (!keys || q_.finite()));
    for (index_t l = 0; l < stride; ++l) {
      const lane_row row = rows.at(l);
      const index_t number = p_.row_number(s_at_, row.head, row.query);
      const T lse = sums_.lse != nullptr ? sums_.lse[number] : *p_.lse_at(s_at_, row.head, row.query);
      const bool sees = !heed::detail::equals(lse, -std::numeric_limits<T>::infinity());
      lse_[l] = sees ? static_cast<T>(lse * static_cast<T>(std::numbers::log2e)) : std::numeric_limits<T>::infinity();
      delta_[l] = sums_.delta[number];
      distance_[l] = bias_[l] = T(0);
    }
  }

  void visit(key_tile<T>& keys) {
    const index_t at = keys.key - first_;
    keys.k = k_.rows().part(at, keys.keys, 0, p_.d), keys.v = v_.rows().part(at, keys.keys, 0, p_.e);
    tiles_.scores(keys, s_, nullptr, nullptr);
    const tile::lane_block<T> s = tiles_.lanes_of(s_, keys.keys), ds = tiles_.lanes_of(ds_, keys.keys);
    const bool finite = finite_rows_ && k_.finite();
    for (index_t i = 0; i < keys.count; ++i) {
      const weight_block& b = keys.block[i];
      if (!finite) note_seen<T>(s, b, seen_);
      weigh(keys, b, s, ds);
      if (pass_.rows && p_.dq.data() != nullptr) {
        finite ? dq_.add(keys.k, ds, b) : dq_.add_visible(keys.k, ds, b, seen_, finite_);
      }
      if (pass_.keys && dv_.wanted()) finite ? dv_.add(s, b, dout_, at) : dv_.add_visible(s, b, dout_, at, seen_);
      if (pass_.keys && dk_.wanted()) finite ? dk_.add(ds, b, q_, at) : dk_.add_visible(ds, b, q_, at, seen_);
    }
  }

  // s = p, ds = the gradient of k . q over a block; on the way those of what is added to scores
  void weigh(const key_tile<T>& keys, const weight_block& b, const tile::lane_block<T>& s,
             const tile::lane_block<T>& ds) {
    const index_t lane = b.from * w, vectors = b.to - b.from;
    const tile::lane_block<T> p = b.of(s), dp = b.of(ds);
    if (!p_.wants_score_gradients()) return tile::weigh<T>(p, nullptr, lse_ + lane, delta_ + lane);
    const tile::lane_block<const T> v = b.rows_of(keys.v);
    tile::multiply<T>(tile::product_of<T>(v.data, v.stride, 1, {dout_lanes_ + lane, s.stride, p_.e, vectors * w}, dp),
                      vectors);
    tile::weigh<T>(p, dp.data, lse_ + lane, delta_ + lane);
    const index_t from = p.data - s_;
    if (slopes_.function != nullptr) tile::multiply_slopes<T>(dp, slopes_.function + from);
    if (pass_.rows && sums_.distance != nullptr)
      tiles_.mods().sum_distances({dp.data, dp.stride, keys.key + b.first, b.keys, b.from, b.to}, distance_);
    if (pass_.rows && sums_.bias != nullptr) tile::sum_rows<T>(dp, bias_ + lane);
    if (pass_.keys && p_.wants_pair_bias()) dbias_.add(ds, b, keys.key);
    if (slopes_.cap != nullptr) tile::multiply_slopes<T>(dp, slopes_.cap + from);
  }

  void add_queries(const row_tile& rows) {
    tile::lane_array<T*, lane_capacity> to;
    for (index_t l = 0; l < rows.count; ++l)
      to[l] = &p_.dq(s_at_.batch, rows.row[l].head / p_.repeat, s_at_.first_query + rows.row[l].query, 0);
    tile::scatter_add<T>({dq_.data(), tiles_.stride(), p_.d, tiles_.stride()}, p_.q_scale, to.data(), rows.count);
  }
  void add_row_sums(const row_tile& rows) {
    for (index_t l = 0; l < rows.count; ++l) {
      const index_t row = p_.row_number(s_at_, rows.row[l].head, rows.row[l].query);
      if (sums_.distance != nullptr) sums_.distance[row] += distance_[l];
      if (sums_.bias != nullptr) sums_.bias[row] += bias_[l];
    }
  }

  const gradient_problem<T>& p_;
  row_sums<T> sums_;
  tiles tiles_;
  block_rows<T> k_, v_;
  key_sums<T> dk_, dv_;
  tile_copy<T> q_, dout_;
  T* dout_lanes_;
  weighted_sums<T> dq_;
  T *s_, *ds_, *finite_, *factor_, *lse_, *delta_, *distance_, *bias_;
  score_slopes<T> slopes_;
  bias_gradient<T> dbias_;
  seen_keys<T> seen_;
  sequence s_at_;
  index_t kv_head_ = 0, first_ = 0, keys_ = 0;
  gradient_pass pass_;
  bool finite_rows_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
