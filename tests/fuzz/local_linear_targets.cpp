// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

#define HEED_FUZZ_TARGETS(X) \
  X(local_linear_forward) X(local_linear_apply) X(local_linear_backward) X(local_linear_decode)
HEED_FUZZ_LIST(HEED_FUZZ_TARGETS)

}  // namespace heed_test
