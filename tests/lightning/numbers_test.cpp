// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0, and the control register of the caller is what it was.

#include <string>

#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/float_control.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{2, 4, 2, 200, 200, 12, 20}, {1, 2, 1, 3, 3, 8, 9}};

template <class T> lightning_case<T> make(const shape& s, bool gated) {
  return gated ? lightning_case<T>(s, 2, 0) : lightning_case<T>(s, {0.01, 0.4});
}
template <class T> void decode(lightning_case<T>& x, const heed::context& where) {
  run_decode<T>(x.call(), x.decay(), x.memory(), x.options, where);
}

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : shapes)
    for (const bool gated : {false, true}) {
      lightning_case<float> x = make<float>(s, gated);
      check_control("forward", [&](const heed::context& where) { x.forward(where); });
      check_control("decode", [&](const heed::context& where) { decode(x, where); });
      check_control("plan_forward", [&](const heed::context& where) { CHECK(x.plan(where).ok()); });
      check_control("plan_decode", [&](const heed::context& where) {
        CHECK(run_plan_decode<float>(x.call(), x.decay(), x.memory(), x.options, where).ok());
      });
      check_control("an error", [&](const heed::context& where) {
        recurrent_call<float> call = x.call();
        call.v = heed::slice(call.v, 2, 0, 0);
        CHECK_THROWS_AS(run_forward<float>(call, x.decay(), x.options, where), heed::error);
      });
    }
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[lightning]", float, double) {
  using T = TestType;
  if (!flushes) return;
  for (const shape& s : shapes)
    for (const bool gated : {false, true})
      for (const bool token_by_token : {false, true})
        for (const std::string which : {"q", "k", "v", "s0", "gates"}) {
          INFO(to_string(s) << ", " << which << gated << token_by_token);
          lightning_case<T> x = make<T>(s, gated), zeroed = make<T>(s, gated);
          if (which == "q") make_subnormal(x.q, zeroed.q);
          if (which == "k") make_subnormal(x.k, zeroed.k);
          if (which == "v") make_subnormal(x.v, zeroed.v);
          if (which == "s0") make_subnormal(x.s0, zeroed.s0);
          if (which == "gates") make_subnormal(x.gates, zeroed.gates);
          if (token_by_token)
            decode(x, {}), decode(zeroed, {});
          else
            check(x), check(zeroed);
          CHECK(same_bits(x.o, zeroed.o));
          CHECK((token_by_token ? same_bits(x.s0, zeroed.s0) : same_bits(x.s1, zeroed.s1)));
        }
}
