// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/core/view.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/softmax.hpp"
#else
#include "heed/softmax/merge_call.hpp"
#endif

namespace heed::softmax {
inline namespace HEED_ISA {

// (o, lse) joined with (part, part_lse + log_weight): what attention over both sets of keys gives, for keys split in
// any way. o, part: (B, H, N, E); lse, part_lse: (B, H, N), natural log. A part without keys (lse = -inf)
// changes nothing. Throws heed::error where shapes differ, an output is an input, or log_weight is NaN or +inf.
template <viewable O, viewable L, viewable P, viewable R>
void merge(O&& o, L&& lse, const P& part, const R& part_lse, double log_weight = 0) {
  using T = heed::detail::value_t<O>;
  static_assert(heed::detail::writable<O> && heed::detail::writable<L>, "heed: o and lse are written");
  detail::merge<T>(tensor_view<T, 4>(o), tensor_view<T, 3>(lse), tensor_view<const T, 4>(part),
                   tensor_view<const T, 3>(part_lse), log_weight);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
