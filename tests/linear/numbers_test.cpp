// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0, and the control register of the caller is what it was.

#include <atomic>
#include <string>

#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/float_control.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;
using heed::feature;

namespace {

constexpr shape shapes[] = {{2, 4, 2, 200, 200, 12, 20}, {1, 2, 1, 3, 3, 8, 9}};

constexpr feature features[] = {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor};

template <class T> linear_case<T> make(const shape& s, feature map) {
  return linear_case<T>(s, {.mask = heed::causal(), .feature = map, .normalize = map != feature::identity});
}
template <class T> void decode(linear_case<T>& x, const heed::context& where) {
  run_decode<T>(x.call(), x.memory(), x.options, where);
}

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : shapes)
    for (const feature map : features) {
      linear_case<float> x = make<float>(s, map);
      check_control("forward", [&](const heed::context& where) { x.forward(where); });
      check_control("decode", [&](const heed::context& where) { decode(x, where); });
      check_control("plan_forward", [&](const heed::context& where) { CHECK(x.plan(where).ok()); });
      check_control("plan_decode", [&](const heed::context& where) {
        CHECK(run_plan_decode<float>(x.call(), x.memory(), x.options, where).ok());
      });
      check_control("an error", [&](const heed::context& where) {
        recurrent_call<float> call = x.call();
        call.v = heed::slice(call.v, 2, 0, 0);
        CHECK_THROWS_AS(run_forward<float>(call, x.options, where), heed::error);
      });
    }
}

TEST_CASE("a feature map of the caller runs with both bits set, on every thread") {
  static std::atomic<int> calls, wrong;
  calls = wrong = 0;
  const auto see = [](float a) { return ++calls, wrong += (read_control() & flushing) != flushing, a; };
  linear_case<float> x(shapes[0], {.feature = heed::feature_map<float>(see, see), .normalize = false});
  control_executor threads{.entered = read_control()};
  x.forward();
  x.forward({.executor = threads});
  decode(x, {});
  CHECK(calls > 0);
  CHECK(wrong == 0);
  CHECK(threads.calls > 0);
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[linear]", float, double) {
  using T = TestType;
  if (!flushes) return;
  for (const shape& s : shapes)
    for (const feature map : features)
      for (const bool token_by_token : {false, true})
        for (const std::string which : {"q", "k", "v", "s0", "z0"}) {
          INFO(to_string(s) << ", " << which << static_cast<int>(map) << token_by_token);
          linear_case<T> x = make<T>(s, map), zeroed = make<T>(s, map);
          if (which == "q") make_subnormal(x.q, zeroed.q);
          if (which == "k") make_subnormal(x.k, zeroed.k);
          if (which == "v") make_subnormal(x.v, zeroed.v);
          if (which == "s0") make_subnormal(x.s0, zeroed.s0);
          if (which == "z0") make_subnormal(x.z0, zeroed.z0);
          if (token_by_token)
            decode(x, {}), decode(zeroed, {});
          else
            check(x), check(zeroed);
          CHECK(same_bits(x.o, zeroed.o));
          CHECK((token_by_token ? same_bits(x.s0, zeroed.s0) : same_bits(x.s1, zeroed.s1)));
        }
}
