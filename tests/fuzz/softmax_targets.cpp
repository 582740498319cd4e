// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

void fuzz_softmax_forward(bytes&);
void fuzz_softmax_backward(bytes&);
void fuzz_softmax_prepare(bytes&);
void fuzz_softmax_merge(bytes&);

const fuzz_target fuzz_targets[] = {{"softmax_forward", fuzz_softmax_forward},
                                    {"softmax_backward", fuzz_softmax_backward},
                                    {"softmax_prepare", fuzz_softmax_prepare},
                                    {"softmax_merge", fuzz_softmax_merge},
                                    {nullptr, nullptr}};

}  // namespace heed_test
