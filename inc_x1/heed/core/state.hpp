// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The memory of the recurrent kernels: a matrix per sequence and head, and the sum of features that normalises.

#include <algorithm>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

#include "heed/core/config.hpp"
#include "heed/core/message.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

// s (sequence, head, feature, E), z (sequence, head, feature); after the last token, its own undecayed. Null: zeros
// where it is read, not wanted where it is written. z is used where a kernel normalises.
template <class Acc> struct state_view {
  tensor_view<Acc, 4> s = {};
  tensor_view<Acc, 3> z = {};

  HEED_INLINE operator state_view<const Acc>() const
    requires(!std::is_const_v<Acc>)
  {
    return {s, z};
  }
};

// Owning, zero at first.
template <class Acc = float> class state {
 public:
  HEED_INLINE state(index_t sequences, index_t heads, index_t features, index_t value_dim)
      : extents_{sequences, heads, features, value_dim} {
    for (const index_t extent : extents_)
      if (extent < 0) detail::fail("state: an extent is %, must be at least 0", extent);
    // numbers: bytes are counted without overflow
    constexpr double most = static_cast<double>(std::numeric_limits<index_t>::max() / 32);
    double numbers = static_cast<double>(value_dim) + 1;
    for (const index_t extent : {sequences, heads, features})  // 0 of one does not make up for the others: strides
      numbers *= static_cast<double>(std::max<index_t>(extent, 1));
    if (numbers > most) detail::fail("state: % numbers, must be at most %", numbers, most);
    data_ = allocate();
    reset();
  }
  HEED_INLINE state(const state& other) : extents_(other.extents_), data_(allocate()) {
    std::copy(other.data_, other.data_ + size(), data_);
  }
  HEED_INLINE state(state&& other) noexcept
      : extents_(std::exchange(other.extents_, {})), data_(std::exchange(other.data_, nullptr)) {}
  HEED_INLINE state& operator=(state other) noexcept {
    std::swap(extents_, other.extents_);
    std::swap(data_, other.data_);
    return *this;
  }
  HEED_INLINE ~state() { ::operator delete(static_cast<void*>(data_), std::align_val_t{alignment}); }

  HEED_INLINE void reset() { std::fill(data_, data_ + size(), Acc(0)); }

  HEED_INLINE operator state_view<Acc>() & noexcept { return view_of<Acc>(); }
  HEED_INLINE operator state_view<const Acc>() const& noexcept { return view_of<const Acc>(); }

 private:
  static constexpr std::size_t alignment = 64;  // a cache line and the widest vector

  template <class View>
    requires(std::is_same_v<View, state_view<Acc>> || std::is_same_v<View, state_view<const Acc>>)
  operator View() const&& {
    static_assert(!std::is_same_v<View, View>, "heed: the memory of a temporary state would be gone; give it a name");
    return {};
  }
  HEED_INLINE index_t rows() const { return extents_[0] * extents_[1] * extents_[2]; }
  HEED_INLINE index_t size() const { return rows() * (extents_[3] + 1); }
  HEED_INLINE Acc* allocate() const {
    return static_cast<Acc*>(
        ::operator new(static_cast<std::size_t>(size()) * sizeof(Acc), std::align_val_t{alignment}));
  }
  template <class T> HEED_INLINE state_view<T> view_of() const {
    const index_t heads = extents_[1], features = extents_[2], e = extents_[3];
    return {{data_, extents_, {heads * features * e, features * e, e, 1}},
            {data_ + rows() * e, {extents_[0], heads, features}, {heads * features, features, 1}}};
  }

  std::array<index_t, 4> extents_;
  Acc* data_ = nullptr;  // s, then z
};

}  // namespace heed
