// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of numbers to 8-bit integers with a scale each, and back.

#include <cstdint>
#include <type_traits>

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/view.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/convert.hpp"
#else
#include "heed/convert/quantize_call.hpp"
#endif

namespace heed {
namespace detail {
inline namespace HEED_ISA {

template <viewable X> constexpr bool int8_numbers() {
  static_assert(axes<X> <= 4, "heed: a tensor has at most 4 axes: (batch, head, seq, dim)");
  static_assert(is_storage<value_t<X>> && std::is_same_v<acc_of<X>, float>,
                "heed: numbers of std::int8_t are made of, and made to, float, heed::bf16_t or heed::f16_t");
  return true;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Rounds every row of x (B, H, N, D) to integers q8 (B, H, N, D) with one scale (B, H, N): x = q8 * scale, scale =
// max |x| / 127, |x - q8 * scale| <= scale / 2 but for rounding. A NaN or infinity stays visible: a row with a NaN has
// scale NaN; a row with an infinity has scale infinity, 127 of their sign for its infinities, and 0, which reads back
// as NaN, for its other numbers. A row of numbers below 127 * 2^-126 has scale 0. x: float, bf16_t or f16_t, any
// strides; rows of q8 are contiguous. Throws heed::error, before anything is written, where shapes or memory do not
// fit.
template <viewable X>
void quantize(const X& x, tensor_view<std::int8_t, 4> q8, tensor_view<float, 3> scale, const context& context = {}) {
  static_assert(detail::int8_numbers<X>());
  tile::run_call(detail::quantize_of(x, q8, scale), context);
}

// Writes q8 * scale to x (B, H, N, D), rounded once to its type: float, bf16_t or f16_t, rows contiguous.
template <viewable X>
void dequantize(tensor_view<const std::int8_t, 4> q8, tensor_view<const float, 3> scale, X&& x,
                const context& context = {}) {
  static_assert(detail::writable<X>, "heed: x is written, it cannot be const or an owning temporary");
  static_assert(detail::int8_numbers<X>());
  tile::run_call(detail::dequantize_of(q8, scale, x), context);
}

}  // namespace HEED_ISA
}  // namespace heed
