// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A block of keys in backward: their rows of K and V, and the sums of dK and dV,
//
//   dv[key][e] += sum over lanes of p[key][lane] dout[lane][e]
//   dk[key][d] += sum over lanes of ds[key][lane] q[lane][d]
//
// Queries in lanes are the depth of these products; their rows, copied side by side, are the other operand.

#include "heed/pairwise/gradient_problem.hpp"
#include "heed/pairwise/weighted_sums.hpp"
#include "heed/tile/finite.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The rows of a tile side by side, [lane][column], with zeros up to whole vectors
template <class T> class tile_copy {
 public:
  tile_copy(index_t dim, bool wanted, heed::detail::arena& memory)
      : dim_(dim),
        stride_(tile::whole_vectors<T>(dim)),
        rows_(memory.take<T>(wanted ? tile::max_lanes<T> * stride_ : 0)) {
    if (rows_ != nullptr) std::fill(rows_, rows_ + tile::max_lanes<T> * stride_, T(0));
  }

  void take(const tile::row_format<T>& format, const row_pointers<const std::byte>& rows, index_t count) {
    for (index_t l = 0; l < count; ++l) format.read(rows[l], 0, 1, dim_, row(l), 0);
    count_ = count;
  }
  T* row(index_t l) const { return rows_ + l * stride_; }
  index_t stride() const { return stride_; }
  tile::lane_block<const T> rows() const { return {rows_, stride_, count_, dim_}; }
  bool finite() const { return tile::all_finite(rows_, stride_, count_, dim_); }

 private:
  index_t dim_, stride_, count_ = 0;
  T* rows_;
};

// Sums of rows of a tile, one row of sums per key of the block
template <class T> class key_sums {
 public:
  static constexpr index_t w = simd::width<T>;

  key_sums(index_t dim, index_t keys, bool wanted, heed::detail::arena& memory)
      : dim_(dim),
        stride_(tile::whole_vectors<T>(dim)),
        wanted_(wanted),
        sum_(memory.take<T>(wanted ? keys * stride_ : 0)),
        weight_(memory.take<T>(wanted ? tile::max_lanes<T> * lane_capacity : 0)),
        finite_(memory.take<T>(wanted ? lane_capacity * weighted_sums<T>::slice : 0)) {}

  bool wanted() const { return wanted_; }
  void begin(index_t keys) {
    keys_ = keys;
    std::fill(sum_, sum_ + keys * stride_, T(0));
  }

  // Adds weights [key][lane] of a block times the rows of its lanes. key: of the tile, from the block's first on
  HEED_INLINE void add(const tile::lane_block<T>& weights, const weight_block& b, const tile_copy<T>& x, index_t key) {
    const index_t lane = b.from * w, lanes = std::min(b.to * w, x.rows().rows) - lane;
    if (lanes > 0) add_columns(b.of(weights), x.rows().part(lane, lanes, 0, x.stride()), key + b.first, 0);
  }

  // The same where rows hold NaN or infinity, which reach the keys that their lanes see and no other.
  HEED_NOINLINE void add_visible(const tile::lane_block<T>& weights, const weight_block& b, const tile_copy<T>& x,
                                 index_t key, const seen_keys<T>& seen) {
    const index_t lane = b.from * w, lanes = std::min(b.to * w, x.rows().rows) - lane;
    for (index_t first = 0; lanes > 0 && first < b.keys; first += lane_capacity) {
      const index_t keys = std::min(lane_capacity, b.keys - first), to = key + b.first + first;
      tile::lane_array<std::uint64_t, lane_capacity> sees{};  // bit j of lane l: it sees key j
      for (index_t j = 0; j < keys; ++j)
        for (index_t l = 0; l < lanes; ++l) {
          sees[l] |= (seen[first + j] >> (lane + l) & 1) << j;
          weight_[l * lane_capacity + j] = weights.row(b.first + first + j)[lane + l];
        }
      const weight_block part{b.first + first, keys, b.from, b.to};
      tile::add_visible<tile::max_lanes<T>, T>(
          x.rows().part(lane, lanes, 0, dim_), {weight_, lane_capacity, 0, keys, sum_ + to * stride_, 1, stride_},
          {finite_, weighted_sums<T>::slice, lanes, weighted_sums<T>::slice}, [&](index_t l) { return sees[l]; },
          [&](const tile::lane_block<const T>& rows, index_t c) { add_columns(part.of(weights), rows, to, c); });
    }
  }

  // to(row, factor row) for each key of the block
  void write(const tensor_view<T, 4>& out, const sequence& s, index_t kv_head, index_t first, T factor) const {
    for (index_t j = 0; j < keys_; ++j)
      tile::detail::write_row<T, T>(sum_ + j * stride_, factor,
                                    reinterpret_cast<std::byte*>(&out(s.batch, kv_head, s.first_key + first + j, 0)),
                                    dim_);
  }

 private:
  // Columns of rows x, from column c of the sums on
  void add_columns(const tile::lane_block<T>& weights, const tile::lane_block<const T>& x, index_t key, index_t c) {
    const index_t vectors = tile::whole_vectors<T>(std::min(x.lanes, stride_ - c)) / w;
    for (index_t v = 0; v < vectors; v += tile::max_vectors) {
      tile::matrix_product<T> p{weights.data,   weights.stride, 1,
                                x.data + v * w, x.stride,       sum_ + key * stride_ + c + v * w,
                                stride_,        weights.rows,   x.rows};
      p.accumulate = tile::accumulate::keep;
      tile::multiply(p, std::min<index_t>(tile::max_vectors, vectors - v));
    }
  }

  index_t dim_, stride_, keys_ = 0;
  bool wanted_;
  T *sum_, *weight_, *finite_;
};

// K and V rows of the block at hand: in place where products can read them there, else copied once.
template <class T> class block_rows {
 public:
  block_rows(const heed::detail::input_tensor& x, const tile::row_format<T>& format, index_t most,
             heed::detail::arena& memory)
      : x_(x),
        format_(format),
        dim_(x.extent(3)),
        copies_(!format.is_t || tile::far_rows(x)),
        copy_(memory.take<T>(copies_ ? most * tile::whole_vectors<T>(dim_) : 0)) {}

  void begin(const std::byte* first, index_t count) {
    if (copies_) {
      rows_ = {copy_, tile::whole_vectors<T>(dim_), count, dim_};
      format_.read(first, x_.row_bytes(), count, dim_, copy_, rows_.stride);
    } else {
      rows_ = {tile::row_as<T>(first), x_.row_bytes() / static_cast<index_t>(sizeof(T)), count, dim_};
    }
    finite_ = tile::all_finite(rows_.data, rows_.stride, count, dim_);
  }
  tile::lane_block<const T> rows() const { return rows_; }
  bool finite() const { return finite_; }

 private:
  const heed::detail::input_tensor& x_;
  const tile::row_format<T>& format_;
  index_t dim_;
  bool copies_, finite_ = true;
  T* copy_;
  tile::lane_block<const T> rows_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
