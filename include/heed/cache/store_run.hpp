// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of any storage type and strides written as a cache's type.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "heed/core/token_run.hpp"
#include "heed/core/call.hpp"
#include "heed/tile/int8_rows.hpp"
#include "heed/tile/row_format.hpp"
#include "heed/tile/row_reader.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

// How new tokens are read
template <class A> using row_source = const tile::row_format<A>*;
template <class A, class S> HEED_INLINE row_source<A> row_source_of() { return &tile::row_format_of<A, S>; }

// Writes rows of x to consecutive rows of the cache; scale: of these rows, null but for std::int8_t
template <class T, class A>
void store_run(const input_tensor& x, row_source<A> source, const token_run& run, T* to, float* scale) {
  const tile::row_format<A>& format = *source;
  const index_t dim = x.extent(3);
  tile::row_reader<A> reader(x, format);
  const std::byte* row = x.row(run.batch, run.head, run.first);
  if constexpr (std::is_same_v<T, std::int8_t>) {
    for (index_t r = 0; r < run.count; ++r, row += x.row_bytes(), to += dim)
      scale[r] = tile::quantize_row(reader, row, dim, to);
  } else {
    const tile::row_format<A>& own = tile::row_format_of<A, T>;
    const bool same = &format == &own;
    const auto bytes = [](index_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
    if (same && reader.adjacent() && (run.count == 1 || x.row_bytes() == dim * format.element)) {
      std::memcpy(static_cast<void*>(to), row, bytes(run.count * dim));
      return;
    }
    for (index_t r = 0; r < run.count; ++r, row += x.row_bytes(), to += dim)
      reader.each(dim, [&](index_t c, index_t n) {
        if (same)
          std::memcpy(static_cast<void*>(to + c), reader.stored(row, c, n), bytes(n));
        else if constexpr (std::is_same_v<T, A>)
          format.read(reader.stored(row, c, n), 0, 1, n, to + c, 0);
        else
          own.write(reader.numbers(row, c, n), A(1), reinterpret_cast<std::byte*>(to + c), n);
      });
  }
}

}  // namespace HEED_ISA
}  // namespace heed::detail
