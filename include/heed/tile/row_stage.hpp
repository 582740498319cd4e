// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of K or V on their way to a tile's products: read where they lie, copied side by side first, or prefetched.
//
// A product reads the rows of a tile several times. Rows of token-major heads are far apart: each is in a page of its
// own, and with strides of 4 KiB all of them fall into the same few sets of the caches. Such rows are copied, tile by
// tile, one cache line per step of the product that runs before they are needed. Rows side by side are prefetched the
// same way where keys and values are longer than the caches. Which of the two depends on shapes and strides alone, and
// no bit depends on it. bench/softmax_bench.cpp, rows layout and long_keys.

#include <algorithm>
#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/core/message.hpp"
#include "heed/core/view.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/tile/row_stage.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Rows that lie far apart, as one head of token-major tensors has them (heed::bshd, packed_qkv, split_heads): row r is
// on another page than row r + 1, and its lines fall into the same few sets of the first cache as those of all other
// rows. What is read more than once is then copied, rows end to end; the numbers stay the same.
//
// Whether rows of dim elements, row_stride elements apart, are at least half a page (2 KiB) apart with as much between
// them as they are long.
template <class T> constexpr bool far_rows(index_t row_stride, index_t dim) {
  const index_t apart = row_stride < 0 ? -row_stride : row_stride;
  return apart >= 2048 / static_cast<index_t>(sizeof(T)) && apart / 2 >= dim;
}

// Called once per step of a product: copies or prefetches the next cache line of the rows, in the order of addresses.
template <class T> class row_stream {
 public:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));

  row_stream() = default;

  // count rows of `columns` numbers. to: where they go, one behind the other, in whole lines; null: they are
  // prefetched, and need not exist.
  row_stream(const T* rows, index_t row_stride, index_t count, index_t columns, T* to)
      : at_(rows),
        to_(to),
        in_row_((columns + line - 1) / line),
        row_left_(in_row_),
        jump_(row_stride - in_row_ * line),
        ahead_(to == nullptr ? 0 : 4 * row_stride),
        left_(count * in_row_) {
    HEED_ASSERT(to == nullptr || columns % line == 0);
  }

  index_t left() const { return left_; }  // lines

  HEED_INLINE void operator()() {
    simd::prefetch(at_, ahead_);
    if (to_ != nullptr) {
      copy_line();
      to_ += line;
    }
    move(line);
    if (--row_left_ == 0) row_left_ = in_row_, move(jump_);
    --left_;
  }

  // Copies what no product had the steps for; prefetches are not worth waiting for.
  void finish() {
    if (to_ != nullptr)
      while (left_ > 0) (*this)();
    left_ = 0;
  }

 private:
  HEED_INLINE void copy_line() const {
    constexpr index_t w = simd::width<T>;
    for (index_t i = 0; i < line; i += w) simd::store(to_ + i, simd::load(at_ + i));
  }
  HEED_INLINE void move(index_t elements) {  // beyond the tensor too, where no pointer arithmetic may go
    at_ = reinterpret_cast<const T*>(reinterpret_cast<std::uintptr_t>(at_) +
                                     static_cast<std::uintptr_t>(elements) * sizeof(T));
  }

  const T* at_ = nullptr;
  T* to_ = nullptr;
  index_t in_row_ = 0, row_left_ = 0, jump_ = 0, ahead_ = 0, left_ = 0;
};

// The product p, with a step of the stream in each of its own as long as both last.
template <class T> void multiply_streaming(const matrix_product<T>& p, index_t vectors, row_stream<T>* stream) {
  const index_t block = block_rows(static_cast<int>(vectors));
  if (stream == nullptr || stream->left() < p.depth || p.rows < block || p.depth == 0) return multiply(p, vectors);
  const index_t rows = std::min(p.rows / block, stream->left() / p.depth) * block;
  with_vectors(vectors, [&](auto n) { detail::blocks<block_rows(n), n>(p, 0, rows, *stream); });
  if (rows == p.rows) return;
  matrix_product<T> rest = p;
  rest.a += rows * p.a_row, rest.c += rows * p.c_row, rest.rows -= rows;
  multiply(rest, vectors);
}

// Where the rows of a tile are now
template <class T> struct row_block {
  const T* data;
  index_t row;  // stride
};

// The rows of one tensor (K or V), of one sequence and head at a time, as the tiles of a task read them.
template <class T> class row_stage {
 public:
  row_stage() = default;

  // tile: the most rows of a tile; again: whether its products read rows more than once; bytes: of all tensors that
  // take turns in the caches
  row_stage(const tensor_view<const T, 4>& x, index_t tile, bool again, double bytes, heed::detail::arena& memory)
      : row_(x.stride(2)),
        dim_(x.extent(3)),
        far_(far_rows<T>(x.stride(2), x.extent(3))),
        copies_(again && far_),
        prefetches_(!copies_ && (bytes > cached || far_)),
        copy_(memory.take<T>(copies_ ? tile * copy_row() : 0)) {}

  bool copies() const { return copies_; }
  index_t copy_row() const { return whole_vectors<T>(dim_); }  // numbers between the rows of a copy

  // first: row 0 of a sequence and head
  void begin(const T* first) { first_ = first, copied_ = -1; }

  // Rows from `row` on, where a copy of the tile that begins with it is at hand there, else where they lie
  row_block<T> at(index_t row) const {
    if (row == copied_) return {at_, copy_row()};
    return {first_ + row * row_, row_};
  }

  // Copies the rows of a tile now, if rows are copied: to the scratch of this stage, or to one of the caller's.
  void copy(index_t row, index_t count, T* to = nullptr) {
    HEED_ASSERT(row != copied_ || count <= copied_count_);
    if (copies_ && row != copied_) copy_to(row, count, to == nullptr ? copy_ : to).finish();
  }
  // Goes back to a tile that was copied to memory of the caller's.
  void recall(index_t row, index_t count, T* copied) { copied_ = row, copied_count_ = count, at_ = copied; }

  // Copies or prefetches the rows of a tile while a product runs; finish() what is left before at(row) is used.
  row_stream<T> stream(index_t row, index_t count) {
    if (count == 0) return {};
    if (copies_) return copy_to(row, count, copy_);
    if (prefetches_) {
      const T* const from = first_ + row * row_;
      if (!far_) touch_pages(from, row_, count, count);  // of what comes after these
      return {from, row_, count, dim_, nullptr};
    }
    return {};
  }

 private:
  static constexpr double cached = 1 << 19;  // bytes that stay in the second-level cache

  row_stream<T> copy_to(index_t row, index_t count, T* to) {
    const T* const from = first_ + row * row_;
    copied_ = row, copied_count_ = count, at_ = to;
    if (dim_ % row_stream<T>::line == 0) return {from, row_, count, dim_, to};
    copy_rows(from, row_, count, dim_, to, copy_row());
    return {};
  }

  index_t row_ = 0, dim_ = 0;
  bool far_ = false, copies_ = false, prefetches_ = false;
  T* copy_ = nullptr;  // of one tile
  const T* first_ = nullptr;
  index_t copied_ = -1, copied_count_ = 0;  // the first row of the tile copied last, how many, and where they are
  T* at_ = nullptr;
};

// For the `why` of a plan: which rows are copied, and how far apart they are. k_again: whether products read K twice
template <class T>
void name_copies(heed::detail::message& text, const tensor_view<const T, 4>& k, bool k_again,
                 const tensor_view<const T, 4>& v) {
  const auto name = [&](const char* tensor, const tensor_view<const T, 4>& x) {
    if (far_rows<T>(x.stride(2), x.extent(3)))
      text << "; rows of " << tensor << " copied, stride " << x.stride(2) * static_cast<index_t>(sizeof(T)) << " bytes";
  };
  if (k_again) name("k", k);
  name("v", v);
}

}  // namespace HEED_ISA
}  // namespace heed::tile
