// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What linear and lightning attention do with the control register and with subnormal numbers.

#include <initializer_list>

#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "support/float_control.hpp"
#include "support/recurrent_case.hpp"

namespace heed_test {

inline constexpr shape number_shapes[] = {{2, 4, 2, 200, 200, 12, 20}, {1, 2, 1, 3, 3, 8, 9}};

// The control register is the caller's after every verb, and after an error.
template <class Case> void check_control_of_verbs(Case x) {
  check_control("forward", [&](const heed::context& where) { x.forward(where); });
  check_control("decode", [&](const heed::context& where) { x.decode(where); });
  check_control("plan_forward", [&](const heed::context& where) { CHECK(x.plan(where).ok()); });
  check_control("plan_decode", [&](const heed::context& where) { CHECK(x.plan_decode(where).ok()); });
  check_control("an error", [&](const heed::context& where) {
    auto call = x.call();
    call.v = heed::slice(call.v, 2, 0, 0);
    CHECK_THROWS_AS(x.forward(where, call), heed::error);
  });
}

// Subnormal numbers in one input of what make() returns count as zeros, in forward and in decode.
template <class Case, class Make>
void check_subnormal_inputs(const Make& make, std::initializer_list<decltype(Case::o) Case::*> inputs) {
  int number = 0;
  for (const auto input : inputs) {
    ++number;
    for (const bool token_by_token : {false, true}) {
      Case x = make(), zeroed = make();
      INFO(to_string(x.s) << ", input " << number << (token_by_token ? " of decode" : " of forward"));
      make_subnormal(x.*input, zeroed.*input);
      if (token_by_token)
        x.decode(), zeroed.decode();
      else
        check(x), check(zeroed);
      CHECK(same_bits(x.o, zeroed.o));
      CHECK((token_by_token ? same_bits(x.s0, zeroed.s0) : same_bits(x.s1, zeroed.s1)));
    }
  }
}

}  // namespace heed_test
