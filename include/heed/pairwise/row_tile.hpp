// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/core/call.hpp"
#include "heed/core/view.hpp"
#include "heed/pairwise/key_ranges.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The compute head and the query (of its sequence) in a lane
struct lane_row {
  index_t head, query;
};

// Rows that share a key/value head; row r of them is query r / group of head r % group.
struct row_tile {
  tile::lane_array<lane_row, lane_capacity> row;
  index_t count = 0;

  void take(index_t kv_head, index_t group, index_t first, index_t rows) {
    index_t i = first / group, g = first % group;
    for (count = 0; count < rows; ++count) {
      row[count] = {kv_head * group + g, i};
      if (++g == group) g = 0, ++i;
    }
  }
  // What is behind the last row repeats it, up to whole vectors.
  lane_row at(index_t lane) const { return row[std::min(lane, count - 1)]; }
  index_t padded(index_t width) const { return (count + width - 1) / width * width; }
};

// Whether a row with this gate takes part: NaN does; a subnormal gate counts as 0, in and out of tasks.
template <class T> HEED_INLINE bool is_active(T gate) { return !(std::abs(gate) < std::numeric_limits<T>::min()); }

template <class Byte> using row_pointers = tile::lane_array<Byte*, lane_capacity>;

// Finds the rows of a tile in a tensor (batch, head, query, anything) each head of which serves `repeat` compute heads.
// A division per row would be felt.
template <class Byte>
HEED_INLINE row_pointers<Byte> find_rows(const row_tile& rows, const heed::detail::stored_tensor<Byte>& x,
                                         const heed::detail::sequence& s, index_t repeat = 1) {
  Byte* const first = x.row(s.batch, 0, s.first_query);
  const index_t head = x.stride(1) * x.element_bytes(), query = x.row_bytes();
  row_pointers<Byte> out;
  for (index_t l = 0; l < rows.count; ++l)
    out[l] = first + (repeat == 1 ? rows.row[l].head : rows.row[l].head / repeat) * head + rows.row[l].query * query;
  return out;
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
