// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

#define HEED_FUZZ_TARGETS(X) X(lightning_forward) X(lightning_backward) X(lightning_decode)
HEED_FUZZ_LIST(HEED_FUZZ_TARGETS)

}  // namespace heed_test
