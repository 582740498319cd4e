// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Weighted sums of rows, queries in lanes:
//
//   sum[column][lane] = sum over keys of weight[key][lane] * x[key][column]
//
// block by block of weights, with the rescale of the online softmax where one is due.
//
// Hidden keys have weight 0, and 0 * NaN is NaN: sums that are not finite are made once more with add_visible.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/tile/finite.hpp"
#include "heed/tile/pack.hpp"
#include "heed/pairwise/score_tiles.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Bit l: lane l sees the key
template <class T> using seen_keys = std::array<std::uint64_t, static_cast<std::size_t>(query_tile<T>::most_keys)>;

// Which lanes of a block see which of its keys, from its scores
template <class T> HEED_NOINLINE void note_seen(const T* s, index_t row, const weight_block& b, seen_keys<T>& seen) {
  constexpr index_t w = simd::width<T>;
  for (index_t j = 0; j < b.keys; ++j) {
    std::uint64_t lanes = 0;
    for (index_t lane = b.from * w; lane < b.to * w; ++lane)
      if (!heed::detail::equals(s[(b.first + j) * row + lane], -std::numeric_limits<T>::infinity()))
        lanes |= std::uint64_t{1} << lane;
    seen[static_cast<std::size_t>(j)] = lanes;
  }
}

template <class T> class lane_sums {
 public:
  static constexpr index_t w = simd::width<T>, slice = 16;  // slice: columns copied without what is not finite

  lane_sums(index_t columns, heed::detail::arena& memory)
      : columns_(columns), sum_(memory.take<T>(query_tile<T>::most_rows * columns)) {}

  // factor: one per lane, what rescale_next asks the sums to be multiplied with
  void begin(index_t vectors, T* factor) {
    vectors_ = vectors, row_ = vectors * w, factor_ = factor;
    state_.fill(lane_state::fresh);
  }
  T* data() const { return sum_; }  // [column][lane]

  // The next sums of these vectors join what there is times factor.
  void rescale_next(index_t from, index_t to) {
    std::replace(state_.begin() + from, state_.begin() + to, lane_state::keep, lane_state::scale);
  }

  // x: the row of the tile's first key; weight: [key][lane] of the tile; meanwhile: rows for what comes next
  void add(const T* x, index_t x_row, const T* weight, const weight_block& b, tile::row_stream<T>* meanwhile = nullptr) {
    add_columns(x + b.first * x_row, x_row, 0, columns_, weight, b, start_of(b.from, b.to), meanwhile);
  }

  // The same, but values that are not finite reach the lanes that see them and no other: where some lane misses some
  // key they are left out of the product and then added. The other lanes get the bits of add. finite: scratch of
  // most_keys * slice
  HEED_NOINLINE void add_visible(const T* x, index_t x_row, const T* weight, const weight_block& b,
                                 const seen_keys<T>& seen, T* finite) {
    const index_t from = b.from * w, to = b.to * w;
    const std::uint64_t all = ~std::uint64_t{0} >> (64 - (to - from)) << from;
    if (std::all_of(seen.begin(), seen.begin() + b.keys, [=](std::uint64_t lanes) { return (lanes & all) == all; }))
      return add(x, x_row, weight, b);
    const tile::accumulate how = start_of(b.from, b.to);
    tile::add_visible<query_tile<T>::most_keys, T>(
        {x + b.first * x_row, x_row, b.keys, columns_}, {weight + b.first * row_, row_, from, to, sum_, row_},
        {finite, slice, b.keys, slice}, [&](index_t j) { return seen[at(j)]; },
        [&](const tile::lane_block<const T>& rows, index_t c) {
          add_columns(rows.data, rows.stride, c, rows.lanes, weight, b, how);
        });
  }

  // After the last add: what no key reached is 0.
  void finish() {
    for (index_t x = 0; x < vectors_; ++x)
      if (state_[static_cast<std::size_t>(x)] == lane_state::fresh) tile::fill(sum_ + x * w, row_, columns_, w, T(0));
  }
  bool finite() const { return tile::all_finite(sum_, row_, columns_, row_); }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  // Of the sums of one vector: undefined, to be rescaled, current
  enum class lane_state { fresh, scale, keep };

  void add_columns(const T* x, index_t x_row, index_t c, index_t columns, const T* weight, const weight_block& b,
                   tile::accumulate how, tile::row_stream<T>* meanwhile = nullptr) {
    tile::multiply_streaming<T>({.a = x,
                           .a_row = 1,
                           .a_col = x_row,
                           .b = weight + b.first * row_ + b.from * w,
                           .b_row = row_,
                           .c = sum_ + c * row_ + b.from * w,
                           .c_row = row_,
                           .rows = columns,
                           .depth = b.keys,
                           .accumulate = how,
                           .factor = factor_ + b.from * w},
                          b.to - b.from, meanwhile);
  }

  // What the next sums of these vectors join, once
  tile::accumulate start_of(index_t from, index_t to) {
    const auto all = [&](lane_state s) {
      return std::all_of(state_.begin() + from, state_.begin() + to, [s](lane_state x) { return x == s; });
    };
    tile::accumulate how = tile::accumulate::scale;
    if (all(lane_state::fresh))
      how = tile::accumulate::zero;
    else if (all(lane_state::keep))
      how = tile::accumulate::keep;
    else
      level(from, to);
    std::fill(state_.begin() + from, state_.begin() + to, lane_state::keep);
    return how;
  }

  // Vectors in different states to one: all to be rescaled
  void level(index_t from, index_t to) {
    for (index_t x = from; x < to; ++x) {
      lane_state& state = state_[static_cast<std::size_t>(x)];
      if (state == lane_state::fresh) tile::fill(sum_ + x * w, row_, columns_, w, T(0));
      if (state != lane_state::scale) std::fill(factor_ + x * w, factor_ + (x + 1) * w, T(1));
      state = lane_state::scale;
    }
  }

  index_t columns_, vectors_ = 0, row_ = 0;
  T *sum_, *factor_ = nullptr;
  std::array<lane_state, most_vectors> state_{};
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
