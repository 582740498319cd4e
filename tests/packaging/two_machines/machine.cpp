// SPDX-License-Identifier: BSD-3-Clause
// Compiled once per machine, with MACHINE as its name.
#include "machine.hpp"

const machine MACHINE{[](heed::tensor_view<const float, 4> q, heed::tensor_view<const float, 4> k,
                         heed::tensor_view<const float, 4> v, heed::tensor_view<float, 4> o,
                         const heed::softmax::options<>& options,
                         const heed::context& context) { heed::softmax::forward(q, k, v, o, options, context); },
                      [](heed::tensor_view<const float, 4> x, heed::tensor_view<float, 4> o) {
                        return heed::softmax::plan_forward(x, x, x, o);
                      }};
