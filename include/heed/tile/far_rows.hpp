// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows that lie far apart, as one head of token-major tensors has them (heed::bshd, packed_qkv, split_heads): row r is
// on another page than row r + 1, and its lines fall into the same few sets of the first cache as those of all other
// rows. What is read more than once is then copied, rows end to end; the numbers stay the same.

#include "heed/simd/batch.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Whether rows of dim elements, row_stride elements apart, are at least half a page (2 KiB) apart with as much between
// them as they are long.
template <class T> constexpr bool far_rows(index_t row_stride, index_t dim) {
  const index_t apart = row_stride < 0 ? -row_stride : row_stride;
  return apart >= 2048 / static_cast<index_t>(sizeof(T)) && apart / 2 >= dim;
}

// out[r][c] = rows[r][c] for r < count, c < dim
template <class T>
HEED_NOINLINE void copy_rows(const T* rows, index_t row_stride, index_t count, index_t dim, T* out, index_t out_row) {
  constexpr index_t w = simd::width<T>;
  for (index_t r = 0; r < count; ++r) {
    const T* const from = rows + r * row_stride;
    T* const to = out + r * out_row;
    index_t c = 0;
    for (; c + w <= dim; c += w) simd::store(to + c, simd::load(from + c));
    if (c < dim) simd::store_partial(to + c, simd::load_partial(from + c, dim - c), dim - c);
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
