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
#include <cstdint>

#include "heed/pairwise/score_tiles.hpp"
#include "heed/tile/finite.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Bit l: lane l sees the key
template <class T> using seen_keys = tile::lane_array<std::uint64_t, score_tiles<T>::most_keys>;

// Which lanes see which keys of a block [key][lane], whose scores are s
template <class T>
HEED_NOINLINE void note_seen(const tile::lane_block<const T>& s, const weight_block& b, seen_keys<T>& seen) {
  constexpr index_t w = simd::width<T>;
  for (index_t j = 0; j < b.keys; ++j) {
    std::uint64_t lanes = 0;
    for (index_t lane = b.from * w; lane < b.to * w; ++lane)
      if (!heed::detail::equals(s.row(b.first + j)[lane], -std::numeric_limits<T>::infinity()))
        lanes |= std::uint64_t{1} << lane;
    seen[j] = lanes;
  }
}

template <class T> class weighted_sums {
 public:
  static constexpr index_t w = simd::width<T>, slice = 16;  // slice: columns copied without what is not finite

  weighted_sums(index_t columns, heed::detail::arena& memory)
      : columns_(columns), sum_(memory.take<T>(score_tiles<T>::most_rows * columns)) {}

  // factor: one per lane, what rescale_next asks the sums to be multiplied with
  void begin(index_t vectors, T* factor) {
    vectors_ = vectors, stride_ = vectors * w, factor_ = factor;
    std::fill(state_.begin(), state_.end(), lane_state::fresh);
  }
  T* data() const { return sum_; }  // [column][lane]

  // The next sums of these vectors join what there is times factor.
  void rescale_next(index_t from, index_t to) {
    std::replace(state_.begin() + from, state_.begin() + to, lane_state::keep, lane_state::scale);
  }

  // Adds a block of a tile: x its rows, weights [key][lane]. prefetch: rows for what comes next
  void add(const tile::lane_block<const T>& x, const tile::lane_block<T>& weights, const weight_block& b,
           tile::row_prefetcher<T>* prefetch = nullptr) {
    add_columns(b.rows_of(x), 0, weights, b, start_of(b.from, b.to), prefetch);
  }

  // The same, but values that are not finite reach the lanes that see them and no other, see tile::add_visible.
  // finite: scratch of most_keys * slice
  HEED_NOINLINE void add_visible(const tile::lane_block<const T>& x, const tile::lane_block<T>& weights,
                                 const weight_block& b, const seen_keys<T>& seen, T* finite) {
    const index_t from = b.from * w, to = b.to * w;
    const std::uint64_t all = ~std::uint64_t{0} >> (64 - (to - from)) << from;
    if (std::all_of(seen.begin(), seen.begin() + b.keys, [=](std::uint64_t lanes) { return (lanes & all) == all; }))
      return add(x, weights, b);
    const tile::accumulate start = start_of(b.from, b.to);
    tile::add_visible<score_tiles<T>::most_keys, T>(
        b.rows_of(x), {weights.row(b.first), stride_, from, to, sum_, stride_}, {finite, slice, b.keys, slice},
        [&](index_t j) { return seen[j]; },
        [&](const tile::lane_block<const T>& rows, index_t c) { add_columns(rows, c, weights, b, start); });
  }

  // After the last add: what no key reached is 0.
  void finish() {
    for (index_t x = 0; x < vectors_; ++x)
      if (state_[x] == lane_state::fresh) tile::fill(sum_ + x * w, stride_, columns_, w, T(0));
  }
  bool finite() const { return tile::all_finite(sum_, stride_, columns_, stride_); }

 private:
  // Of the sums of one vector: undefined, to be rescaled, current
  enum class lane_state { fresh, scale, keep };

  // x: rows of the block, columns from c on
  void add_columns(const tile::lane_block<const T>& x, index_t c, const tile::lane_block<T>& weights,
                   const weight_block& b, tile::accumulate start, tile::row_prefetcher<T>* prefetch = nullptr) {
    tile::matrix_product<T> p =
        tile::product_of<T>(x.data, 1, x.stride, b.of(weights), {sum_ + c * stride_ + b.from * w, stride_, x.lanes});
    p.accumulate = start, p.factor = factor_ + b.from * w;
    tile::multiply_streaming<T>(p, b.to - b.from, prefetch);
  }

  // What the next sums of these vectors join, once
  tile::accumulate start_of(index_t from, index_t to) {
    const auto all = [&](lane_state s) {
      return std::all_of(state_.begin() + from, state_.begin() + to, [s](lane_state x) { return x == s; });
    };
    tile::accumulate start = tile::accumulate::scale;
    if (all(lane_state::fresh))
      start = tile::accumulate::zero;
    else if (all(lane_state::keep))
      start = tile::accumulate::keep;
    else
      level(from, to);
    std::fill(state_.begin() + from, state_.begin() + to, lane_state::keep);
    return start;
  }

  // Vectors in different states to one: all to be rescaled
  void level(index_t from, index_t to) {
    for (index_t x = from; x < to; ++x) {
      if (state_[x] == lane_state::fresh) tile::fill(sum_ + x * w, stride_, columns_, w, T(0));
      if (state_[x] != lane_state::scale) std::fill(factor_ + x * w, factor_ + (x + 1) * w, T(1));
      state_[x] = lane_state::scale;
    }
  }

  index_t columns_, vectors_ = 0, stride_ = 0;
  T *sum_, *factor_ = nullptr;
  tile::lane_array<lane_state, vector_capacity> state_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
