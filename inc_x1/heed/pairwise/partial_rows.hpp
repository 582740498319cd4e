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

// Joins the states of rows over other keys, which come later.
template <class T>
HEED_NOINLINE void join_rows(const partial_rows<T>& to, const partial_rows<T>& from, index_t rows, index_t columns) {
  constexpr index_t w = simd::width<T>;
  for (index_t r = 0; r < rows; ++r) {
    const partial_rows<T> a = to.from(r), b = from.from(r);
    tile::row_state<T> all{*a.m, *a.l};
    const auto [keep, add] = all.merge({*b.m, *b.l}, [](T d) { return std::exp2(d); });
    *a.m = all.m, *a.l = all.l;
    const simd::batch<T> f(keep), g(add);
    for (index_t c = 0; c < columns; c += w)
      simd::store(a.o + c, simd::fma(g, simd::load(b.o + c), f * simd::load(a.o + c)));
  }
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
