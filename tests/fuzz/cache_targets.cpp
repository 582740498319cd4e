// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

#define HEED_FUZZ_TARGETS(X) X(cache_append) X(softmax_prepare_decode) X(convert) X(quantize)
HEED_FUZZ_LIST(HEED_FUZZ_TARGETS)

}  // namespace heed_test
