// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The rows of a tile over a share of their keys: what the drivers leave where keys are split, and how the shares of a
// row become its o and lse.

#include <algorithm>
#include <cmath>

#include "heed/pairwise/key_ranges.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// States (m, l, o) of rows, not divided by l
template <class T> struct partial_rows {
  T *m = nullptr, *l = nullptr, *o = nullptr;
  index_t stride = 0;  // of o, whole vectors

  partial_rows from(index_t row) const { return {m + row, l + row, o + row * stride, stride}; }
};

// What a driver computes of a tile's rows: all keys, or a share of them whose states go to `out`. The first share
// begins with the sinks.
template <class T> struct key_share {
  key_set keys;
  bool split = false, first = true;
  partial_rows<T> out = {};
};

// Keeps the states of a tile whose sums are [column][lane]. factor: scratch, one per lane
template <class T>
void keep_rows(const row_tile& rows, const tile::lane_states<T>& state, const tile::lane_block<T>& sums,
               const partial_rows<T>& out, T* factor) {
  row_pointers<std::byte> o;
  for (index_t l = 0; l < rows.count; ++l) {
    out.m[l] = state.m[l], out.l[l] = state.l[l];
    o[l] = reinterpret_cast<std::byte*>(out.o + l * out.stride);
  }
  std::fill(factor, factor + sums.stride, T(1));
  tile::scatter<T>(sums.data, sums.stride, factor, o.data(), rows.count, sums.rows);
  for (index_t l = 0; l < rows.count; ++l)
    std::fill(out.o + l * out.stride + sums.rows, out.o + (l + 1) * out.stride, T(0));
}

// Joins the shares of a row, in ascending order: their o in that of the first. Share i is row i * apart of `shares`.
// Returns m and l.
template <class T>
HEED_NOINLINE tile::row_state<T> merge_shares(const partial_rows<T>& shares, index_t count, index_t apart,
                                              index_t columns) {
  constexpr index_t w = simd::width<T>;
  tile::row_state<T> all{shares.m[0], shares.l[0]};
  T* const acc = shares.o;
  for (index_t i = 1; i < count; ++i) {
    const partial_rows<T> x = shares.from(i * apart);
    const auto [keep, add] = all.merge({x.m[0], x.l[0]}, [](T d) { return std::exp2(d); });
    const simd::batch<T> f(keep), g(add);
    for (index_t c = 0; c < columns; c += w)
      simd::store(acc + c, simd::fma(g, simd::load(x.o + c), f * simd::load(acc + c)));
  }
  return all;
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
