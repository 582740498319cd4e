// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/gradient_problem.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// What the row pass of backward finds out for the key pass, of every row of all heads: two vectors of D and six numbers.
// Rows that are not finite have y = w = 0 here, and NaN in the numbers: products with them stay clean, and their weights
// are NaN for the keys that they see.
template <class T> class saved_rows {
 public:
  enum number { m, inv_l, a, c, b_mean, delta, numbers };  // a, c, b_mean, delta: see lane_offsets

  saved_rows(const gradient_problem<T>& p, heed::detail::arena& memory)
      : stride_(tile::whole_vectors<T>(p.d)),
        rows_(p.has_key_pass() ? p.all_rows() : 0),
        y_(memory.take<T>(rows_ * stride_)),
        w_(memory.take<T>(rows_ * stride_)),
        numbers_(memory.take<T>(rows_ * numbers)),
        dridge_(memory.take<T>(p.wants_ridge() ? p.all_rows() : 0)) {}

  index_t stride() const { return stride_; }  // from a row of y or w to the next, whole vectors
  T* y(index_t row) const { return y_ + row * stride_; }
  T* w(index_t row) const { return w_ + row * stride_; }
  T* of(number x, index_t row) const { return numbers_ + x * rows_ + row; }
  T& dridge(index_t row) const { return dridge_[row]; }

  // dridge of each head: the sum over its rows, in their order
  void sum_ridges(const gradient_problem<T>& p) const {
    for (index_t h = 0; h < p.heads; ++h) p.dridge(h) = T(0);
    if (p.heads == 0) return;
    const index_t sequences = p.sequences();
    for (index_t h = 0; h < p.heads; ++h) {
      double sum = 0;
      for (index_t i = 0; i < sequences; ++i) {
        const pairwise::sequence s = p.sequence_at(i);
        const index_t first = p.row_number(s, h / p.group, h % p.group);
        for (index_t r = 0; r < s.queries; ++r) sum += static_cast<double>(dridge_[first + r * p.group]);
      }
      p.dridge(h) = static_cast<T>(sum);
    }
  }

 private:
  index_t stride_, rows_;
  T *y_, *w_, *numbers_, *dridge_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
