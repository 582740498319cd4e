// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the calls of all kernels have in common: their tensors and sequences.

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed::detail {

// Whether the tensors of a call can be its q, k, v and o; a static_assert says why they cannot.
template <class Q, class K, class V, class... Others> constexpr bool input_tensors() {
  static_assert(tensor_argument<Q>() && tensor_argument<K>() && tensor_argument<V>());
  static_assert((tensor_argument<Others>() && ...));
  static_assert(is_storage<value_t<Q>> && is_storage<value_t<K>>,
                "heed: q, k, v and o hold float, double, heed::bf16_t or heed::f16_t (or another 16-bit float)");
  static_assert(std::is_same_v<value_t<K>, value_t<V>>, "heed: k and v have one element type");
  static_assert(std::is_same_v<acc_of<Q>, acc_of<K>> && (std::is_same_v<acc_of<Q>, acc_of<Others>> && ...),
                "heed: double goes with double alone; float and 16-bit types go together");
  static_assert((is_storage<value_t<Others>> && ...), "heed: o holds float, double or a 16-bit float");
  return true;
}
// The same, with O the type that o was deduced as
template <class O, class... Tensors> constexpr bool call_tensors() {
  static_assert(writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  return input_tensors<Tensors..., O>();
}
// Whether X, an argument beside q, k, v and o, holds what the call sums in: float, or double where they are double
template <class Q, class X> constexpr bool summed_elements() {
  static_assert(std::is_same_v<acc_of<Q>, value_t<X>>,
                "heed: gates and slopes are float, or double where q, k, v and o are");
  return true;
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

inline namespace HEED_ISA {

// A tensor (batch, head, seq, dim) of a call, whatever its elements are. Strides are in elements, and 0 on axes without
// a second entry. Byte: std::byte, or const std::byte
template <class Byte> struct stored_tensor {
  template <class S>
  HEED_INLINE explicit stored_tensor(const tensor_view<S, 4>& x)
      : bytes_(reinterpret_cast<Byte*>(x.data())),
        element_(static_cast<index_t>(sizeof(S))),
        extents_(x.extents()),
        strides_(with_canonical_strides(x).strides()) {}

  // Strides as they are kept here: 0 on axes without a second entry
  HEED_INLINE stored_tensor(Byte* bytes, index_t element, const std::array<index_t, 4>& extents,
                            const std::array<index_t, 4>& strides)
      : bytes_(bytes), element_(element), extents_(extents), strides_(strides) {}

  // The same memory and strides with other extents
  HEED_INLINE stored_tensor with_extents(const std::array<index_t, 4>& extents) const {
    stored_tensor x = *this;
    x.extents_ = extents;
    return x;
  }

  HEED_INLINE Byte* data() const { return bytes_; }
  HEED_INLINE index_t extent(int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  HEED_INLINE index_t stride(int axis) const { return strides_[static_cast<std::size_t>(axis)]; }
  HEED_INLINE const std::array<index_t, 4>& extents() const { return extents_; }
  HEED_INLINE const std::array<index_t, 4>& strides() const { return strides_; }
  bool empty() const { return std::find(extents_.begin(), extents_.end(), 0) != extents_.end(); }
  HEED_INLINE index_t element_bytes() const { return element_; }
  // From one row to the next; without overflow, since the stride of a tensor without elements may be any number
  HEED_INLINE index_t row_bytes() const {
    return static_cast<index_t>(static_cast<std::size_t>(stride(2)) * static_cast<std::size_t>(element_));
  }
  HEED_INLINE Byte* row(index_t batch, index_t head, index_t i) const {
    return bytes_ + (batch * stride(0) + head * stride(1) + i * stride(2)) * element_;
  }

 private:
  Byte* bytes_;
  index_t element_;  // bytes of one
  std::array<index_t, 4> extents_, strides_;
};
using input_tensor = stored_tensor<const std::byte>;
using output_tensor = stored_tensor<std::byte>;

// q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E) of a call
struct call_tensors4 {
  input_tensor q, k, v;
  output_tensor o;
  unsigned one_axis;  // see one_axis
};

// One batch entry, or one of the sequences that packed() cuts the only batch entry into. Queries and keys are counted
// from its first ones.
struct sequence {
  index_t number = 0, batch = 0, first_query = 0, first_key = 0, queries = 0, keys = 0;
};

// The tensors of a call, and how it cuts them
struct tensors : call_tensors4 {
  HEED_INLINE tensors(const heed::mask& m, const call_tensors4& x)
      : call_tensors4(x),
        mask(parts(m)),
        d(q.extent(3)),
        e(v.extent(3)),
        query_heads(q.extent(1)),
        kv_heads(k.extent(1)) {}

  bool packed() const { return mask.has(mask.packed); }
  index_t sequences() const {
    const auto offsets = static_cast<index_t>(mask.query_offsets.size());
    return !packed() ? q.extent(0) : offsets > 0 ? offsets - 1 : 0;
  }
  detail::sequence sequence_at(index_t number) const {
    if (!packed()) return {number, number, 0, 0, q.extent(2), k.extent(2)};
    const auto n = static_cast<std::size_t>(number);
    const index_t query = mask.query_offsets[n], key = mask.key_offsets[n];
    return {number, 0, query, key, mask.query_offsets[n + 1] - query, mask.key_offsets[n + 1] - key};
  }

  HEED_INLINE const std::byte* query(const detail::sequence& s, index_t head, index_t i) const {
    return q.row(s.batch, head, s.first_query + i);
  }
  HEED_INLINE std::byte* output(const detail::sequence& s, index_t head, index_t i) const {
    return o.row(s.batch, head, s.first_query + i);
  }
  HEED_INLINE const std::byte* key(const detail::sequence& s, index_t kv_head, index_t j) const {
    return k.row(s.batch, kv_head, s.first_key + j);
  }
  HEED_INLINE const std::byte* value(const detail::sequence& s, index_t kv_head, index_t j) const {
    return v.row(s.batch, kv_head, s.first_key + j);
  }

  const mask_parts& mask;
  index_t d, e, query_heads, kv_heads;
};

}  // namespace HEED_ISA
}  // namespace heed::detail
