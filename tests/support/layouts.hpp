// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "support/buffer.hpp"

namespace heed_test {

// How the tensors of a call lie in memory.
struct layouts {
  layout q = layout::bhsd, k = layout::bhsd, v = layout::bhsd, o = layout::bhsd, lse = layout::bhsd;
  index_t skew = 0;  // elements by which every tensor is off a 64-byte boundary
};

}  // namespace heed_test
