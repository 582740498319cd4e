// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The tensors of a call on their way to the compiled library: plain data, the same in every translation unit.

#include <array>

#include "heed/core/call.hpp"
#include "heed/core/check.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed::dispatch {

enum class storage : unsigned char { f32, f64, bf16, f16, int8 };

template <class S>
inline constexpr storage storage_of = std::is_same_v<S, float>    ? storage::f32
                                      : std::is_same_v<S, double> ? storage::f64
                                      : std::is_same_v<S, bf16_t> ? storage::bf16
                                      : std::is_same_v<S, f16_t>  ? storage::f16
                                                                  : storage::int8;

// A view whose element type is a number; strides are 0 on axes without a second entry
struct tensor {
  void* data;
  std::array<index_t, 4> extents, strides;
  storage element;

  // Number by number: a copy of arrays would read wider than what has just been written, and wait for it.
  template <class S>
  HEED_INLINE explicit tensor(const tensor_view<S, 4>& x)
      : data(const_cast<std::remove_const_t<S>*>(x.data())), element(storage_of<std::remove_const_t<S>>) {
    for (int axis = 0; axis < 4; ++axis) {
      extents[static_cast<std::size_t>(axis)] = x.extent(axis);
      strides[static_cast<std::size_t>(axis)] = x.extent(axis) > 1 ? x.stride(axis) : 0;
    }
  }

  HEED_INLINE tensor(const heed::detail::input_tensor& x, storage of)
      : data(const_cast<std::byte*>(x.data())), extents(x.extents()), strides(x.strides()), element(of) {}

  template <class S> HEED_INLINE tensor_view<S, 4> view() const { return {static_cast<S*>(data), extents, strides}; }
};

template <class X> HEED_INLINE tensor any(const X& x) {
  return tensor(tensor_view<const heed::detail::value_t<X>, 4>(x));
}

// q and o of a call with a cache
struct query_rows {
  tensor q, o;
  unsigned one_axis;
};
// The same and the cache, which keeps its own types: a kv_cache_view, or a prefixed_cache_view
struct cached_rows : query_rows {
  const void* cache;
  storage element;
  bool prefixed;
};

struct rows {
  tensor q, k, v, o;
  unsigned one_axis;  // which of them had one axis
};

template <class Q, class O> HEED_INLINE query_rows query_rows_of(const Q& q, const O& o) {
  using four = tensor_view<heed::detail::value_t<Q>, 4>;  // k and v of a cache
  return {any(q), any(o), heed::detail::one_axis<Q, four, four, O>};
}
template <class View> HEED_INLINE cached_rows rows_of_cache(const query_rows& x, const View& cache) {
  using heed::detail::cache_element_t;
  return {x, &cache, storage_of<cache_element_t<View>>,
          std::is_same_v<View, prefixed_cache_view<cache_element_t<View>>>};
}

template <class Q, class K, class V, class O> HEED_INLINE rows rows_of(const Q& q, const K& k, const V& v, const O& o) {
  using heed::detail::value_t;
  return {tensor(tensor_view<const value_t<Q>, 4>(q)), tensor(tensor_view<const value_t<K>, 4>(k)),
          tensor(tensor_view<const value_t<V>, 4>(v)), tensor(tensor_view<const value_t<O>, 4>(o)),
          heed::detail::one_axis<Q, K, V, O>};
}

}  // namespace heed::dispatch
