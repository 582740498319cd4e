// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of a chunk as products read them: in place, or copied as numbers of type T.

#include <algorithm>
#include <cstddef>

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/row_format.hpp"
#include "heed/tile/row_stage.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

template <class T> class chunk_rows {
 public:
  // How rows are used. copies: they are copied whatever their strides and type. lanes: as lanes of a product, in whole
  // vectors with zeros at their ends; else copies lie end to end.
  struct use {
    bool read = true, copies = false, lanes = false;
  };

  chunk_rows(const heed::detail::input_tensor& x, const tile::row_format<T>& format, const use& how, index_t chunk,
             heed::detail::arena& memory)
      : format_(format),
        dim_(x.extent(3)),
        row_bytes_(x.row_bytes()),
        copies_(how.copies || !format.is_t || tile::far_rows(x) || (how.lanes && dim_ % simd::width<T> != 0)),
        stride_(how.lanes ? odd_lines<T>(dim_) : dim_),
        copy_(memory.take<T>(how.read && copies_ ? chunk * stride_ : 0)) {}

  // Returns `count` rows from `first` on.
  tile::lane_block<const T> read(const std::byte* first, index_t count) const {
    if (!copies_) return {tile::row_as<T>(first), row_bytes_ / static_cast<index_t>(sizeof(T)), count, dim_};
    return copy(first, count);
  }
  // The same where rows are copied, to be changed
  tile::lane_block<T> copy(const std::byte* first, index_t count) const {
    format_.read(first, row_bytes_, count, dim_, copy_, stride_);
    if (const index_t whole = tile::whole_vectors<T>(dim_); dim_ < whole && whole <= stride_)
      for (index_t r = 0; r < count; ++r) std::fill(copy_ + r * stride_ + dim_, copy_ + r * stride_ + whole, T(0));
    return {copy_, stride_, count, dim_};
  }

 private:
  const tile::row_format<T>& format_;
  index_t dim_, row_bytes_;
  bool copies_;
  index_t stride_;  // of copies
  T* copy_;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
