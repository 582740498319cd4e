// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "support/random.hpp"

namespace heed_test {

using heed::index_t;
using extents = std::array<index_t, 4>;  // batch, heads, seq, dim

// How four logical axes lie in memory. The last three suit inputs, or outputs where the shared axis has extent 1.
enum class layout { bhsd, bshd, packed_slot, cache, padded_rows, reversed_rows, shared_batch, shared_heads };
inline constexpr layout output_layouts[] = {layout::bhsd,  layout::bshd,        layout::packed_slot,
                                            layout::cache, layout::padded_rows, layout::reversed_rows};
inline constexpr layout input_layouts[] = {layout::bhsd,         layout::bshd,        layout::packed_slot,
                                           layout::cache,        layout::padded_rows, layout::reversed_rows,
                                           layout::shared_batch, layout::shared_heads};

inline const char* name_of(layout how) {
  constexpr const char* names[] = {"bhsd",        "bshd",          "packed_slot",  "cache",
                                   "padded_rows", "reversed_rows", "shared_batch", "shared_heads"};
  return names[static_cast<int>(how)];
}

struct placed {
  std::array<index_t, 4> strides;
  index_t first, elements;
};  // of element (0, 0, 0, 0); of the whole memory

inline placed place_in_memory(const extents& n, layout how) {
  const auto [b, h, s, d] = n;
  switch (how) {
    case layout::bhsd:
      return {{h * s * d, s * d, d, 1}, 0, b * h * s * d};
    case layout::bshd:
      return {{s * h * d, d, h * d, 1}, 0, b * s * h * d};
    case layout::packed_slot:
      return {{s * 3 * h * d, d, 3 * h * d, 1}, h * d, b * s * 3 * h * d};  // the k of (q, k, v)
    case layout::cache:
      return {{h * (s + 5) * d, (s + 5) * d, d, 1}, 2 * d, b * h * (s + 5) * d};  // rows 2 .. s+1 of s+5
    case layout::padded_rows:
      return {{h * s * (d + 3), s * (d + 3), d + 3, 1}, 0, b * h * s * (d + 3)};
    case layout::reversed_rows:
      return {{h * s * d, s * d, -d, 1}, (s > 0 ? s - 1 : 0) * d, b * h * s * d};
    case layout::shared_batch:
      return {{0, s * d, d, 1}, 0, h * s * d};
    case layout::shared_heads:
      return {{s * d, 0, d, 1}, 0, b * s * d};
  }
  return {};
}

// A tensor that watches its memory. Inputs end exactly where their allocation ends, so that a sanitizer sees a read
// past the last row; outputs start as NaN between canaries. skew: elements off a 64-byte boundary.
template <class T> class buffer {
 public:
  static inline index_t guard = 64;  // canaries of outputs, in elements

  static buffer input(const extents& n, layout how = layout::bhsd, index_t skew = 0) { return buffer(n, how, skew, 0); }
  static buffer output(const extents& n, layout how = layout::bhsd, index_t skew = 0) {
    buffer x(n, how, skew, guard);
    x.poison();
    return x;
  }

  heed::tensor_view<T, 4> view() const { return {start(), n_, at_.strides}; }
  heed::tensor_view<const T, 4> cview() const { return {start(), n_, at_.strides}; }
  heed::tensor_view<T, 3> view3() const {  // for extents (batch, heads, seq, 1)
    return {start(), {n_[0], n_[1], n_[2]}, {at_.strides[0], at_.strides[1], at_.strides[2]}};
  }
  T& operator()(index_t b, index_t h, index_t s, index_t d = 0) const {
    return start()[b * at_.strides[0] + h * at_.strides[1] + s * at_.strides[2] + d];
  }
  const extents& size() const { return n_; }

  template <class F> void each(F f) const {  // f(element)
    for (index_t b = 0; b < n_[0]; ++b)
      for (index_t h = 0; h < n_[1]; ++h)
        for (index_t s = 0; s < n_[2]; ++s)
          for (index_t d = 0; d < n_[3]; ++d) f((*this)(b, h, s, d));
  }
  void randomize(random_numbers& random, double size = 1) {
    each([&](T& x) { x = static_cast<T>(size * random.normal()); });
  }
  void fill(T value) {
    each([&](T& x) { x = value; });
  }
  // Sets all that is outside the view to NaN.
  void poison_padding() const {
    if (!has_rest()) return;
    std::vector<unsigned char> inside(bytes());
    each([&](T& x) {
      std::memset(inside.data() + (&x - memory_.get()) * static_cast<index_t>(sizeof(T)), 1, sizeof(T));
    });
    auto* const p = reinterpret_cast<unsigned char*>(memory_.get());
    for (std::size_t i = 0; i < bytes(); ++i) p[i] = inside[i] != 0 ? p[i] : 0xff;
  }
  void poison() { std::memset(static_cast<void*>(memory_.get()), 0xff, bytes()); }  // all bits set is a quiet NaN

  // FNV-1a over everything, canaries included, eight bytes at a time.
  std::uint64_t hash() const {
    std::uint64_t h = 14695981039346656037u;
    const auto* p = reinterpret_cast<const unsigned char*>(memory_.get());
    std::size_t i = 0;
    for (; i + 8 <= bytes(); i += 8) {
      std::uint64_t word;
      std::memcpy(&word, p + i, 8);
      h = (h ^ word) * 1099511628211u, h ^= h >> 29;
    }
    for (; i < bytes(); ++i) h = (h ^ p[i]) * 1099511628211u;
    return h;
  }
  // Nothing outside the view was written.
  bool canaries_alive() const {
    if (!has_rest()) return true;
    std::vector<unsigned char> rest(bytes());
    if (!rest.empty()) std::memcpy(rest.data(), memory_.get(), rest.size());
    each([&](T& x) {
      std::memset(rest.data() + (&x - memory_.get()) * static_cast<index_t>(sizeof(T)), 0xff, sizeof(T));
    });
    for (const unsigned char byte : rest)
      if (byte != 0xff) return false;
    return true;
  }
  bool untouched() const {  // still all poison
    const auto* p = reinterpret_cast<const unsigned char*>(memory_.get());
    for (std::size_t i = 0; i < bytes(); ++i)
      if (p[i] != 0xff) return false;
    return true;
  }

 private:
  struct release {
    void operator()(T* p) const { ::operator delete (static_cast<void*>(p), std::align_val_t{64}); }
  };

  buffer(const extents& n, layout how, index_t skew, index_t canaries)
      : n_(n), at_(place_in_memory(n, how)), before_(canaries + skew), count_(before_ + at_.elements + canaries) {
    memory_.reset(static_cast<T*>(::operator new (bytes(), std::align_val_t{64})));
    std::memset(static_cast<void*>(memory_.get()), 0, bytes());
  }
  bool has_rest() const { return count_ > n_[0] * n_[1] * n_[2] * n_[3]; }  // outside the view
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }
  T* start() const { return memory_.get() + before_ + at_.first; }

  extents n_;
  placed at_;
  index_t before_, count_;
  std::unique_ptr<T[], release> memory_;
};

template <class T> bool same_bits(const buffer<T>& a, const buffer<T>& b) {
  for (index_t i = 0; i < a.size()[0]; ++i)
    for (index_t h = 0; h < a.size()[1]; ++h)
      for (index_t s = 0; s < a.size()[2]; ++s)
        for (index_t d = 0; d < a.size()[3]; ++d)
          if (std::memcmp(&a(i, h, s, d), &b(i, h, s, d), sizeof(T)) != 0) return false;
  return a.size() == b.size();
}

}  // namespace heed_test
