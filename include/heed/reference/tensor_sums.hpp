// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients in the making: sums in double, that are rounded once, when they are stored.

#include "heed/reference/scalar.hpp"

namespace heed::reference::detail {
inline namespace HEED_ISA {

// A tensor (batch, head, seq, dim) of sums, zero at first. A row that nothing is added to stays 0.
class tensor_sums {
 public:
  template <class T>
  explicit tensor_sums(const tensor_view<T, 4>& like)
      : heads_(like.extent(1)),
        rows_(like.extent(2)),
        sums_(row_major::Zero(like.extent(0) * heads_ * rows_, like.extent(3))) {}

  auto row(index_t b, index_t h, index_t i) { return sums_.row((b * heads_ + h) * rows_ + i); }
  // Stores all rows, unless `to` is null.
  template <class T> void store(const tensor_view<T, 4>& to) const {
    if (to.data() == nullptr) return;
    for (index_t b = 0; b < to.extent(0); ++b)
      for (index_t h = 0; h < heads_; ++h)
        for (index_t i = 0; i < rows_; ++i) store_row(to, b, h, i, sums_.row((b * heads_ + h) * rows_ + i));
  }

 private:
  index_t heads_, rows_;
  row_major sums_;
};

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
