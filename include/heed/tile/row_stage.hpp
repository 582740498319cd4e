// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of K or V on their way to a tile's products: read in place, prefetched, or copied first.
//
// A product reads the rows of a tile several times. Rows of token-major heads are far apart: each is on a page of its
// own, and with strides of 4 KiB all of them fall into the same few sets of the caches. Such rows are copied tile by
// tile, one cache line per step of the product that runs before they are needed. Rows side by side are prefetched the
// same way where keys and values are longer than the caches. The choice depends on shapes and strides alone, and no bit
// depends on it. Rows of another type than T are widened tile by tile. bench/softmax_bench.cpp, rows layout and
// long_keys.

#include "heed/core/context.hpp"
#include "heed/core/message.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/tile/row_format.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Returns whether rows of a tensor lie far apart, as one head of token-major tensors has them (heed::bshd, packed_qkv,
// split_heads): at least half a page (2 KiB), with as much between them as they are long. Then row r is on another page
// than row r + 1, and its lines fall into the same few sets of the first cache as those of all other rows.
constexpr bool far_rows(index_t row_bytes, index_t bytes) {
  const auto x = static_cast<std::size_t>(row_bytes);
  const std::size_t apart = row_bytes < 0 ? 0 - x : x;
  return apart >= 2048 && apart / 2 >= static_cast<std::size_t>(bytes);
}
template <class Byte> bool far_rows(const heed::detail::stored_tensor<Byte>& x) {
  return far_rows(x.row_bytes(), x.extent(3) * x.element_bytes());
}

// Rows that lie side by side, bytes apart, from one row on; scale: what each is to be multiplied with, or null
struct row_piece {
  const std::byte* first;
  index_t row_bytes, count;
  const float* scale = nullptr;
  index_t scale_stride = 0;
};
// Finds the rows of a tensor that lies in pieces (a ring, pages), or that has scales.
struct row_pieces {
  const void* self = nullptr;
  row_piece (*at)(const void* self, index_t row) = nullptr;
};

// How products read rows: as they are stored, or as numbers of type T, each row once or more often
enum class row_use { as_stored, once, again };

// The rows of one tensor (K or V), of one sequence and head at a time.
template <class T> class row_stage {
 public:
  row_stage() = default;

  // most: rows of a tile, at most; bytes: of all tensors that take turns in the caches; pieces: rows may lie in some
  row_stage(const heed::detail::input_tensor& x, const row_format<T>& format, index_t most, row_use use, double bytes,
            heed::detail::arena& memory, bool pieces = false)
      : format_(&format),
        row_bytes_(x.row_bytes()),
        dim_(x.extent(3)),
        far_(far_rows(x)),
        copies_(use == row_use::again ? far_ || !format.is_t : use == row_use::once && !format.is_t),
        prefetches_((!copies_ || !on_the_way()) && (bytes > cached_bytes || far_)),
        copy_(memory.take<T>(copies_ || (pieces && use != row_use::as_stored) ? most * copy_row() : 0)) {}

  bool copies() const { return copies_; }
  index_t copy_row() const { return whole_vectors<T>(dim_); }  // numbers between the rows of a copy

  // Begins a sequence and head; first: its row 0.
  void begin(const std::byte* first) { first_ = first, copied_ = -1; }
  // The same where rows lie in pieces
  void begin(const row_pieces& pieces) { pieces_ = pieces, copied_ = -1; }

  // Returns rows [row, row + count): in the copy of the tile that begins with them, if there is one, else in place.
  lane_block<const T> at(index_t row, index_t count) const {
    if (row == copied_) return {at_, copy_row(), count, dim_};
    if (!format_->is_t) return {nullptr, 0, count, dim_};
    const row_span rows = span(row, count);
    return {row_as<T>(rows.first), rows.row_bytes / static_cast<index_t>(sizeof(T)), count, dim_};
  }
  const std::byte* stored(index_t row) const {
    return pieces_.at == nullptr ? first_ + row * row_bytes_ : pieces_.at(pieces_.self, row).first;
  }

  // Copies the rows of a tile now, if rows are copied: to the scratch of this stage, or to one of the caller's.
  void copy(index_t row, index_t count, T* to = nullptr) {
    HEED_ASSERT(row != copied_ || count <= copied_count_);
    if (row == copied_ || !(copies_ || in_pieces(row, count))) return;
    if (to == nullptr) to = copy_;
    if (pieces_.at != nullptr) return read_pieces(row, count, to);
    if (format_->is_t) return copy_to(row, count, to).finish();
    read(row, count, to);
  }
  // Goes back to a tile that was copied to memory of the caller's.
  void recall(index_t row, index_t count, T* copied) { copied_ = row, copied_count_ = count, at_ = copied; }

  // Returns what copies or prefetches the rows of a tile while a product runs; to finish() before copy(row) and at(row)
  // are used.
  row_prefetcher<T> stream(index_t row, index_t count) {
    if (count == 0) return {};
    const bool piece = in_pieces(row, count);
    if (copies_ && on_the_way() && !piece) return copy_to(row, count, copy_);
    if (prefetches_ || piece) {
      const row_span rows = span(row, count);
      if (!far_) touch_pages(after(rows));
      return row_prefetcher<T>(rows);
    }
    return {};
  }

 private:
  // Whether rows can be copied while products run
  bool on_the_way() const { return format_->is_t || format_->widener != nullptr; }
  row_span span(index_t row, index_t count) const {
    const index_t bytes = dim_ * format_->element;
    if (pieces_.at == nullptr) return {stored(row), row_bytes_, count, bytes};
    const row_piece piece = pieces_.at(pieces_.self, row);
    return {piece.first, piece.row_bytes, std::min(count, piece.count), bytes};
  }

  // Whether some rows are not behind the first, or have scales
  bool in_pieces(index_t row, index_t count) const {
    if (pieces_.at == nullptr) return false;
    const row_piece piece = pieces_.at(pieces_.self, row);
    return piece.count < count || piece.scale != nullptr;
  }
  HEED_NOINLINE void read_pieces(index_t row, index_t count, T* to) {
    copied_ = row, copied_count_ = count, at_ = to;
    for (index_t j = 0; j < count;) {
      const row_piece piece = pieces_.at(pieces_.self, row + j);
      const index_t rows = std::min(piece.count, count - j);
      format_->read(piece.first, piece.row_bytes, rows, dim_, to + j * copy_row(), copy_row());
      for (index_t r = 0; piece.scale != nullptr && r < rows; ++r)
        scale_row(to + (j + r) * copy_row(), static_cast<T>(piece.scale[r * piece.scale_stride]));
      j += rows;
    }
  }
  // x: room for whole vectors
  void scale_row(T* x, T by) const {
    constexpr index_t w = simd::width<T>;
    const simd::batch<T> f(by);
    index_t c = 0;
    for (; c + w <= dim_; c += w) simd::store(x + c, simd::load(x + c) * f);
    if (c < dim_) simd::store(x + c, simd::load_partial(x + c, dim_ - c) * f);
  }
  void read(index_t row, index_t count, T* to) {
    copied_ = row, copied_count_ = count, at_ = to;
    const row_span rows = span(row, count);
    format_->read(rows.first, rows.row_bytes, count, dim_, to, copy_row());
  }
  row_prefetcher<T> copy_to(index_t row, index_t count, T* to) {
    if (dim_ % row_prefetcher<T>::line == 0) {
      copied_ = row, copied_count_ = count, at_ = to;
      return row_prefetcher<T>(span(row, count), to, format_->widener);
    }
    read(row, count, to);
    return {};
  }

  const row_format<T>* format_ = nullptr;
  index_t row_bytes_ = 0, dim_ = 0;
  bool far_ = false, copies_ = false, prefetches_ = false;
  T* copy_ = nullptr;  // of one tile
  const std::byte* first_ = nullptr;
  row_pieces pieces_;
  index_t copied_ = -1, copied_count_ = 0;  // the first row of the tile copied last, how many, and where they are
  T* at_ = nullptr;
};

// Says in the `why` of a plan that rows of x are copied, if they lie far apart.
inline void name_copy(heed::detail::message& text, const char* name, const heed::detail::input_tensor& x) {
  if (far_rows(x)) text << "; rows of " << name << " copied, stride " << x.row_bytes() << " bytes";
}
// k_again: whether products read K more than once
inline void name_copies(heed::detail::message& text, const heed::detail::input_tensor& k, bool k_again,
                        const heed::detail::input_tensor& v) {
  if (k_again) name_copy(text, "k", k);
  name_copy(text, "v", v);
}

}  // namespace HEED_ISA
}  // namespace heed::tile
