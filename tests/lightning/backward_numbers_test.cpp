// SPDX-License-Identifier: BSD-3-Clause

// Backward: subnormal numbers count as 0, and the control register of the caller is what it was.

#include "support/backward_numbers.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

template <class T> lightning_backward_case<T> make(const shape& s, bool gated) {
  return gated ? lightning_backward_case<T>(s, 2, 0) : lightning_backward_case<T>(s, {0.01, 0.4});
}

}  // namespace

TEST_CASE("backward: the control register is the caller's") {
  for (const shape& s : number_shapes)
    for (const bool gated : {false, true}) check_control_of_backward(make<float>(s, gated));
}

TEMPLATE_TEST_CASE("backward: subnormal inputs count as zeros", "[lightning]", float, double) {
  using call = lightning_backward_case<TestType>;
  using input = decltype(call::o) call::*;
  if (!flushes) return;
  for (const shape& s : number_shapes)
    for (const bool gated : {false, true})
      check_subnormal_gradients<call>([&] { return make<TestType>(s, gated); },
                                      {input(&call::q), input(&call::k), input(&call::v), input(&call::s0),
                                       input(&call::gates), input(&call::dout), input(&call::ds1)});
}
