// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>

#include "heed/simd/batch.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Rows that a task will need next, asked for a few lines at a time and in address order, while it computes.
// bench/lightning_bench.cpp, long rows: in bursts, or in the order of use, it gains little.
template <class T> class drip {
 public:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));

  void clear() { count_ = at_ = 0, total_ = 0; }

  // rows of dim values; they need not exist
  void add(const T* rows, index_t row_stride, index_t count, index_t dim) {
    if (count <= 0) return;
    stream& s = streams_[static_cast<std::size_t>(count_++)];
    s = {rows, row_stride, count, dim, 0};
    if (row_stride == dim) s.dim = dim * count, s.rows = 1;
    total_ += (s.dim + line - 1) / line * s.rows;
  }
  index_t lines() const { return total_; }
  bool done() const { return at_ == count_; }

  void next(index_t lines) {
    for (; lines > 0 && at_ < count_; --lines) {
      stream& s = streams_[static_cast<std::size_t>(at_)];
      simd::prefetch(s.row, s.column);
      s.column += line;
      if (s.column < s.dim) continue;
      s.column = 0, s.row += s.stride;
      if (--s.rows == 0) ++at_;
    }
  }

 private:
  struct stream {
    const T* row;
    index_t stride, rows, dim, column;
  };
  std::array<stream, 4> streams_;
  index_t count_ = 0, at_ = 0, total_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::tile
