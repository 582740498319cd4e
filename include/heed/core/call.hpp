// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the calls of all kernels have in common: which tensors they take.

#include <type_traits>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed::detail {

// Whether the tensors of a call can be its q, k, v and o; a static_assert says why they cannot.
template <class Q, class... Others> constexpr bool same_elements() {
  using T = value_t<Q>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "heed: this kernel takes float or double (16-bit storage is planned)");
  static_assert((std::is_same_v<T, value_t<Others>> && ...),
                "heed: q, k, v and the other tensors of a call have one element type");
  return true;
}
template <class... Tensors> constexpr bool input_tensors() {
  static_assert((tensor_argument<Tensors>() && ...));
  return same_elements<Tensors...>();
}
// The same, with O the type that o was deduced as
template <class O, class... Tensors> constexpr bool call_tensors() {
  static_assert(writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  return input_tensors<Tensors..., O>();
}

// What a pointer in place of a tensor is told
template <class... Tensors> constexpr bool no_pointers() {
  static_assert(!any_pointer<Tensors...>,
                "heed: a pointer has no shape: give a view, heed::bhsd(pointer, batch, heads, seq, dim)");
  return true;
}

// The o of a plan: it is not written, whatever the caller's constness.
template <class T, viewable O> HEED_INLINE tensor_view<T, 4> planned_output(const O& o) {
  const tensor_view<const T, 4> x(o);
  return {const_cast<T*>(x.data()), x.extents(), x.strides()};
}

}  // namespace heed::detail
