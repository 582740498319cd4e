// SPDX-License-Identifier: BSD-3-Clause
// Compiled once per machine, with MACHINE as its name.
#include "machine.hpp"

namespace {

using input = heed::tensor_view<const float, 4>;
using output = heed::tensor_view<float, 4>;

void forward(input q, input k, input v, output o, const heed::softmax::options<>& options, const heed::context& ctx) {
  heed::softmax::forward(q, k, v, o, options, ctx);
}

heed::plan plan(input x, output o) { return heed::softmax::plan_forward(x, x, x, o); }

}  // namespace

const machine MACHINE{forward, plan};
