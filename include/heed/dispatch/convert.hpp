// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of convert, quantize and dequantize, into the compiled library.

#include "heed/dispatch/call.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

template <class From, class To> HEED_INLINE auto convert_of(const From& from, const To& to) {
  return dispatch::call<void, dispatch::convert>{&dispatch::verbs<void>::convert,
                                                 {dispatch::any(from), dispatch::any(to)}};
}
template <class X>
HEED_INLINE auto quantize_of(const X& x, const tensor_view<std::int8_t, 4>& q8, const tensor_view<float, 3>& scale) {
  return dispatch::call<void, dispatch::quantize>{&dispatch::verbs<void>::quantize, {dispatch::any(x), q8, scale}};
}
template <class X>
HEED_INLINE auto dequantize_of(const tensor_view<const std::int8_t, 4>& q8, const tensor_view<const float, 3>& scale,
                               const X& x) {
  return dispatch::call<void, dispatch::dequantize>{&dispatch::verbs<void>::dequantize, {dispatch::any(x), q8, scale}};
}

}  // namespace HEED_ISA
}  // namespace heed::detail
