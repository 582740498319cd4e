// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The end of softmax: o and lse from the states and sums of rows.

#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The sums of one lane, [column]
template <class T> struct lane_sums {
  T* first;
  index_t stride, end;

  void scale(T factor) const {
    for (index_t i = 0; i < end; i += stride) first[i] *= factor;
  }
  bool all_zero() const {
    for (index_t i = 0; i < end; i += stride)
      if (!heed::detail::equals(first[i], T(0))) return false;
    return true;
  }
};

// Writes o = gate sums / l of one row, and its lse. sums: [column], changed
template <class T>
void finish_row(const softmax_problem<T>& p, const sequence& s, const lane_row& row, const tile::row_state<T>& state,
                T gate, T* sums) {
  if (p.lse.data() != nullptr) *p.lse_at(s, row.head, row.query) = state.lse();
  const lane_sums<T> sum{sums, 1, p.e};
  const T factor = state.finish(
      gate, p.init_row(row.head), [&](T by) { sum.scale(by); }, [&] { return sum.all_zero(); });
  p.o_format->write(sums, factor, p.output(s, row.head, row.query), p.e);
}

// Writes o = gate sums / l, and lse; a row without a key: 0 and -inf. sums: [column][lane]; gate: one per row, or null;
// factor: scratch, one per lane
template <class T>
void finish_rows(const softmax_problem<T>& p, const sequence& s, const row_tile& rows, const T* gate,
                 const tile::lane_states<T>& state, const tile::lane_block<T>& sums, T* factor) {
  for (index_t l = 0; p.lse.data() != nullptr && l < rows.count; ++l)
    *p.lse_at(s, rows.row[l].head, rows.row[l].query) = state.at(l).lse();
  state.reciprocals(sums.stride, factor);
  for (index_t l = 0; gate != nullptr && l < rows.count; ++l) {
    const lane_sums<T> sum{sums.data + l, sums.stride, sums.rows * sums.stride};
    factor[l] = state.at(l).finish(
        gate[l], p.init_row(rows.row[l].head), [&](T by) { sum.scale(by); }, [&] { return sum.all_zero(); });
  }
  p.o_format->scatter(sums.data, sums.stride, factor, find_rows(rows, p.o, s).data(), rows.count, sums.rows);
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
