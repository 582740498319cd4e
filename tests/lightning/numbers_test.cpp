// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0, and the control register of the caller is what it was.

#include "support/catch.hpp"
#include "support/recurrent_numbers.hpp"

using namespace heed_test;

namespace {

template <class T> lightning_case<T> make(const shape& s, bool gated) {
  return gated ? lightning_case<T>(s, 2, 0) : lightning_case<T>(s, {0.01, 0.4});
}

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : number_shapes)
    for (const bool gated : {false, true}) check_control_of_verbs(make<float>(s, gated));
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[lightning]", float, double) {
  using call = lightning_case<TestType>;
  if (!flushes) return;
  for (const shape& s : number_shapes)
    for (const bool gated : {false, true})
      check_subnormal_inputs<call>([&] { return make<TestType>(s, gated); },
                                   {&call::q, &call::k, &call::v, &call::s0, &call::gates});
}
