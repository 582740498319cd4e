// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {
namespace detail {

// One axis of float or double: vectors, arrays, spans, Eigen vectors, rank-1 views, in any stride.
template <class R> concept numbers = viewable<R> && axes<R>
== 1 && (std::is_same_v<value_t<R>, float> || std::is_same_v<value_t<R>, double>);

}  // namespace detail

// One number for all heads, or a float or double range with one each. The range is viewed, not copied: it must live
// until the call that reads it. Default-constructed, or made of a null tensor_view: "not supplied".
class per_head {
 public:
  HEED_INLINE constexpr per_head() noexcept {}

  template <class S>
  requires std::is_arithmetic_v<S> HEED_INLINE constexpr per_head(S all) noexcept
      : all_(static_cast<double>(all)), set_(true) {}

  template <class R>
  requires detail::numbers<R> && detail::borrowable<R> HEED_INLINE constexpr per_head(R&& each) noexcept {
    const tensor_view<const detail::value_t<R>, 1> numbers(each);
    if constexpr (std::is_same_v<detail::value_t<R>, float>)
      floats_ = numbers.data();
    else
      doubles_ = numbers.data();
    count_ = numbers.extent(0);
    stride_ = numbers.stride(0);
    set_ = one_each_ = !detail::tensor_like<R> || numbers.data() != nullptr;
  }

  HEED_INLINE constexpr bool set() const noexcept { return set_; }
  HEED_INLINE constexpr bool one_each() const noexcept { return one_each_; }  // else one number for all heads
  HEED_INLINE constexpr index_t size() const noexcept { return count_; }      // where one_each()
  HEED_INLINE constexpr const void* data() const noexcept {                   // where one_each()
    return floats_ != nullptr ? static_cast<const void*>(floats_) : doubles_;
  }
  HEED_INLINE constexpr double at(index_t head) const noexcept {
    if (!one_each_) return all_;
    return floats_ != nullptr ? static_cast<double>(floats_[head * stride_]) : doubles_[head * stride_];
  }

 private:
  const float* floats_ = nullptr;
  const double* doubles_ = nullptr;
  index_t count_ = 0, stride_ = 0;
  double all_ = 0;
  bool set_ = false, one_each_ = false;
};

}  // namespace heed
