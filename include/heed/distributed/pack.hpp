// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Tensors in one piece of memory, as messages carry them, and copies between these and the caller's.

#include <algorithm>
#include <type_traits>

#include "heed/core/factories.hpp"
#include "heed/core/view.hpp"

namespace heed::distributed::detail {
inline namespace HEED_ISA {

template <class T, int Rank> index_t size_of(const tensor_view<T, Rank>& x) {
  index_t size = 1;
  for (int axis = 0; axis < Rank; ++axis) size *= x.extent(axis);
  return size;
}

// f(to, from) for every pair of elements of two tensors of one shape
template <class A, class B, class F>
void each_pair(const tensor_view<A, 4>& to, const tensor_view<B, 4>& from, const F& f) {
  for (index_t b = 0; b < to.extent(0); ++b)
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t i = 0; i < to.extent(2); ++i)
        for (index_t d = 0; d < to.extent(3); ++d) f(to(b, h, i, d), from(b, h, i, d));
}
template <class A, class B, class F>
void each_pair(const tensor_view<A, 3>& to, const tensor_view<B, 3>& from, const F& f) {
  for (index_t b = 0; b < to.extent(0); ++b)
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t i = 0; i < to.extent(2); ++i) f(to(b, h, i), from(b, h, i));
}
template <class A, class B, int Rank> void copy(const tensor_view<A, Rank>& to, const tensor_view<B, Rank>& from) {
  each_pair(to, from, [](A& x, const auto& y) { x = static_cast<A>(y); });
}
template <class A, class B, int Rank> void add(const tensor_view<A, Rank>& to, const tensor_view<B, Rank>& from) {
  each_pair(to, from, [](A& x, const auto& y) { x += y; });
}

// slice of (batch, head, seq): lse
template <class T> tensor_view<T, 3> slice_axis(const tensor_view<T, 3>& x, int axis, index_t first, index_t count) {
  auto extents = x.extents();
  extents[static_cast<std::size_t>(axis)] = count;
  return {count > 0 && !x.empty() ? x.data() + first * x.stride(axis) : x.data(), extents, x.strides()};
}

}  // namespace HEED_ISA
}  // namespace heed::distributed::detail
