// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <concepts>

#include "heed/core/config.hpp"
#include "heed/core/opaque.hpp"
#include "heed/core/per_sequence.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {

struct alignment_parts {
  bool top_left = false;
  bool end_of_lengths = false;
  bool has_first = false;  // place(i) = first[b] + i
  per_sequence first = {};
};

}  // namespace detail

// Where query i sits on the key axis: i + M - N (bottom_right, the default), i (top_left), first_place, or
// length[b] - N + i with the key_lengths of the mask (end_of_lengths: the queries are the last of a cache's tokens).
class [[nodiscard]] alignment : public detail::opaque<detail::alignment_parts> {
 public:
  HEED_INLINE constexpr alignment() noexcept {}
  HEED_INLINE constexpr explicit alignment(const detail::alignment_parts& given) noexcept : opaque(given) {}

 private:
  template <class X>
    requires(!std::same_as<detail::bare<X>, alignment> && !std::same_as<detail::bare<X>, detail::alignment_parts>)
  constexpr alignment(X&&) {
    static_assert(std::same_as<X, alignment>,
                  "heed: align is bottom_right, top_left, end_of_lengths or first_place(lengths)");
  }
};

inline namespace HEED_ISA {

inline constexpr alignment bottom_right{}, top_left{detail::alignment_parts{.top_left = true}};
inline constexpr alignment end_of_lengths{detail::alignment_parts{.end_of_lengths = true}};

// place(i) = per_sequence[b] + i
inline alignment first_place(const per_sequence& each) noexcept {
  return alignment(detail::alignment_parts{.has_first = true, .first = each});
}

}  // namespace HEED_ISA
}  // namespace heed
