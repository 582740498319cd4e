// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows that are prefetched, or copied, while a product runs: a line per step of its inner loop, in address order.
// bench/lightning_bench.cpp, long rows: prefetching in bursts or in use order gains little.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "heed/simd/batch.hpp"
#include "heed/simd/half.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Rows of numbers in memory: where they begin, and how many bytes from one to the next
struct row_span {
  const std::byte* first = nullptr;
  index_t row_bytes = 0, count = 0, bytes = 0;  // bytes: of a row
};

// How elements become those of a copy: they are of its type, or widened. none: only row by row
enum class line_copy { none, as_is, from_bf16, from_f16 };

// The copy of rows of S as rows of T, line by line while products run
template <class T, class S> constexpr line_copy line_copy_of() {
#if defined(HEED_AVX512) || defined(__F16C__)
  constexpr bool widens_f16 = true;
#else
  constexpr bool widens_f16 = false;  // takes too many steps
#endif
  if (std::is_same_v<T, S>) return line_copy::as_is;
  if (std::is_same_v<S, bf16_t>) return line_copy::from_bf16;
  return widens_f16 && std::is_same_v<S, f16_t> ? line_copy::from_f16 : line_copy::none;
}

// Walks the cache lines of rows and prefetches or copies one at each call.
template <class T> class row_prefetcher {
 public:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));

  row_prefetcher() = default;

  // Prefetches rows, which need not exist.
  explicit row_prefetcher(const row_span& rows) : row_prefetcher(rows, 64) {}
  // Copies rows to `to`, one behind the other, in whole lines of the copy.
  row_prefetcher(const row_span& rows, T* to, line_copy how)
      : row_prefetcher(rows, how == line_copy::as_is ? 64 : line * static_cast<index_t>(sizeof(bf16_t))) {
    HEED_ASSERT(rows.bytes % step_ == 0 && how != line_copy::none);
    to_ = to, how_ = how, ahead_ = 4 * rows.row_bytes;
  }

  index_t left() const { return left_; }  // lines; below 0 where prefetches went past the last row
  // Returns how many runs of so many steps are of use; a copy cannot go past its last row.
  index_t runs(index_t steps) const { return (to_ == nullptr ? left_ + steps - 1 : left_) / steps; }

  HEED_INLINE void operator()() {
    simd::prefetch(at_, ahead_);
    if (to_ != nullptr) {
      copy_line();
      to_ += line;
    }
    move(step_);
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
  row_prefetcher(const row_span& rows, index_t step)
      : at_(rows.first),
        step_(step),
        in_row_((rows.bytes + step - 1) / step),
        row_left_(in_row_),
        jump_(rows.row_bytes - in_row_ * step),
        left_(rows.count * in_row_) {}

  HEED_INLINE void copy_line() const {
    if (how_ == line_copy::as_is) return copy_line_of<T>();
    if constexpr (std::is_same_v<T, float>) {
      if (how_ == line_copy::from_bf16) return copy_line_of<bf16_t>();
      if constexpr (line_copy_of<T, f16_t>() != line_copy::none) copy_line_of<f16_t>();
    }
  }
  template <class S> HEED_INLINE void copy_line_of() const {
    constexpr index_t w = simd::width<T>;
    const S* const from = reinterpret_cast<const S*>(at_);
    for (index_t i = 0; i < line; i += w) simd::store(to_ + i, simd::load_as<T>(from + i));
  }
  HEED_INLINE void move(index_t bytes) {  // beyond the tensor too, where no pointer arithmetic may go
    at_ =
        reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(at_) + static_cast<std::uintptr_t>(bytes));
  }

  const std::byte* at_ = nullptr;
  T* to_ = nullptr;
  line_copy how_ = line_copy::none;
  index_t step_ = 0;  // bytes of a step
  index_t in_row_ = 0, row_left_ = 0, jump_ = 0, ahead_ = 0, left_ = 0;
};

// Computes full blocks of the product with a step of the prefetcher in each of their own, as long as both last, and
// takes them off p.
template <class T> void multiply_full_blocks(matrix_product<T>& p, index_t vectors, row_prefetcher<T>& prefetch) {
  if (p.depth == 0 || prefetch.left() <= 0) return;
  const index_t block = block_rows(static_cast<int>(vectors));
  const index_t rows = std::min(p.rows / block, prefetch.runs(p.depth)) * block;
  if (rows > 0) with_vectors(vectors, [&](auto n) { detail::blocks<block_rows(n), n>(p, 0, rows, prefetch); });
  p.a += rows * p.a_row, p.c += rows * p.c_row, p.rows -= rows;
}

// Computes a product; prefetch, if any, takes a step in each of its own.
template <class T> void multiply_streaming(matrix_product<T> p, index_t vectors, row_prefetcher<T>* prefetch) {
  if (prefetch != nullptr) multiply_full_blocks(p, vectors, *prefetch);
  if (p.rows > 0) multiply(p, vectors);
}

// Touches the pages of rows, which need not exist: where prefetches meet pages one by one, each waits for its address
// translation. Long rows, D = 64, N = 262144: 82 % of the peak without, 85 % with.
// Inline: GCC drops calls that only prefetch.
HEED_INLINE void touch_pages(const row_span& rows) {
  const index_t apart = std::max<index_t>(1, 4096 / std::max<index_t>(1, std::abs(rows.row_bytes)));
  for (index_t r = 0; r < rows.count; r += apart) simd::prefetch(rows.first, r * rows.row_bytes);
}

// As many rows that come after these
HEED_INLINE row_span after(const row_span& rows) {
  row_span next = rows;
  next.first = reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(rows.first) +
                                                  static_cast<std::uintptr_t>(rows.count * rows.row_bytes));
  return next;
}

// Rows that a task needs next, prefetched one tensor after the other while products are computed.
template <class T> class prefetch_queue {
 public:
  void clear() { next_ = 0, all_ = {}; }

  // Sets entry `number` (0 to 3); entries run in ascending order. pages: nobody has touched the rows' pages yet
  void set(index_t number, const row_span& rows, bool pages) {
    if (pages) touch_pages(after(rows));
    all_[number] = row_prefetcher<T>(rows);
  }

  void multiply(matrix_product<T> p, index_t vectors) {
    for (; next_ < size && p.rows > 0; ++next_) {
      multiply_full_blocks(p, vectors, all_[next_]);
      if (all_[next_].left() > 0) break;
    }
    if (p.rows > 0) tile::multiply(p, vectors);
  }

 private:
  static constexpr index_t size = 4;

  lane_array<row_prefetcher<T>, size> all_ = {};
  index_t next_ = size;
};

}  // namespace HEED_ISA
}  // namespace heed::tile
