// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The key pass of backward: dk and dv of a tile of keys, over the tiles of queries that see them, from what the row
// pass has saved of the rows. Scores and the products k . y, k . w and v . dout are made anew, queries in lanes; then
//
//   dv[key][e] += sum over lanes of (p a)[key][lane] dout[lane][e], and dk likewise from y, w and q
//
// with the lanes as the depth of the product and rows of dout, y, w and q as its second operand: pair_gradients.hpp.

#include "heed/local_linear/kept_weights.hpp"
#include "heed/local_linear/pair_gradients.hpp"
#include "heed/local_linear/saved_rows.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Sums of rows with weights [key][lane]: sum[key][column] += sum over lanes of weight * row[lane][column]
template <class T> class key_sums {
 public:
  static constexpr index_t w = simd::width<T>, most_keys = pairwise::score_tiles<T>::most_keys;

  key_sums(index_t columns, bool wanted, heed::detail::arena& memory)
      : columns_(columns),
        stride_(tile::whole_vectors<T>(columns)),
        sum_(memory.take<T>(wanted ? most_keys * stride_ : 0)) {}

  void begin(index_t keys) { std::fill(sum_, sum_ + keys * stride_, T(0)); }
  T* row(index_t key) const { return sum_ + key * stride_; }

  // Weights of a block of `lanes` lanes; rows: of its first lane, `stride` apart, in whole vectors. key: the sums' row
  // of the block's first key
  void add(const tile::lane_block<const T>& weights, const T* rows, index_t stride, index_t key) {
    const index_t vectors = stride_ / w, parts = (vectors + tile::max_vectors - 1) / tile::max_vectors;
    for (index_t i = 0, first = 0; i < parts; ++i) {
      const index_t count = (vectors - first + parts - i - 1) / (parts - i);
      tile::matrix_product<T> p = tile::product_of<T>(weights.data, weights.stride, 1,
                                                      {rows + first * w, stride, weights.lanes, count * w},
                                                      {row(key) + first * w, stride_, weights.rows, count * w});
      p.accumulate = tile::accumulate::keep;
      tile::multiply(p, count);
      first += count;
    }
  }

  // Writes the sums to rows of the caller's.
  void write(index_t keys, T* to, index_t stride) const {
    tile::copy_rows<T>(sum_, stride_, keys, columns_, to, stride);
  }

 private:
  index_t columns_, stride_;
  T* sum_;
};

// Rows of a tile of queries as numbers of type T: [lane][column], in whole vectors, without what is not finite
template <class T> class lane_rows {
 public:
  static constexpr index_t lanes = pairwise::score_tiles<T>::most_rows;

  lane_rows(index_t columns, bool wanted, heed::detail::arena& memory)
      : columns_(columns),
        stride_(tile::whole_vectors<T>(columns)),
        rows_(memory.take<T>(wanted ? lanes * stride_ : 0)),
        wanted_(wanted) {}

  // After `columns` there are zeros.
  void begin() {
    if (wanted_) std::fill(rows_, rows_ + lanes * stride_, T(0));
  }
  void read(const tile::row_format<T>& format, const std::byte* const* rows, index_t count) {
    if (!wanted_) return;
    for (index_t l = 0; l < count; ++l) format.read(rows[l], 0, 1, columns_, rows_ + l * stride_, stride_);
    nonfinite_ = 0;
    if (tile::all_finite(rows_, stride_, count, columns_)) return;
    for (index_t l = 0; l < count; ++l)
      for (index_t c = 0; c < columns_; ++c)
        if (T& x = rows_[l * stride_ + c]; !std::isfinite(x)) x = T(0), nonfinite_ |= std::uint64_t{1} << l;
  }

  const T* row(index_t lane) const { return rows_ + lane * stride_; }
  index_t stride() const { return stride_; }
  std::uint64_t nonfinite() const { return nonfinite_; }  // lanes that had something that is not finite

 private:
  index_t columns_, stride_;
  T* rows_;
  bool wanted_;
  std::uint64_t nonfinite_ = 0;
};

template <class T> class key_gradients {
 public:
  using tile_type = pairwise::score_tiles<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows, most_keys = tile_type::most_keys;

  static index_t tiles(index_t keys) { return (keys + most_keys - 1) / most_keys; }

  key_gradients(const gradient_problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        tile_(p, memory, tile::row_use::again),
        dk_(p.d, p.wants_keys(), memory),
        dv_(p.e, p.wants_values(), memory),
        q_rows_(p.d, p.wants_keys(), memory),
        dout_rows_(p.e, p.wants_values(), memory) {
    for (T** x : {&y_, &w_}) *x = memory.take<T>(lanes * p.d);
    dout_ = memory.take<T>(lanes * p.e);
    for (T** x : {&s_, &t_, &r_, &b_}) *x = memory.take<T>(lanes * most_keys);
  }

  // The keys of a sequence from `number` tiles on
  void run(const pairwise::sequence& s, index_t kv_head, index_t number, const saved_rows<T>& saved) {
    first_key_ = number * most_keys;
    const index_t keys = std::min(most_keys, s.keys - first_key_);
    if (p_.wants_keys()) dk_.begin(keys);
    if (p_.wants_values()) dv_.begin(keys);
    q_rows_.begin(), dout_rows_.begin();
    pairwise::key_set mine;
    mine.add(first_key_, first_key_ + keys);
    const index_t rows = p_.rows(s);
    for (index_t first = 0; first < rows; first += lanes) {
      rows_.take(kv_head, p_.group, first, std::min(lanes, rows - first));
      tile_.begin(s, kv_head, rows_, &mine);
      ready_ = false;
      tile_.each([&](index_t, pairwise::key_tile<T>& tile) {
        if (tile.count == 0) return;
        if (!ready_) read_rows(s, p_.row_number(s, kv_head, first), saved);
        add(tile);
      });
    }
    const index_t at = s.first_key + first_key_;
    if (p_.wants_keys()) dk_.write(keys, &p_.dk(s.batch, kv_head, at, 0), p_.dk.stride(2));
    if (p_.wants_values()) dv_.write(keys, &p_.dv(s.batch, kv_head, at, 0), p_.dv.stride(2));
  }

 private:
  // What the tile of queries has: its rows, and the same with queries in lanes
  void read_rows(const pairwise::sequence& s, index_t row_number, const saved_rows<T>& saved) {
    using rows = saved_rows<T>;
    ready_ = true;
    const index_t count = rows_.count, row = tile_.stride();
    first_row_ = row_number, saved_ = &saved;
    gather(saved.y(row_number), saved.stride(), y_), gather(saved.w(row_number), saved.stride(), w_);
    q_rows_.read(*p_.q_format, pairwise::find_rows(rows_, p_.q, s, p_.repeat).data(), count);
    const auto dout = pairwise::find_rows(rows_, p_.dout, s);
    dout_rows_.read(*p_.dout_format, dout.data(), count);
    if (p_.wants_keys()) p_.dout_format->gather(dout.data(), count, p_.e, T(1), dout_, row);
    dout_pointers_ = dout;
    for (index_t x = 0; x < rows::numbers; ++x) {
      const T* const from = saved.of(static_cast<typename rows::number>(x), row_number);
      std::copy(from, from + count, &numbers_[x * lanes]);
      std::fill(&numbers_[x * lanes + count], &numbers_[x * lanes] + row, from[count - 1]);
    }
  }
  // [d][lane] of rows in scratch
  void gather(const T* from, index_t stride, T* to) {
    pairwise::row_pointers<const std::byte> rows;
    for (index_t l = 0; l < rows_.count; ++l) rows[l] = reinterpret_cast<const std::byte*>(from + l * stride);
    tile::gather<T>(rows.data(), rows_.count, p_.d, T(1), to, tile_.stride());
  }
  const T* of(typename saved_rows<T>::number x) const { return &numbers_[x * lanes]; }

  void add(pairwise::key_tile<T>& keys) {
    using rows = saved_rows<T>;
    const index_t row = tile_.stride();
    tile_.kv().copy_keys(keys);
    if (p_.wants_keys()) tile_.kv().copy_values(keys);
    tile_.scores(keys, s_, nullptr, nullptr);
    for (index_t i = 0; i < keys.count; ++i) {
      const pairwise::weight_block& b = keys.block[i];
      const index_t lane = b.from * w;
      row_products<T>(keys.k, b, {y_, row, p_.d, row}, t_);
      if (p_.wants_keys()) {
        row_products<T>(keys.k, b, {w_, row, p_.d, row}, r_);
        row_products<T>(keys.v, b, {dout_, row, p_.e, row}, b_);
      }
      const tile::known_weights<T> scores{s_, row, of(rows::inv_l), of(rows::m)};
      const lane_offsets<T> offsets{of(rows::a), of(rows::c), of(rows::b_mean), of(rows::delta)};
      pair_gradients(scores.at(b.first, lane), b.keys, b.to - b.from,
                     pair_products<T>{t_, r_, b_, row}.at(b.first, lane), offsets.at(lane), p_.wants_keys(), p_.factor);
      add_block(keys.key - first_key_, b);
    }
  }
  void add_block(index_t key, const pairwise::weight_block& b) {
    const index_t row = tile_.stride(), lane = b.from * w, count = std::min(b.to * w, rows_.count) - lane;
    const auto weights = [&](const T* x) {
      return tile::lane_block<const T>{x + b.first * row + lane, row, b.keys, count};
    };
    const index_t at = key + b.first;
    if (p_.wants_values()) {
      dv_.add(weights(t_), dout_rows_.row(lane), dout_rows_.stride(), at);
      if (dout_rows_.nonfinite() != 0) add_nonfinite(b, at);
    }
    if (!p_.wants_keys()) return;
    dk_.add(weights(b_), saved_->y(first_row_ + lane), saved_->stride(), at);
    dk_.add(weights(t_), saved_->w(first_row_ + lane), saved_->stride(), at);
    dk_.add(weights(r_), q_rows_.row(lane), q_rows_.stride(), at);
  }
  // What rows of dout that are not finite add to dv of the keys that they see
  HEED_NOINLINE void add_nonfinite(const pairwise::weight_block& b, index_t key) {
    const index_t row = tile_.stride();
    for (index_t l = b.from * w; l < std::min(b.to * w, rows_.count); ++l) {
      if ((dout_rows_.nonfinite() >> l & 1) == 0) continue;
      for (index_t e = 0; e < p_.e; ++e) {
        T x = T(0);
        p_.dout_format->read(dout_pointers_[l] + e * p_.dout.element_bytes(), 0, 1, 1, &x, 1);
        for (index_t j = 0; !std::isfinite(x) && j < b.keys; ++j) {
          const index_t i = (b.first + j) * row + l;
          if (!heed::detail::equals(s_[i], -std::numeric_limits<T>::infinity())) dv_.row(key + j)[e] += t_[i] * x;
        }
      }
    }
  }

  const gradient_problem<T>& p_;
  tile_type tile_;
  key_sums<T> dk_, dv_;
  lane_rows<T> q_rows_, dout_rows_;
  T *y_, *w_, *dout_;        // [d][lane]
  T *s_, *t_, *r_, *b_;      // [key][lane]
  pairwise::row_tile rows_;
  pairwise::row_pointers<const std::byte> dout_pointers_;
  tile::lane_array<T, saved_rows<T>::numbers * lanes> numbers_;
  const saved_rows<T>* saved_ = nullptr;
  index_t first_key_ = 0, first_row_ = 0;
  bool ready_ = false;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
