// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <type_traits>
#include <utility>

#include "heed/core/config.hpp"
#include "heed/core/opaque.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {

template <class Acc> struct decay_parts {
  per_head slopes = {};
  tensor_view<const Acc, 3> log_gates = {};
  bool gated = false;  // by log_gates, else by slopes
};

}  // namespace detail

// How the memory of a head fades from one token to the next: by the factor exp(-slope), slopes >= 0 with one per head
// (+inf: the memory holds the newest token alone), or by exp(log_gate), log_gates (batch, head, seq) <= 0 in any
// strides (-inf: the sequence is cut before the token). Slopes are kept as in per_head; gates are viewed, they must
// live until the call.
template <class Acc> class decay : public detail::opaque<detail::decay_parts<Acc>> {
  using base = detail::opaque<detail::decay_parts<Acc>>;

 public:
  template <class R>
    requires detail::numbers<R>
  HEED_INLINE decay(R&& slopes) noexcept(detail::borrowable<R>)
      : base(detail::decay_parts<Acc>{.slopes = per_head(std::forward<R>(slopes))}) {}

  HEED_INLINE explicit decay(tensor_view<const Acc, 3> log_gates) noexcept
      : base(detail::decay_parts<Acc>{.log_gates = log_gates, .gated = true}) {}
};

// Of float or double: with fewer than three axes the missing ones have extent 1.
template <viewable G>
  requires detail::borrowable<G>
[[nodiscard]] HEED_INLINE decay<acc_of<G>> log_gates(G&& g) noexcept {
  return decay<acc_of<G>>(tensor_view<const acc_of<G>, 3>(g));
}

template <class G>
  requires(!detail::borrowable<G>)
decay<float> log_gates(G&&) {
  static_assert(!detail::pointer_or_null<G>,
                "heed: a pointer has no shape: heed::contiguous(pointer, {batch, heads, seq})");
  static_assert(!detail::owning_temporary<G>,
                "heed: the gates of a temporary would be gone before the call; give them a name");
  static_assert(viewable<G> || detail::pointer_or_null<G>, "heed: log_gates takes numbers (batch, head, seq)");
  return decay<float>(tensor_view<const float, 3>());
}

}  // namespace heed
