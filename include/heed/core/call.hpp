// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the calls of all kernels have in common: their tensors and sequences.

#include <cstddef>
#include <type_traits>

#include "heed/core/mask.hpp"
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

inline namespace HEED_ISA {

// One batch entry, or one of the sequences that packed() cuts the only batch entry into. Queries and keys are counted
// from its first ones.
struct sequence {
  index_t number = 0, batch = 0, first_query = 0, first_key = 0, queries = 0, keys = 0;
};

// q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E) of a call, and how it cuts them
template <class Storage> struct tensors {
  template <class Options>
  HEED_INLINE tensors(const Options& options, const tensor_view<const Storage, 4>& query,
                      const tensor_view<const Storage, 4>& key, const tensor_view<const Storage, 4>& value,
                      const tensor_view<Storage, 4>& output, unsigned axes)
      : q(with_canonical_strides(query)),
        k(with_canonical_strides(key)),
        v(with_canonical_strides(value)),
        o(with_canonical_strides(output)),
        mask(parts(options.mask)),
        one_axis(axes),
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

  HEED_INLINE const Storage* query(const detail::sequence& s, index_t head, index_t i) const {
    return q.data() + s.batch * q.stride(0) + head * q.stride(1) + (s.first_query + i) * q.stride(2);
  }
  HEED_INLINE Storage* output(const detail::sequence& s, index_t head, index_t i) const {
    return o.data() + s.batch * o.stride(0) + head * o.stride(1) + (s.first_query + i) * o.stride(2);
  }
  HEED_INLINE const Storage* key(const detail::sequence& s, index_t kv_head, index_t j) const {
    return k.data() + s.batch * k.stride(0) + kv_head * k.stride(1) + (s.first_key + j) * k.stride(2);
  }
  HEED_INLINE const Storage* value(const detail::sequence& s, index_t kv_head, index_t j) const {
    return v.data() + s.batch * v.stride(0) + kv_head * v.stride(1) + (s.first_key + j) * v.stride(2);
  }

  tensor_view<const Storage, 4> q, k, v;
  tensor_view<Storage, 4> o;
  const mask_parts& mask;
  unsigned one_axis;  // see one_axis
  index_t d, e, query_heads, kv_heads;
};

}  // namespace HEED_ISA
}  // namespace heed::detail
