// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>

#include "heed/core/view.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The compute head and the query (of its sequence) in a lane
struct lane_row {
  index_t head, query;
};

// Rows that share a key/value head; row r of them is query r / group of head r % group.
struct tile_rows {
  std::array<lane_row, most_lanes> row;
  index_t count = 0;

  void take(index_t kv_head, index_t group, index_t first, index_t rows) {
    index_t i = first / group, g = first % group;
    for (count = 0; count < rows; ++count) {
      row[static_cast<std::size_t>(count)] = {kv_head * group + g, i};
      if (++g == group) g = 0, ++i;
    }
  }
};

// Where the rows of a tile are in a tensor (batch, head, query, anything) each head of which serves `repeat` compute
// heads. A division per row would be felt.
template <class E>
HEED_INLINE void find_rows(const tile_rows& rows, const tensor_view<E, 4>& x, const sequence& s, index_t repeat,
                           std::array<E*, most_lanes>& out) {
  E* const first = x.data() + s.batch * x.stride(0) + s.first_query * x.stride(2);
  const index_t head = x.stride(1), query = x.stride(2);
  const auto count = static_cast<std::size_t>(rows.count);
  for (std::size_t l = 0; l < count; ++l)
    out[l] = first + (repeat == 1 ? rows.row[l].head : rows.row[l].head / repeat) * head + rows.row[l].query * query;
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
