// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

#define HEED_FUZZ_TARGETS(X) X(linear_forward) X(linear_backward) X(linear_decode)
HEED_FUZZ_LIST(HEED_FUZZ_TARGETS)

}  // namespace heed_test
