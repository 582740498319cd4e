// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Sums over the pairs of a chunk: rows against lanes, where a lane sees the rows up to its own. In the forward sweep
// rows are keys and lanes are queries; in the reverse sweep the chunk is in reverse (decay.hpp), rows are queries and
// lanes are keys. A tile's pairs come in blocks, a staircase on the diagonal:
//
//   sums[m][lane] = start(sums) + sum_rows row[m] * weight[row][lane]
//
// Pairs that are not seen have weight 0, and 0 * NaN is NaN: rows that are not finite take a pass of their own.

#include <algorithm>
#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/recurrent/chunk_output.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/tile/finite.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Rows [row, row + rows) of a chunk, and the lanes of a tile from `lane` on
struct pair_block {
  index_t row = 0, rows = 0, lane = 0;
};

// The lanes of a tile; lane 0 comes with row `at` of the chunk.
struct lane_range {
  index_t at = 0, count = 0;
};

// The same rows from the last to the first
template <class T> HEED_INLINE tile::lane_block<const T> reversed(const tile::lane_block<const T>& x) {
  return {x.row(x.rows - 1), -x.stride, x.rows, x.lanes};
}

template <class T> bool finite_rows(const tile::lane_block<const T>& x) {
  return tile::all_finite(x.data, x.stride, x.rows, x.lanes);
}

// How far lanes [lane, lane + width) are behind a row: their number less its
template <class T> HEED_INLINE simd::batch<T> lanes_after(index_t row, index_t lane) {
  alignas(64) tile::lane_array<T, simd::width<T>> numbers;
  for (index_t i = 0; i < simd::width<T>; ++i) numbers[i] = static_cast<T>(lane - row + i);
  return simd::load(numbers.data());
}

template <class T> class pair_sums {
 public:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>;
  static constexpr index_t block_rows = chunk_output<T>::key_block, diagonal_rows = chunk_output<T>::diagonal_keys;

  pair_sums(tile::prefetch_queue<T>& prefetch, heed::detail::arena& memory)
      : prefetch_(prefetch), finite_(memory.take<T>(block_rows * finite_columns)) {}

  // Rows of a block, at most
  static index_t most_rows(index_t chunk) { return std::max(max_lanes, std::min(chunk, block_rows)); }

  // Calls f for all blocks that some lane sees; the first has all lanes.
  template <class F> static void each_block(const lane_range& range, F f) {
    for (index_t r = 0; r < range.at; r += block_rows) f(pair_block{r, std::min(block_rows, range.at - r), 0});
    for (index_t r = 0; r < range.count; r += diagonal_rows)
      f(pair_block{range.at + r, std::min(diagonal_rows, range.count - r), r / w * w});
  }

  // How sums start: 0, or a state's part, which the decay of each lane scales
  struct start {
    tile::accumulate accumulate = tile::accumulate::zero;
    const T* factor = nullptr;
  };
  static start start_of(const chunk_decay<T>& decay, const lane_range& range, bool empty_state) {
    if (empty_state) return {};
    if (!decay.decays()) return {tile::accumulate::keep};
    return {tile::accumulate::scale, decay.q_decay(range.at)};
  }

  // scores[row][lane] = row . lane for the lanes that a block has; lanes: [dim][lane]
  void multiply(const pair_block& block, const tile::lane_block<const T>& rows, const tile::lane_block<T>& lanes,
                const tile::lane_block<T>& scores) {
    const index_t count = lanes.lanes - block.lane;
    prefetch_.multiply(
        tile::product_of<T>(rows.row(block.row), rows.stride, 1, lanes.part(0, rows.lanes, block.lane, count),
                            scores.part(0, block.rows, block.lane, count)),
        count / w);
  }

  // Adds the weighted rows of a block to the sums. weights: of the block's rows and of all lanes
  void add(const chunk_decay<T>& decay, const lane_range& range, const pair_block& block,
           const tile::lane_block<T>& weights, const tile::lane_block<const T>& rows, const tile::lane_block<T>& sums,
           const start& from, bool finite) {
    const index_t count = weights.lanes - block.lane;
    const tile::lane_block<const T> x = rows.part(block.row, block.rows, 0, sums.rows);
    const auto multiply = [&](const tile::lane_block<const T>& part, index_t column) {
      auto product = tile::product_of<T>(part.data, 1, part.stride, weights.part(0, block.rows, block.lane, count),
                                         sums.part(column, part.lanes, block.lane, count));
      product.accumulate = from.accumulate, product.factor = from.factor;
      prefetch_.multiply(product, count / w);
    };
    if (finite) return multiply(x, 0);
    const auto seen = [&](index_t r) {
      std::uint64_t lanes = 0;
      for (index_t l = block.lane; l < range.count; ++l)
        if (decay.sees(range.at + l, block.row + r)) lanes |= std::uint64_t{1} << l;
      return lanes;
    };
    tile::add_visible<block_rows, T>(x, {weights.data, weights.stride, block.lane, range.count, sums.data, sums.stride},
                                     {finite_, finite_columns, x.rows, finite_columns}, seen, multiply);
  }

  // Removes a state that is not finite from the lanes that a reset hides it from.
  static void cut_resets(const chunk_decay<T>& decay, const lane_range& range, const tile::lane_block<T>& sums) {
    if (!decay.has_reset()) return;
    for (index_t l = 0; l < range.count; ++l)
      for (index_t c = 0; c < sums.rows && heed::detail::equals(decay.q_decay(range.at)[l], T(0)); ++c)
        sums.row(c)[l] = T(0);
  }

 private:
  static constexpr index_t finite_columns = chunk_output<T>::finite_columns;

  tile::prefetch_queue<T>& prefetch_;
  T* finite_;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
