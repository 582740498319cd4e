// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/config.hpp"

namespace heed::detail {

// The base of option types that callers make by functions and cannot look into: mask, alignment, decay, ...
// parts(x) is what the kernels read.
template <class Parts> class opaque {
 public:
  HEED_INLINE constexpr opaque() noexcept {}
  HEED_INLINE constexpr explicit opaque(const Parts& given) noexcept : parts_(given) {}

  template <class P> friend constexpr const P& parts(const opaque<P>& x) noexcept;
  template <class P> friend constexpr P& parts_to_set(opaque<P>& x) noexcept;

 private:
  Parts parts_ = {};
};

template <class P> HEED_INLINE constexpr const P& parts(const opaque<P>& x) noexcept { return x.parts_; }
template <class P> HEED_INLINE constexpr P& parts_to_set(opaque<P>& x) noexcept { return x.parts_; }

}  // namespace heed::detail
