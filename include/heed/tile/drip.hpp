// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>

#include "heed/simd/batch.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Rows that a task will need next, asked for line by line and in address order while it computes: called once per step
// of tile/multiply.hpp's inner loop. bench/lightning_bench.cpp, long rows: in bursts, or in the order of use, it gains
// little.
template <class T> class drip {
 public:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));

  drip() = default;

  // count rows of dim values, row_stride apart; they need not exist
  drip(const T* rows, index_t row_stride, index_t count, index_t dim)
      : at_(rows), lines_((dim + line - 1) / line), jump_(row_stride - lines_ * line), left_(lines_), rows_(count) {}

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

}  // namespace HEED_ISA
}  // namespace heed::tile
