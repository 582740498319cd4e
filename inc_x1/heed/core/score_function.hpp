// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <concepts>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/opaque.hpp"
#include "heed/core/score_tile.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {

template <class Acc> struct score_parts {
  function_bytes value = {}, derivative = {};
  tile_function<Acc> map_value = nullptr;       // null: no score function
  tile_function<Acc> map_derivative = nullptr;  // null: none given, backward cannot run
};

}  // namespace detail

// s -> f(s, position), after the built-in terms; backward needs the derivative too. Functions are stored by value
// (at most 32 bytes, trivially copyable): what they refer to must live until the call.
template <class Acc> class score_function : public detail::opaque<detail::score_parts<Acc>> {
  using base = detail::opaque<detail::score_parts<Acc>>;

 public:
  HEED_INLINE score_function() noexcept {}

  template <class F>
    requires detail::score<F, Acc>
  HEED_INLINE score_function(F f) noexcept
      : base(detail::score_parts<Acc>{.value = detail::store(f), .map_value = &detail::map_scores<F, Acc>}) {}

  template <class F, class D>
    requires detail::score<F, Acc> && detail::score<D, Acc>
  HEED_INLINE score_function(F f, D df_ds) noexcept
      : base(detail::score_parts<Acc>{.value = detail::store(f),
                                      .derivative = detail::store(df_ds),
                                      .map_value = &detail::map_scores<F, Acc>,
                                      .map_derivative = &detail::map_scores<D, Acc>}) {}

 private:
  template <class F>
    requires(!detail::score<std::decay_t<F>, Acc> && !std::same_as<detail::bare<F>, score_function>)
  score_function(F&&) {
    using function = std::decay_t<F>;
    static_assert(std::is_invocable_v<const function&, Acc, const position&> ||
                      !std::is_invocable_v<function&, Acc, const position&>,
                  "heed: a score function is called through const, which a mutable lambda does not allow");
    static_assert(std::is_invocable_r_v<Acc, const function&, Acc, const position&>,
                  "heed: a score function is called as f(score, const heed::position&), const, and returns a number");
    static_assert(std::is_trivially_copyable_v<function>,
                  "heed: a score function is copied byte by byte: capture numbers, pointers or references");
    static_assert(
        sizeof(function) <= sizeof(detail::function_bytes) && alignof(function) <= alignof(detail::function_bytes),
        "heed: a score function captures at most 32 bytes: capture a pointer or reference to the rest");
  }
};

namespace detail {

// tile.scores = f(score, position); only where map_value is set.
template <class Acc> HEED_INLINE void map_value(const score_parts<Acc>& score, const score_tile<Acc>& tile) {
  score.map_value(score.value.bytes, tile);
}

// tile.scores = df/ds(score, position); only where map_derivative is set.
template <class Acc> HEED_INLINE void map_derivative(const score_parts<Acc>& score, const score_tile<Acc>& tile) {
  score.map_derivative(score.derivative.bytes, tile);
}

}  // namespace detail
}  // namespace heed
