// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The memory of an owning cache: all of it is allocated and written once by the constructor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <new>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/message.hpp"
#include "heed/core/types.hpp"
#include "heed/simd/huge_pages.hpp"

namespace heed::detail {

inline namespace HEED_ISA {

inline constexpr std::size_t cache_alignment = 64;  // a cache line and the widest vector

// Large arrays lie in huge pages, if the system has them.
HEED_INLINE std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t{simd::page_alignment(bytes, cache_alignment)};
}
HEED_NOINLINE inline void* allocate_zeros(std::size_t bytes) {
  void* const memory = ::operator new(bytes, alignment_of(bytes));
  simd::prefer_huge_pages(memory, bytes);
  return std::memset(memory, 0, bytes);
}

}  // namespace HEED_ISA

// An array of a plain type: 64-byte aligned, zero at first.
template <class X> class zeros {
 public:
  HEED_INLINE explicit zeros(index_t size)
      : size_(size), data_(static_cast<X*>(allocate_zeros(static_cast<std::size_t>(size) * sizeof(X)))) {}
  HEED_INLINE zeros(zeros&& other) noexcept : size_(other.size_), data_(other.data_) {
    other.size_ = 0, other.data_ = nullptr;
  }
  HEED_INLINE zeros& operator=(zeros&& other) noexcept {  // without std::swap: its symbol would carry no tag
    const index_t size = size_;
    X* const data = data_;
    size_ = other.size_, data_ = other.data_;
    other.size_ = size, other.data_ = data;
    return *this;
  }
  HEED_INLINE ~zeros() {
    ::operator delete(static_cast<void*>(data_), alignment_of(static_cast<std::size_t>(size_) * sizeof(X)));
  }

  HEED_INLINE X* data() const noexcept { return data_; }
  HEED_INLINE index_t size() const noexcept { return size_; }
  HEED_INLINE X& operator[](index_t i) const noexcept { return data_[i]; }

 private:
  index_t size_;
  X* data_;
};

// entries: sequences, or pages
struct cache_shape {
  index_t entries, kv_heads, rows, dim, value_dim;

  HEED_INLINE index_t row(index_t entry, index_t head, index_t i) const {
    return (entry * kv_heads + head) * rows + i;
  }
  HEED_INLINE index_t all_rows() const { return row(entries, 0, 0); }
};

inline namespace HEED_ISA {

struct cache_number {
  const char* name;
  index_t value, least, most;
};

// Refuses sizes that no tensor has, and caches whose bytes cannot be counted.
HEED_NOINLINE inline void check_cache(const char* kind, std::initializer_list<cache_number> numbers,
                                      const cache_shape& shape) {
  for (const cache_number& x : numbers)
    if (x.value < x.least || x.value > x.most)
      fail("%: % is %, must be % to %", kind, x.name, x.value, x.least, x.most);
  constexpr double most = static_cast<double>(std::numeric_limits<index_t>::max() / 32);
  double all = static_cast<double>(shape.dim) + static_cast<double>(shape.value_dim) + 2;
  for (const index_t extent : {shape.entries, shape.kv_heads, shape.rows})  // also without elements: strides
    all *= static_cast<double>(std::max<index_t>(extent, 1));
  if (all > most) fail("%: % numbers, must be at most %", kind, all, most);
}

inline constexpr index_t most_tokens = std::numeric_limits<std::int32_t>::max();

}  // namespace HEED_ISA

// Rows of k and v, and their scales where they are std::int8_t
template <class T> struct cache_memory {
  static_assert(cache_storage<T>, "heed: a cache holds float, double, heed::bf16_t, heed::f16_t or std::int8_t");
  static constexpr bool scaled = std::is_same_v<T, std::int8_t>;

  HEED_INLINE explicit cache_memory(const cache_shape& of)
      : shape(of),
        k(of.all_rows() * of.dim),
        v(of.all_rows() * of.value_dim),
        k_scale(scaled ? of.all_rows() : 0),
        v_scale(scaled ? of.all_rows() : 0) {}
  HEED_INLINE cache_memory(cache_memory&&) noexcept = default;
  HEED_INLINE cache_memory& operator=(cache_memory&&) noexcept = default;
  HEED_INLINE ~cache_memory() {}

  HEED_INLINE kv_cache_view<T> view(cache_layout layout) const {
    const auto [n, heads, rows, d, e] = shape;
    kv_cache_view<T> x{};
    x.layout = layout;
    x.k = {k.data(), {n, heads, rows, d}, {heads * rows * d, rows * d, d, 1}};
    x.v = {v.data(), {n, heads, rows, e}, {heads * rows * e, rows * e, e, 1}};
    if constexpr (scaled) {
      x.k_scale = {k_scale.data(), {n, heads, rows}, {heads * rows, rows, 1}};
      x.v_scale = {v_scale.data(), {n, heads, rows}, {heads * rows, rows, 1}};
    }
    return x;
  }

  cache_shape shape;
  zeros<T> k, v;
  zeros<float> k_scale, v_scale;
};

inline namespace HEED_ISA {

// Copies `count` rows of all that is kept of them, from row `from` of the cache to row `to`.
template <class T> void copy_cache_rows(const cache_memory<T>& c, index_t from, index_t to, index_t count) {
  if (count == 0) return;
  const auto copy = [&](const auto& all, index_t each) {
    std::memcpy(all.data() + to * each, all.data() + from * each,
                static_cast<std::size_t>(count * each) * sizeof(all[0]));
  };
  copy(c.k, c.shape.dim), copy(c.v, c.shape.value_dim);
  if constexpr (cache_memory<T>::scaled) copy(c.k_scale, 1), copy(c.v_scale, 1);
}

}  // namespace HEED_ISA
}  // namespace heed::detail
