// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

#define HEED_FUZZ_TARGETS(X)                                                                          \
  X(softmax_forward) X(softmax_backward) X(softmax_decode) X(softmax_merge) X(softmax_prepare)        \
  X(softmax_shared_prefix) X(mixture_of_head_forward) X(mixture_of_head_backward)                     \
  X(mixture_of_head_decode) X(mixture_of_head_route) X(sparse_query_forward)

HEED_FUZZ_LIST(HEED_FUZZ_TARGETS)

}  // namespace heed_test
