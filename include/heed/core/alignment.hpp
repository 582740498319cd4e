// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed {

class alignment;

namespace detail {

struct alignment_parts {
  bool top_left = false;
  bool end_of_lengths = false;
  bool has_first = false;  // place(i) = first[b] + i
  heed::lengths first = {};
};

HEED_INLINE constexpr const alignment_parts& parts(const alignment& align) noexcept;

}  // namespace detail

// Where query i sits on the key axis: i + M - N (bottom_right, the default), i (top_left), first_place, or
// length[b] - N + i with the key_lengths of the mask (end_of_lengths: the queries are the last of a cache's tokens).
class alignment {
 public:
  HEED_INLINE constexpr alignment(bool top_left = false) noexcept : parts_{.top_left = top_left} {}
  HEED_INLINE constexpr explicit alignment(const detail::alignment_parts& parts) noexcept : parts_(parts) {}

 private:
  friend constexpr const detail::alignment_parts& detail::parts(const alignment& align) noexcept;
  detail::alignment_parts parts_;
};

namespace detail {

HEED_INLINE constexpr const alignment_parts& parts(const alignment& align) noexcept { return align.parts_; }

}  // namespace detail

inline namespace HEED_ISA {

inline constexpr alignment bottom_right{}, top_left{true};
inline constexpr alignment end_of_lengths{detail::alignment_parts{.end_of_lengths = true}};

// place(i) = per_sequence[b] + i
inline alignment first_place(lengths per_sequence) noexcept {
  return alignment(detail::alignment_parts{.has_first = true, .first = per_sequence});
}

}  // namespace HEED_ISA
}  // namespace heed
