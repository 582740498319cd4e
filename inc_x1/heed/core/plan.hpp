// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>

#include "heed/core/types.hpp"

namespace heed {

// What a call would do, or why it would throw.
struct [[nodiscard]] plan {
  std::array<char, 192> problem{};  // empty: the call would run; else the text of the error
  std::size_t workspace_bytes = 0;  // what context::workspace must hold; 0: the call allocates nothing
  const char *path = "", *isa = "";
  index_t query_tile = 0, key_tile = 0, chunk = 0, splits = 1, tasks = 0;
  std::array<char, 384> why{};  // which sizes and options chose the path, and what they cost in it

  HEED_INLINE bool ok() const noexcept { return problem[0] == 0; }
};

namespace detail {
using problem_text = decltype(plan::problem);
}

}  // namespace heed
