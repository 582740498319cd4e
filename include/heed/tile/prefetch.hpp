// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

#include "heed/simd/batch.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Rows that a task will need next, asked for line by line and in address order while it computes: called once per step
// of tile/multiply.hpp's inner loop. bench/lightning_bench.cpp, long rows: in bursts, or in the order of use, it gains
// little.
//
// Before that, pages are touched: where prefetches meet them one by one, address translation is waited for each time.
// Long rows, D = 64, N = 262144: 82 % of the peak without, 85 % with.
template <class T> class drip {
 public:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));

  drip() = default;

  // count rows of `columns` values, row_stride apart; they need not exist
  drip(const T* rows, index_t row_stride, index_t count, index_t columns)
      : at_(rows),
        lines_((columns + line - 1) / line),
        jump_(row_stride - lines_ * line),
        left_(lines_),
        rows_(count) {}

  HEED_INLINE void operator()() {
    simd::prefetch(at_, 0);
    move(line);
    if (--left_ == 0) left_ = lines_, --rows_, move(jump_);
  }
  bool done() const { return rows_ <= 0; }

 private:
  HEED_INLINE void move(index_t elements) {  // beyond the tensor too, where no pointer arithmetic may go
    at_ = reinterpret_cast<const T*>(reinterpret_cast<std::uintptr_t>(at_) +
                                     static_cast<std::uintptr_t>(elements) * sizeof(T));
  }

  const T* at_ = nullptr;
  index_t lines_ = 0, jump_ = 0, left_ = 0, rows_ = 0;
};

// Asks for the pages of rows [first, first + count), which need not exist. Inline: GCC drops calls that only prefetch.
template <class T> HEED_INLINE void touch_pages(const T* rows, index_t row_stride, index_t first, index_t count) {
  constexpr index_t page = 4096 / static_cast<index_t>(sizeof(T));
  const index_t apart = std::max<index_t>(1, page / std::max<index_t>(1, std::abs(row_stride)));
  for (index_t r = first; r < first + count; r += apart) simd::prefetch(rows, r * row_stride);
}

// Drips one after the other, while products are computed.
template <class T> class drips {
 public:
  void clear() { running_ = 0, all_.fill({}); }

  // `count` rows for what comes next; the lower numbers first. pages: nobody has touched the pages yet
  void ask(index_t number, const T* rows, index_t row_stride, index_t count, index_t dim, bool pages) {
    if (pages) touch_pages(rows, row_stride, count, count);  // of what comes after the next
    all_[static_cast<std::size_t>(number)] = {rows, row_stride, count, dim};
  }

  // A product of some depth
  void multiply(const matrix_product<T>& m, index_t vectors) {
    const index_t rows = block_rows(static_cast<int>(vectors));
    matrix_product<T> part = m;
    for (index_t r = 0; r < m.rows; r += part.rows) {
      while (running_ < all_.size() && all_[running_].done()) ++running_;
      const bool none = running_ == all_.size();
      part.a = m.a + r * m.a_row, part.c = m.c + r * m.c_row;
      part.rows = none ? m.rows - r : std::min(rows, m.rows - r);
      if (none)
        tile::multiply(part, vectors);
      else
        tile::multiply(part, vectors, all_[running_]);
    }
  }

 private:
  std::array<drip<T>, 4> all_ = {};
  std::size_t running_ = 4;
};

}  // namespace HEED_ISA
}  // namespace heed::tile
