// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of K or V on their way to a tile's products: read in place, prefetched, or copied first.
//
// A product reads the rows of a tile several times. Rows of token-major heads are far apart: each is on a page of its
// own, and with strides of 4 KiB all of them fall into the same few sets of the caches. Such rows are copied tile by
// tile, one cache line per step of the product that runs before they are needed. Rows side by side are prefetched the
// same way where keys and values are longer than the caches. The choice depends on shapes and strides alone, and no bit
// depends on it. bench/softmax_bench.cpp, rows layout and long_keys.

#include "heed/core/context.hpp"
#include "heed/core/message.hpp"
#include "heed/core/view.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Returns whether rows of dim elements lie far apart, as one head of token-major tensors has them (heed::bshd,
// packed_qkv, split_heads): at least half a page (2 KiB), with as much between them as they are long. Then row r is on
// another page than row r + 1, and its lines fall into the same few sets of the first cache as those of all other rows.
template <class T> constexpr bool far_rows(index_t stride, index_t dim) {
  const index_t apart = stride < 0 ? -stride : stride;
  return apart >= 2048 / static_cast<index_t>(sizeof(T)) && apart / 2 >= dim;
}

// The rows of one tensor (K or V), of one sequence and head at a time.
template <class T> class row_stage {
 public:
  row_stage() = default;

  // most: rows of a tile, at most; again: whether its products read rows more than once; bytes: of all tensors that
  // take turns in the caches
  row_stage(const tensor_view<const T, 4>& x, index_t most, bool again, double bytes, heed::detail::arena& memory)
      : stride_(x.stride(2)),
        dim_(x.extent(3)),
        far_(far_rows<T>(x.stride(2), x.extent(3))),
        copies_(again && far_),
        prefetches_(!copies_ && (bytes > cached || far_)),
        copy_(memory.take<T>(copies_ ? most * copy_row() : 0)) {}

  bool copies() const { return copies_; }
  index_t copy_row() const { return whole_vectors<T>(dim_); }  // numbers between the rows of a copy

  // Begins a sequence and head; first: its row 0.
  void begin(const T* first) { first_ = first, copied_ = -1; }

  // Returns rows [row, row + count): in the copy of the tile that begins with them, if there is one, else in place.
  lane_block<const T> at(index_t row, index_t count) const {
    if (row == copied_) return {at_, copy_row(), count, dim_};
    return {first_ + row * stride_, stride_, count, dim_};
  }

  // Copies the rows of a tile now, if rows are copied: to the scratch of this stage, or to one of the caller's.
  void copy(index_t row, index_t count, T* to = nullptr) {
    HEED_ASSERT(row != copied_ || count <= copied_count_);
    if (copies_ && row != copied_) copy_to(row, count, to == nullptr ? copy_ : to).finish();
  }
  // Goes back to a tile that was copied to memory of the caller's.
  void recall(index_t row, index_t count, T* copied) { copied_ = row, copied_count_ = count, at_ = copied; }

  // Returns what copies or prefetches the rows of a tile while a product runs; to finish() before at(row) is used.
  row_prefetcher<T> stream(index_t row, index_t count) {
    if (count == 0) return {};
    if (copies_) return copy_to(row, count, copy_);
    if (prefetches_) {
      const T* const from = first_ + row * stride_;
      if (!far_) touch_pages(from, stride_, count, count);  // of what comes after these
      return {from, stride_, count, dim_};
    }
    return {};
  }

 private:
  static constexpr double cached = 1 << 19;  // bytes that stay in the second-level cache

  row_prefetcher<T> copy_to(index_t row, index_t count, T* to) {
    const T* const from = first_ + row * stride_;
    copied_ = row, copied_count_ = count, at_ = to;
    if (dim_ % row_prefetcher<T>::line == 0) return {from, stride_, count, dim_, to};
    copy_rows(from, stride_, count, dim_, to, copy_row());
    return {};
  }

  index_t stride_ = 0, dim_ = 0;
  bool far_ = false, copies_ = false, prefetches_ = false;
  T* copy_ = nullptr;  // of one tile
  const T* first_ = nullptr;
  index_t copied_ = -1, copied_count_ = 0;  // the first row of the tile copied last, how many, and where they are
  T* at_ = nullptr;
};

// Says in the `why` of a plan that rows of x are copied, if they lie far apart.
template <class T> void name_copy(heed::detail::message& text, const char* name, const tensor_view<const T, 4>& x) {
  if (far_rows<T>(x.stride(2), x.extent(3)))
    text << "; rows of " << name << " copied, stride " << x.stride(2) * static_cast<index_t>(sizeof(T)) << " bytes";
}
// k_again: whether products read K more than once
template <class T>
void name_copies(heed::detail::message& text, const tensor_view<const T, 4>& k, bool k_again,
                 const tensor_view<const T, 4>& v) {
  if (k_again) name_copy(text, "k", k);
  name_copy(text, "v", v);
}

}  // namespace HEED_ISA
}  // namespace heed::tile
