// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "heed/core/config.hpp"

namespace heed::reference::detail {
inline namespace HEED_ISA {

// x, read from or about to be written to a T: 0 of its sign where it is subnormal in the type that the kernels sum in
// (double for double, else float), as they have it. Between the two the references compute in double.
template <class T, class Real> Real normal_or_zero(Real x) {
  using sums = std::conditional_t<std::is_same_v<std::remove_const_t<T>, double>, double, float>;
  return std::abs(x) < static_cast<Real>(std::numeric_limits<sums>::min()) ? std::copysign(Real(0), x) : x;
}

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
