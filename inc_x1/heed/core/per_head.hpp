// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/message.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

class per_head;

namespace detail {

// One axis of float or double: vectors, arrays, spans, Eigen vectors, rank-1 views, in any stride.
template <class R>
concept numbers =
    viewable<R> && axes<R> == 1 && (std::is_same_v<value_t<R>, float> || std::is_same_v<value_t<R>, double>);

// Where the numbers of a per_head are, for the time of a call.
struct per_head_view {
  const float* floats = nullptr;
  const double* doubles = nullptr;
  index_t count = 0, stride = 0;
  double all = 0;
  bool given = false, each = false;

  HEED_INLINE constexpr bool set() const noexcept { return given; }
  HEED_INLINE constexpr bool one_each() const noexcept { return each; }  // else one number for all heads
  HEED_INLINE constexpr index_t size() const noexcept { return count; }  // where one_each()
  HEED_INLINE constexpr const void* data() const noexcept {              // where one_each()
    return floats != nullptr ? static_cast<const void*>(floats) : doubles;
  }
  HEED_INLINE constexpr double at(index_t head) const noexcept {
    if (!each) return all;
    return floats != nullptr ? static_cast<double>(floats[head * stride]) : doubles[head * stride];
  }
};

}  // namespace detail

// One number for all heads, or a float or double range with one each. A range that has a name, and views, are viewed:
// they must live until the call. A temporary is copied, up to most_owned numbers; more of them are an error.
// Default-constructed, or made of a null tensor_view: "not supplied".
class per_head {
 public:
  static constexpr index_t most_owned = 128;

  HEED_INLINE constexpr per_head() noexcept {}

  template <class S>
    requires(std::is_arithmetic_v<S> && !std::is_same_v<S, bool>)
  HEED_INLINE constexpr per_head(S all) noexcept : numbers_{.all = static_cast<double>(all), .given = true} {}

  template <class R>
    requires detail::numbers<R>
  HEED_INLINE constexpr per_head(R&& each) noexcept(detail::borrowable<R>) {
    const tensor_view<const detail::value_t<R>, 1> from(static_cast<detail::lvalue<R>>(each));
    numbers_.count = from.extent(0);
    numbers_.given = numbers_.each = !detail::tensor_like<R> || from.data() != nullptr;
    if constexpr (!detail::borrowable<R>) {
      own(from);
    } else {
      if constexpr (std::is_same_v<detail::value_t<R>, float>)
        numbers_.floats = from.data();
      else
        numbers_.doubles = from.data();
      numbers_.stride = from.stride(0);
    }
  }

  HEED_INLINE constexpr bool set() const noexcept { return numbers_.set(); }
  HEED_INLINE constexpr bool one_each() const noexcept { return numbers_.one_each(); }
  HEED_INLINE constexpr index_t size() const noexcept { return numbers_.size(); }
  HEED_INLINE constexpr const void* data() const noexcept { return view().data(); }
  HEED_INLINE constexpr double at(index_t head) const noexcept { return view().at(head); }

  HEED_INLINE constexpr operator detail::per_head_view() const& noexcept { return view(); }
  operator detail::per_head_view() const&& = delete;  // what it owns would be gone

 private:
  template <class X>
    requires(detail::pointer_or_null<X> || std::is_same_v<detail::bare<X>, bool> ||
             (viewable<X> && !detail::numbers<X>))
  per_head(X&&) {
    static_assert(detail::numbers<X>, "heed: numbers per head are one number, or a range of float or double");
  }

  HEED_INLINE constexpr detail::per_head_view view() const noexcept {
    detail::per_head_view x = numbers_;
    if (owns_) x.doubles = owned_;
    return x;
  }
  template <class T> HEED_INLINE void own(const tensor_view<const T, 1>& from) {
    if (from.extent(0) > most_owned)
      detail::fail("numbers per head: a temporary has %, at most % are kept: pass an array that lives until the call",
                   from.extent(0), most_owned);
    for (index_t i = 0; i < from.extent(0); ++i) owned_[i] = from.data()[i * from.stride(0)];
    numbers_.stride = 1, owns_ = true;
  }

  detail::per_head_view numbers_ = {};
  bool owns_ = false;
  union {
    bool nothing_ = false;
    double owned_[most_owned];
  };
};

}  // namespace heed
