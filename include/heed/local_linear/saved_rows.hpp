// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/local_linear/gradient_problem.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// What the row pass of backward finds out for the key pass: two vectors of D and six numbers for every row of all
// heads. Rows that are not finite have y = w = 0 and NaN in the numbers: products with them stay clean, and their
// weights are NaN for the keys that they see.
template <class T> class saved_rows {
 public:
  enum number { m, inv_l, a, c, b_mean, delta, numbers };  // a, c, b_mean, delta: see lane_offsets

  saved_rows(const gradient_problem<T>& p, heed::detail::arena& memory)
      : stride_(tile::whole_vectors<T>(p.d)),
        rows_(p.has_key_pass() ? p.all_rows() : 0),
        y_(memory.take<T>(rows_ * stride_)),
        w_(memory.take<T>(rows_ * stride_)),
        numbers_(memory.take<T>(rows_ * numbers)),
        dbias_(memory.take<T>(p.wants_row_bias() ? p.all_rows() : 0)),
        dridge_(memory.take<double>(p.wants_ridge() ? p.all_rows() : 0)) {}

  index_t stride() const { return stride_; }  // from a row of y or w to the next, whole vectors
  T* y(index_t row) const { return y_ + row * stride_; }
  T* w(index_t row) const { return w_ + row * stride_; }
  T* of(number x, index_t row) const { return numbers_ + x * rows_ + row; }
  double& dridge(index_t row) const { return dridge_[row]; }
  T& dbias(index_t row) const { return dbias_[row]; }  // of a row, with one number for all keys

  // dridge of each head: the sum over its rows
  void sum_ridges(const gradient_problem<T>& p) const {
    for (index_t h = 0; h < p.heads; ++h) {
      double sum = 0;
      for (index_t b = 0; b < p.q.extent(0); ++b)
        each_row(p, b, h, [&](index_t, index_t row) { sum += dridge_[row]; });
      p.dridge(h) = static_cast<T>(sum);
    }
  }

  // dbias with one number for all keys: each is the sum over the rows that share it.
  void sum_biases(const gradient_problem<T>& p) const {
    const tensor_view<T, 4>& out = p.dbias;
    if (out.empty()) return;
    const bool all_batches = out.extent(0) == 1, all_heads = out.extent(1) == 1, all_queries = out.extent(2) == 1;
    for (index_t b = 0; b < out.extent(0); ++b)
      for (index_t h = 0; h < out.extent(1); ++h)
        for (index_t i = 0; i < out.extent(2); ++i) out(b, h, i, 0) = T(0);
    for (index_t h = 0; h < p.heads; ++h)
      for (index_t b = 0; b < p.q.extent(0); ++b) {
        double sum = 0;  // of the queries
        const auto at = [&](index_t i) -> T& { return out(all_batches ? 0 : b, all_heads ? 0 : h, i, 0); };
        each_row(p, b, h, [&](index_t query, index_t row) {
          sum += static_cast<double>(dbias_[row]);
          if (!all_queries) at(query) += dbias_[row];
        });
        if (all_queries) at(0) += static_cast<T>(sum);
      }
  }

 private:
  // f(query, row) for the rows of a head of one batch entry, in their order
  template <class F> static void each_row(const gradient_problem<T>& p, index_t batch, index_t head, F f) {
    for (index_t i = p.packed() ? 0 : batch; i < (p.packed() ? p.sequences() : batch + 1); ++i) {
      const pairwise::sequence s = p.sequence_at(i);
      const index_t first = p.row_number(s, head / p.group, head % p.group);
      for (index_t r = 0; r < s.queries; ++r) f(s.first_query + r, first + r * p.group);
    }
  }

  index_t stride_, rows_;
  T *y_, *w_, *numbers_, *dbias_;
  double* dridge_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
