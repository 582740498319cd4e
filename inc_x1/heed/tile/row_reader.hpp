// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of any length, stride and storage type, read a piece at a time.

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "heed/core/call.hpp"
#include "heed/tile/row_format.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Reads rows of x as they are stored, or as numbers of type A: in place where they are such already.
template <class A> class row_reader {
 public:
  static constexpr index_t most = 512;  // numbers of a piece

  row_reader(const heed::detail::input_tensor& x, const row_format<A>& format)
      : format_(format), column_(x.extent(3) > 1 ? x.stride(3) * format.element : format.element) {}

  // Calls f(first column, columns) for each piece of a row.
  template <class F> HEED_INLINE static void each(index_t dim, const F& f) {
    for (index_t c = 0; c < dim; c += most) f(c, std::min(most, dim - c));
  }

  bool adjacent() const { return column_ == format_.element; }
  // n elements from column c on, as they are stored, side by side
  const std::byte* stored(const std::byte* row, index_t c, index_t n) {
    if (adjacent()) return row + c * column_;
    const auto bytes = static_cast<std::size_t>(format_.element);
    for (index_t i = 0; i < n; ++i) std::memcpy(stored_ + i * format_.element, row + (c + i) * column_, bytes);
    return stored_;
  }
  // The same as numbers
  const A* numbers(const std::byte* row, index_t c, index_t n) {
    const std::byte* const from = stored(row, c, n);
    if (format_.is_t) return row_as<A>(from);
    format_.read(from, 0, 1, n, numbers_, 0);
    return numbers_;
  }

 private:
  const row_format<A>& format_;
  index_t column_;  // bytes from one element of a row to the next
  alignas(64) std::byte stored_[most * 8];
  alignas(64) A numbers_[most];
};

}  // namespace HEED_ISA
}  // namespace heed::tile
