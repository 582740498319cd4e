// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0, and the control register of the caller is what it was.

#include <atomic>
#include <string>

#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/float_control.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

// Queries in lanes, few rows, one number
constexpr shape shapes[] = {{1, 4, 2, 150, 130, 20, 12}, {2, 3, 1, 2, 70, 8, 9}, {1, 1, 1, 1, 1, 1, 1}};

template <class T> void merge(softmax_case<T>& x, const softmax_case<T>& part) {
  run_merge<T>(x.o.view(), x.lse.view3(), part.o.cview(), part.lse.view3(), -0.5);
}

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : shapes) {
    softmax_case<float> x(s, {.mask = heed::causal()});
    softmax_case<double> wide(s), wide_part(s);
    softmax_case<float> part(s);
    check_control("forward", [&](const heed::context& where) { x.forward(where); });
    check_control("forward in double", [&](const heed::context& where) { wide.forward(where); });
    check_control("plan_forward", [&](const heed::context& where) { CHECK(x.plan(where).ok()); });
    check_control("merge", [&](const heed::context&) { merge(x, part), merge(wide, wide_part); });
    check_control("an error", [&](const heed::context& where) {
      CHECK_THROWS_AS(
          run_forward<float>(x.q.cview(), x.k.cview(), heed::slice(x.v.cview(), 2, 0, 0), x.o.view(), x.options, where),
          heed::error);
    });
  }
}

TEST_CASE("flags that a call raises stay raised") {
  softmax_case<float> x(shapes[0]);
  const float_control own = read_control();
  write_control(own & ~raised);
  x.forward();
  const float_control after = read_control();
  write_control(own);
  CHECK((after & inexact) == inexact);
  CHECK(((after ^ own) & ~raised) == 0);
}

TEST_CASE("functions of the caller run with both bits set, on every thread") {
  for (const shape& s : shapes) {
    static std::atomic<int> calls, wrong;
    calls = wrong = 0;
    const auto see = [] { ++calls, wrong += (read_control() & flushing) != flushing; };
    softmax_case<float> x(s, {.score = [see](float score, const heed::position&) { return see(), score; }});
    x.options.mask = heed::visible_if([see](const heed::position&) { return see(), true; });
    control_executor threads{.entered = read_control()};
    x.forward();
    x.forward({.executor = threads});
    CHECK(calls >= 4 * s.batch * s.queries * s.keys);
    CHECK(wrong == 0);
    CHECK(threads.calls > 0);
  }
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[softmax]", float, double) {
  using T = TestType;
  if (!flushes) return;
  for (const shape& s : shapes)
    for (const std::string which : {"q", "k", "v", "bias"}) {
      INFO(to_string(s) << ", " << which);
      softmax_case<T> x(s), zeroed(s);
      auto bias = buffer<T>::input({1, 1, s.queries, s.keys}), no_bias = buffer<T>::input(bias.size());
      random_numbers random(5);
      bias.randomize(random);
      make_subnormal(bias, no_bias);
      if (which == "q") make_subnormal(x.q, zeroed.q);
      if (which == "k") make_subnormal(x.k, zeroed.k);
      if (which == "v") make_subnormal(x.v, zeroed.v);
      if (which == "bias") x.options.bias = bias.cview(), zeroed.options.bias = no_bias.cview();
      check(x), check(zeroed);
      CHECK((same_bits(x.o, zeroed.o) && same_bits(x.lse, zeroed.lse)));
      softmax_case<T> joined(s), joined_zeroed(s);
      joined.forward(), joined_zeroed.forward();
      make_subnormal(x.o, zeroed.o);
      merge(joined, x), merge(joined_zeroed, zeroed);
      CHECK(same_bits(joined.o, joined_zeroed.o));
    }
}

TEMPLATE_TEST_CASE("results below the smallest normal number are 0", "[softmax]", float, double) {
  using T = TestType;
  if (!flushes) return;
  for (const shape& s : shapes) {
    softmax_case<T> x(s), part(s);
    x.v.each([](T& a) { a *= std::numeric_limits<T>::min(); });
    x.forward();
    CHECK(none_subnormal(x.o));
    part.forward();
    part.o.fill(std::numeric_limits<T>::min()), x.o.fill(std::numeric_limits<T>::min() / 2);
    merge(x, part);
    CHECK(none_subnormal(x.o));
  }
}
