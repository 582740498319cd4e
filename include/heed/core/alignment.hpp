// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <concepts>

#include "heed/core/config.hpp"
#include "heed/core/per_sequence.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

class alignment;

namespace detail {

struct alignment_parts {
  bool top_left = false;
  bool end_of_lengths = false;
  bool has_first = false;  // place(i) = first[b] + i
  per_sequence first = {};
};

HEED_INLINE constexpr const alignment_parts& parts(const alignment& align) noexcept;

}  // namespace detail

// Where query i sits on the key axis: i + M - N (bottom_right, the default), i (top_left), first_place, or
// length[b] - N + i with the key_lengths of the mask (end_of_lengths: the queries are the last of a cache's tokens).
class [[nodiscard]] alignment {
 public:
  HEED_INLINE constexpr alignment() noexcept {}
  HEED_INLINE constexpr explicit alignment(const detail::alignment_parts& parts) noexcept : parts_(parts) {}

 private:
  template <class X>
    requires(!std::same_as<detail::bare<X>, alignment> && !std::same_as<detail::bare<X>, detail::alignment_parts>)
  constexpr alignment(X&&) {
    static_assert(std::same_as<X, alignment>,
                  "heed: align is bottom_right, top_left, end_of_lengths or first_place(lengths)");
  }
  friend constexpr const detail::alignment_parts& detail::parts(const alignment& align) noexcept;
  detail::alignment_parts parts_;
};

namespace detail {

HEED_INLINE constexpr const alignment_parts& parts(const alignment& align) noexcept { return align.parts_; }

}  // namespace detail

inline namespace HEED_ISA {

inline constexpr alignment bottom_right{}, top_left{detail::alignment_parts{.top_left = true}};
inline constexpr alignment end_of_lengths{detail::alignment_parts{.end_of_lengths = true}};

// place(i) = per_sequence[b] + i
inline alignment first_place(const per_sequence& each) noexcept {
  return alignment(detail::alignment_parts{.has_first = true, .first = each});
}

}  // namespace HEED_ISA
}  // namespace heed
