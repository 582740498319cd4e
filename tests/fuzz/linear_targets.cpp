// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

void fuzz_linear_forward(bytes&);
void fuzz_linear_backward(bytes&);
void fuzz_linear_decode(bytes&);

const fuzz_target fuzz_targets[] = {{"linear_forward", fuzz_linear_forward},
                                    {"linear_backward", fuzz_linear_backward},
                                    {"linear_decode", fuzz_linear_decode},
                                    {nullptr, nullptr}};

}  // namespace heed_test
