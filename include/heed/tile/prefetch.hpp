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

// Bytes that stay in the second-level cache while a tile is computed
inline constexpr double cached_bytes = 1 << 19;

// Where a walk over the cache lines of rows is
template <class T> struct row_walk {
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));  // numbers of a line of T

  const std::byte* at = nullptr;
  T* to = nullptr;                        // of the copy; null: lines are prefetched
  index_t in_row = 0, row_left = 0;       // lines of a row, and of this one that are left
  index_t jump = 0, ahead = 0, left = 0;  // bytes behind a row, bytes to prefetch ahead, lines left

  row_walk() = default;
  // step: bytes of a line; shorter rows are prefetched earlier. bench/softmax_half_bench.cpp, rows long
  row_walk(const row_span& rows, index_t step, T* copy)
      : at(rows.first),
        to(copy),
        in_row((rows.bytes + step - 1) / step),
        row_left(in_row),
        jump(rows.row_bytes - in_row * step),
        ahead(copy == nullptr ? 0 : (step < 64 ? 16 : 4) * rows.row_bytes),
        left(rows.count * in_row) {
    HEED_ASSERT(copy == nullptr || rows.bytes % step == 0);
  }
};

// Prefetches a line of T at each call, or copies one; numbers of another type S are widened to a line of T.
template <class T, class S> struct row_steps {
  static constexpr index_t bytes = row_walk<T>::line * static_cast<index_t>(sizeof(S));

  HEED_INLINE void operator()() {
    simd::prefetch(walk.at, walk.ahead);
    if (!std::is_same_v<T, S> || walk.to != nullptr) {
      copy_line();
      walk.to += row_walk<T>::line;
    }
    move(bytes);
    if (--walk.row_left == 0) walk.row_left = walk.in_row, move(walk.jump);
    --walk.left;
  }

  row_walk<T> walk;

 private:
  HEED_INLINE void copy_line() const {
    const S* const from = reinterpret_cast<const S*>(walk.at);
    for (index_t i = 0; i < row_walk<T>::line; i += simd::width<T>)
      simd::store(walk.to + i, simd::load_as<T>(from + i));
  }
  HEED_INLINE void move(index_t by) {  // beyond the tensor too, where no pointer arithmetic may go
    walk.at =
        reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(walk.at) + static_cast<std::uintptr_t>(by));
  }
};

namespace detail {
// Computes the first `rows` rows of p, whole blocks, with a step of the walk in each of their own.
template <class T, class S, class A = T>
void blocks_with_steps(const matrix_product<T, A>& p, index_t vectors, index_t rows, row_walk<T>& walk) {
  row_steps<T, S> steps{walk};
  with_vectors(vectors, [&](auto n) { blocks<block_rows(n), n>(p, 0, rows, steps); });
  walk = steps.walk;
}
template <class T, class S> void finish_steps(row_walk<T>& walk) {
  row_steps<T, S> steps{walk};
  while (steps.walk.left > 0) steps();
}
}  // namespace detail

// How lines of a storage type are widened while products run: a program compiles it for the types that it has.
template <class T> struct line_widener {
  index_t bytes;  // that become a line of T
  void (*blocks)(const matrix_product<T>& p, index_t vectors, index_t rows, row_walk<T>& walk);
  void (*finish)(row_walk<T>& walk);
};
template <class T, class S>
inline constexpr line_widener<T> line_widener_of{row_steps<T, S>::bytes, &detail::blocks_with_steps<T, S>,
                                                 &detail::finish_steps<T, S>};

// Walks the cache lines of rows and prefetches or copies one at each step of a product.
template <class T> class row_prefetcher {
 public:
  static constexpr index_t line = row_walk<T>::line;

  row_prefetcher() = default;

  // to: where rows are copied, one behind the other, in whole lines; null: they are prefetched, and need not exist.
  // widener: null where they hold elements of type T
  explicit row_prefetcher(const row_span& rows, T* to = nullptr, const line_widener<T>* widener = nullptr)
      : walk_(rows, widener == nullptr ? 64 : widener->bytes, to), widener_(widener) {}

  index_t left() const { return walk_.left; }  // lines; below 0 where prefetches went past the last row

  // Returns how many runs of so many steps are of use; a copy cannot go past its last row.
  index_t runs(index_t steps) const { return (walk_.to == nullptr ? walk_.left + steps - 1 : walk_.left) / steps; }

  // Computes full blocks of the product with a step in each of their own, as long as both last, and takes them off p.
  // A: as matrix_product's; rows are widened beside products of T only.
  template <class A> void multiply_full_blocks(matrix_product<T, A>& p, index_t vectors) {
    if (p.depth == 0 || walk_.left <= 0) return;
    const index_t block = block_rows(static_cast<int>(vectors));
    const index_t rows = std::min(p.rows / block, runs(p.depth)) * block;
    HEED_ASSERT((std::is_same_v<A, T> || widener_ == nullptr));
    if (rows > 0 && widener_ == nullptr) detail::blocks_with_steps<T, T>(p, vectors, rows, walk_);
    if constexpr (std::is_same_v<A, T>)
      if (rows > 0 && widener_ != nullptr) widener_->blocks(p, vectors, rows, walk_);
    p.a += rows * p.a_row, p.c += rows * p.c_row, p.rows -= rows;
  }

  // Copies what no product had the steps for; prefetches are not worth waiting for.
  void finish() {
    if (widener_ != nullptr)
      widener_->finish(walk_);
    else if (walk_.to != nullptr)
      detail::finish_steps<T, T>(walk_);
    walk_.left = 0;
  }

 private:
  row_walk<T> walk_;
  const line_widener<T>* widener_ = nullptr;
};

// Computes a product; prefetch, if any, takes a step in each of its own.
template <class T> void multiply_streaming(matrix_product<T> p, index_t vectors, row_prefetcher<T>* prefetch) {
  if (prefetch != nullptr) prefetch->multiply_full_blocks(p, vectors);
  if (p.rows > 0) multiply(p, vectors);
}

// Touches the pages of rows, which need not exist: where prefetches meet pages one by one, each waits for its address
// translation. Long rows, D = 64, N = 262144: 82 % of the peak without, 85 % with.
// Inline: GCC drops calls that only prefetch.
HEED_INLINE void touch_pages(const row_span& rows) {
  const index_t apart = std::max<index_t>(1, 4096 / std::max<index_t>(1, std::abs(rows.row_bytes)));
  for (index_t r = 0; r < rows.count; r += apart) simd::prefetch(rows.first, r * rows.row_bytes);
}

// As many rows that come after these, or before them
HEED_INLINE row_span after(const row_span& rows, bool before = false) {
  row_span next = rows;
  const index_t all = rows.count * rows.row_bytes;
  next.first = reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(rows.first) +
                                                  static_cast<std::uintptr_t>(before ? -all : all));
  return next;
}

// Rows that a task needs next, prefetched one tensor after the other while products are computed.
template <class T> class prefetch_queue {
 public:
  void clear() { next_ = 0, all_ = {}; }

  // Sets entry `number` (0 to 6); entries run in ascending order. pages: nobody has touched the rows' pages yet;
  // reversed: the rows before these come next
  void set(index_t number, const row_span& rows, bool pages, bool reversed = false) {
    if (pages) touch_pages(after(rows, reversed));
    all_[number] = row_prefetcher<T>(rows);
  }

  void multiply(matrix_product<T> p, index_t vectors) {
    for (; next_ < size && p.rows > 0; ++next_) {
      all_[next_].multiply_full_blocks(p, vectors);
      if (all_[next_].left() > 0) break;
    }
    if (p.rows > 0) tile::multiply(p, vectors);
  }

 private:
  static constexpr index_t size = 7;

  lane_array<row_prefetcher<T>, size> all_ = {};
  index_t next_ = size;
};

}  // namespace HEED_ISA
}  // namespace heed::tile
