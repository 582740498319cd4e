// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How rows of a storage type (float, double, bf16_t, f16_t; std::int8_t to read) become numbers of the type T that a
// kernel sums in, and back. The engines are compiled once for each T; what touches the caller's rows goes through a
// table of functions of their storage type, so that a program compiles those that its calls need.

#include <cstddef>
#include <type_traits>

#include "heed/core/call.hpp"
#include "heed/core/check.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

template <class T> struct row_format {
  const char* name;
  index_t element;                 // bytes of one
  bool is_t;                       // elements are of type T: products can read rows where they are
  const line_widener<T>* widener;  // for copies while products run; null: elements are of type T, or copied row by row
  // As tile::gather, scatter and copy_rows, but rows hold elements of this format; strides of rows are in bytes.
  void (*gather)(const std::byte* const* rows, index_t lanes, index_t dim, T factor, T* out, index_t out_stride);
  void (*scatter)(const T* in, index_t in_stride, const T* factor, std::byte* const* rows, index_t lanes, index_t dim);
  void (*read)(const std::byte* rows, index_t row_bytes, index_t count, index_t dim, T* out, index_t out_stride);
  void (*write)(const T* in, T factor, std::byte* row, index_t dim);  // row = factor in
};

namespace detail {

template <class T, class S> constexpr auto scatter_of() -> decltype(&scatter<T, T>) {
  if constexpr (heed::detail::is_storage<S>)
    return &scatter<T, S>;
  else
    return nullptr;
}
template <class T, class S>
void read_rows(const std::byte* rows, index_t row_bytes, index_t count, index_t dim, T* out, index_t out_stride) {
  for (index_t r = 0; r < count; ++r)
    copy_rows<T, S>(row_as<S>(rows + r * row_bytes), 0, 1, dim, out + r * out_stride, 0);
}
template <class T, class S> void write_row(const T* in, T factor, std::byte* row, index_t dim) {
  constexpr index_t w = simd::width<T>;
  const simd::batch<T> f(factor);
  S* const to = row_as<S>(row);
  index_t c = 0;
  for (; c + w <= dim; c += w) simd::store_as<S>(to + c, simd::load(in + c) * f);
  if (c < dim) simd::store_partial_as<S>(to + c, simd::load_partial(in + c, dim - c) * f, dim - c);
}
template <class T, class S> constexpr auto write_of() -> decltype(&write_row<T, T>) {
  if constexpr (heed::detail::is_storage<S>)
    return &write_row<T, S>;
  else
    return nullptr;
}
// Widening f16 without an instruction for it takes too many steps to be done on the way.
template <class T, class S> constexpr const line_widener<T>* widener_of() {
#if defined(HEED_AVX512) || defined(__F16C__) || defined(HEED_NEON)
  constexpr bool quick = true;
#else
  constexpr bool quick = !std::is_same_v<S, f16_t>;
#endif
  if constexpr (quick && !std::is_same_v<T, S> && !std::is_same_v<S, std::int8_t>)
    return &line_widener_of<T, S>;
  else
    return nullptr;
}

template <class S>
inline constexpr const char* storage_name = std::is_same_v<S, float>    ? "float"
                                            : std::is_same_v<S, double> ? "double"
                                            : std::is_same_v<S, bf16_t> ? "bf16"
                                            : std::is_same_v<S, f16_t>  ? "f16"
                                                                        : "int8";

}  // namespace detail

// Rows of std::int8_t are read as they are, without their scales, and never written.
template <class T, class S>
inline constexpr row_format<T> row_format_of{
    detail::storage_name<S>, static_cast<index_t>(sizeof(S)), std::is_same_v<T, S>,     detail::widener_of<T, S>(),
    &gather<T, S>,           detail::scatter_of<T, S>(),      &detail::read_rows<T, S>, detail::write_of<T, S>()};

// The tensors of a call that sums in T, with the formats of their rows
template <class T> struct call_rows : heed::detail::call_tensors4 {
  const row_format<T>*q_format, *kv_format, *o_format;
};
template <class Q, class K, class V, class O>
HEED_INLINE call_rows<acc_of<Q>> rows_of_call(const Q& q, const K& k, const V& v, O& o) {
  using heed::detail::value_t, heed::detail::input_tensor;
  using T = acc_of<Q>;
  const tensor_view<const value_t<O>, 4> out(o);
  const tensor_view<value_t<O>, 4> written(const_cast<value_t<O>*>(out.data()), out.extents(), out.strides());
  return {{input_tensor(tensor_view<const value_t<Q>, 4>(q)), input_tensor(tensor_view<const value_t<K>, 4>(k)),
           input_tensor(tensor_view<const value_t<V>, 4>(v)), heed::detail::output_tensor(written),
           heed::detail::one_axis<Q, K, V, O>},
          &row_format_of<T, value_t<Q>>,
          &row_format_of<T, value_t<K>>,
          &row_format_of<T, value_t<O>>};
}

}  // namespace HEED_ISA
}  // namespace heed::tile
