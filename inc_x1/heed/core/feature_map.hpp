// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <concepts>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/opaque.hpp"
#include "heed/core/score_tile.hpp"
#include "heed/core/types.hpp"

namespace heed {

// elu_plus_one: x + 1 above 0, exp(x) below. softmax: over the feature axis. taylor: the D' = 1 + D + D^2 features
// 1, x_a, x_a x_b / sqrt 2 (a outer), whose product is 1 + s + s^2 / 2; nothing is scaled inside.
enum class feature { identity, elu_plus_one, relu, relu_squared, silu, exp, softmax, taylor };

namespace detail {

template <class F, class Acc> concept elementwise = stored_function<F> && std::is_invocable_r_v<Acc, const F&, Acc>;

template <class Acc> using row_function = void (*)(const void* function, Acc* x, index_t count);

template <class Acc> struct feature_parts {
  feature built_in = feature::identity;  // where map_value is null
  function_bytes value = {}, derivative = {};
  row_function<Acc> map_value = nullptr, map_derivative = nullptr;  // x = f(x)
};

inline namespace HEED_ISA {

template <class F, class Acc> void map_elements(const void* function, Acc* x, index_t count) {
  const F& f = *static_cast<const F*>(function);
  for (index_t i = 0; i < count; ++i) x[i] = static_cast<Acc>(f(x[i]));
}

}  // namespace HEED_ISA
}  // namespace detail

// What queries and keys go through first. Functions of the caller's work element by element and are stored by value (at
// most 32 bytes, trivially copyable): what they refer to must live until the call.
template <class Acc> class feature_map : public detail::opaque<detail::feature_parts<Acc>> {
  using base = detail::opaque<detail::feature_parts<Acc>>;

 public:
  HEED_INLINE feature_map(feature built_in) noexcept : base(detail::feature_parts<Acc>{.built_in = built_in}) {}

  template <class F, class D>
    requires detail::elementwise<F, Acc> && detail::elementwise<D, Acc>
  HEED_INLINE feature_map(F value, D derivative) noexcept
      : base(detail::feature_parts<Acc>{.value = detail::store(value),
                                        .derivative = detail::store(derivative),
                                        .map_value = &detail::map_elements<F, Acc>,
                                        .map_derivative = &detail::map_elements<D, Acc>}) {}
};

namespace detail {

template <class Acc> HEED_INLINE constexpr index_t feature_dim(const feature_parts<Acc>& map, index_t d) noexcept {
  return map.map_value == nullptr && map.built_in == feature::taylor ? 1 + d + d * d : d;
}

}  // namespace detail
}  // namespace heed
