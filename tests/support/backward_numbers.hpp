// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What backward of linear and lightning attention does with the control register and with subnormal numbers.

#include <initializer_list>

#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "support/lightning_backward_case.hpp"
#include "support/recurrent_numbers.hpp"

namespace heed_test {

template <class Case> void check_control_of_backward(Case x) {
  x.forward();
  check_control("backward", [&](const heed::context& where) { x.backward(where); });
  check_control("plan_backward", [&](const heed::context& where) { CHECK(x.plan_backward(where).ok()); });
  x.asked.dv = heed::slice(x.asked.dv, 2, 0, 1);
  check_control("an error", [&](const heed::context& where) { CHECK_THROWS_AS(x.backward(where), heed::error); });
}

// Subnormal numbers in one input of what make() returns count as zeros.
template <class Case, class Make>
void check_subnormal_gradients(const Make& make, std::initializer_list<decltype(Case::o) Case::*> inputs) {
  int number = 0;
  for (const auto input : inputs) {
    Case x = make(), zeroed = make();
    INFO(to_string(x.s) << ", input " << ++number);
    x.forward(), zeroed.forward();
    make_subnormal(x.*input, zeroed.*input);
    x.backward(), zeroed.backward();
    CHECK(same_gradients(x, zeroed));
  }
}

}  // namespace heed_test
