// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/convert.hpp"
#else
#include "heed/convert/tensor_call.hpp"
#endif

namespace heed {
namespace detail {
inline namespace HEED_ISA {

template <viewable X, viewable Y> constexpr bool convertible_tensors() {
  static_assert(axes<X> <= 4 && axes<Y> <= 4, "heed: a tensor has at most 4 axes: (batch, head, seq, dim)");
  static_assert(storage<value_t<X>> && storage<value_t<Y>>,
                "heed: convert takes float, double and 16-bit floating-point numbers");
  return true;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Says what convert would do with the same arguments, or why it would throw; never throws itself.
template <viewable From, viewable To>
plan plan_convert(const From& from, const To& to, const context& context = {}) noexcept {
  static_assert(detail::convertible_tensors<From, To>());
  return tile::plan_call(detail::convert_of(from, to), context);
}

// Writes the numbers of `from` to `to`, of the same shape: each float, double, bf16_t, f16_t or what heed views as
// these, any strides. Rounds each number once, to nearest even; NaN stays NaN, too large a number becomes infinity.
// Numbers that are subnormal in float (from double to double: in double) count as 0 of their sign; f16's own are kept.
// `to` may be `from` itself where elements have one size and strides are equal; it must not overlap otherwise. Throws
// heed::error, before anything is written, where shapes or memory do not fit.
template <viewable From, viewable To> void convert(const From& from, To&& to, const context& context = {}) {
  static_assert(detail::writable<To>, "heed: `to` is written, it cannot be const or an owning temporary");
  static_assert(detail::convertible_tensors<From, To>());
  tile::run_call(detail::convert_of(from, to), context);
}

// Refuses a pointer in place of a tensor.
template <class From, class To>
  requires detail::any_pointer<From, To>
void convert(const From&, const To&, const context& = {}) {
  static_assert(detail::no_pointers<From, To>());
}

}  // namespace HEED_ISA
}  // namespace heed
