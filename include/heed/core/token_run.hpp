// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/types.hpp"

namespace heed::detail {

// Some tokens of a head of k or v
struct token_run {
  index_t batch, head, first, count;
};

}  // namespace heed::detail
