// SPDX-License-Identifier: BSD-3-Clause

#include "fuzz/target.hpp"

namespace heed_test {

void fuzz_lightning_forward(bytes&);
void fuzz_lightning_backward(bytes&);
void fuzz_lightning_decode(bytes&);

const fuzz_target fuzz_targets[] = {{"lightning_forward", fuzz_lightning_forward},
                                    {"lightning_backward", fuzz_lightning_backward},
                                    {"lightning_decode", fuzz_lightning_decode},
                                    {nullptr, nullptr}};

}  // namespace heed_test
