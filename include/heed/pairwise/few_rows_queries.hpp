// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The rows of a task in passes over its keys, and their packed queries.

#include <algorithm>
#include <bit>
#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/pairwise/few_rows_dots.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/pairwise/row_tile.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Rows [first, first + rows) of a task, with padding `padded` of them: 1, 2, 4 or 8
template <class T> struct row_pass {
  index_t first, rows, padded;

  static row_pass from(index_t all, index_t first) {
    const index_t rows = std::min(pass_capacity<T>, all - first);
    return {first, rows, static_cast<index_t>(std::bit_ceil(static_cast<std::uint64_t>(rows)))};
  }
  static index_t count(index_t all) { return (all + pass_capacity<T> - 1) / pass_capacity<T>; }
  // Of all rows, with padding
  static index_t padded_rows(index_t all) {
    const index_t last = (count(all) - 1) * pass_capacity<T>;
    return all == 0 ? 0 : last + from(all, last).padded;
  }

  index_t number() const { return first / pass_capacity<T>; }
};

// Times the scale of the scores: [d / width][row][width] for the rows of a pass, zeros behind the last of d and of the
// rows. Passes of 8 rows in bf16 as well, unscaled, where p.few_dots is set
template <class T> class few_rows_queries {
 public:
  static constexpr index_t w = simd::width<T>;

  few_rows_queries(const softmax_problem<T>& p, index_t rows, heed::detail::arena& memory)
      : p_(p),
        dim_(tile::whole_vectors<T>(p.d)),
        packed_(memory.take<T>(row_pass<T>::padded_rows(rows) * dim_)),
        row_(memory.take<T>(dim_)),
        pairs_(memory.take<T>(p.few_dots == nullptr ? 0 : row_pass<T>::padded_rows(rows) * dim_ / 2)) {}

  void pack(const sequence& s, const row_tile& rows) {
    const index_t all = row_pass<T>::padded_rows(rows.count);
    if (rows.count != all) std::fill(packed_, packed_ + all * dim_, T(0));
    if (p_.few_dots != nullptr) std::fill(pairs_, pairs_ + all * dim_ / 2, T(0));
    for (index_t r = 0; r < rows.count; ++r)
      pack(row_pass<T>::from(rows.count, r / pass_capacity<T> * pass_capacity<T>), r,
           p_.query(s, rows.row[r].head, rows.row[r].query));
  }

  const T* of(const row_pass<T>& pass) const { return packed_ + pass.first * dim_; }
  const T* pairs_of(const row_pass<T>& pass) const { return pairs_ + pass.first * dim_ / 2; }
  bool on_dots(const row_pass<T>& pass) const {
    return p_.few_dots != nullptr && pass.padded == few_rows_dots<T>::rows;
  }

 private:
  void pack(const row_pass<T>& pass, index_t r, const std::byte* q) {
    simd::store(row_ + dim_ - w, simd::batch<T>(T(0)));
    p_.q_format->read(q, 0, 1, p_.d, row_, dim_);
    if (p_.few_dots != nullptr) p_.few_dots->round_row(row_, dim_);  // for few rows too: a call rounds all or none
    T* const to = packed_ + pass.first * dim_ + (r - pass.first) * w;
    for (index_t c = 0; c < dim_; c += w)
      simd::store(to + c * pass.padded, simd::load(row_ + c) * simd::batch<T>(p_.scores.query_factor));
    if (on_dots(pass)) p_.few_dots->pack(row_, p_.d, r - pass.first, pairs_ + pass.first * dim_ / 2);
  }

  const softmax_problem<T>& p_;
  index_t dim_;
  T *packed_, *row_, *pairs_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
