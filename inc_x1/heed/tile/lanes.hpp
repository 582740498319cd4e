// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the engines pass around: blocks of rows of lanes, and small arrays with one element per lane, vector or key.

#include <cstddef>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// `rows` rows of `lanes` lanes (whole vectors), `stride` elements apart: [key][lane], [dim][lane], [column][lane], ...
template <class T> struct lane_block {
  T* data = nullptr;
  index_t stride = 0, rows = 0, lanes = 0;

  HEED_INLINE T* row(index_t r) const { return data + r * stride; }
  // The part that starts at (row, lane) and has so many of each
  HEED_INLINE lane_block part(index_t row, index_t row_count, index_t lane, index_t lane_count) const {
    return {data + row * stride + lane, stride, row_count, lane_count};
  }
  HEED_INLINE operator lane_block<const T>() const { return {data, stride, rows, lanes}; }
};

// An array indexed by index_t; its elements are not initialised unless asked for: lane_array<X, N> x{}.
template <class X, index_t N> struct lane_array {
  X elements[static_cast<std::size_t>(N)];

  HEED_INLINE X& operator[](index_t i) { return elements[i]; }
  HEED_INLINE const X& operator[](index_t i) const { return elements[i]; }
  HEED_INLINE X* data() { return elements; }
  HEED_INLINE const X* data() const { return elements; }
  HEED_INLINE X* begin() { return elements; }
  HEED_INLINE X* end() { return elements + N; }
  HEED_INLINE const X* begin() const { return elements; }
  HEED_INLINE const X* end() const { return elements + N; }
};

}  // namespace HEED_ISA
}  // namespace heed::tile
