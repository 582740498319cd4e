// SPDX-License-Identifier: BSD-3-Clause

// Subnormal numbers count as 0, and the control register of the caller is what it was.

#include <atomic>

#include "support/catch.hpp"
#include "support/recurrent_numbers.hpp"

using namespace heed_test;
using heed::feature;

namespace {

constexpr feature features[] = {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor};

template <class T> linear_case<T> make(const shape& s, feature map) {
  return linear_case<T>(s, {.mask = heed::causal(), .feature = map, .normalize = map != feature::identity});
}

}  // namespace

TEST_CASE("the control register is the caller's after every verb") {
  for (const shape& s : number_shapes)
    for (const feature map : features) check_control_of_verbs(make<float>(s, map));
}

TEST_CASE("a feature map of the caller runs with both bits set, on every thread") {
  static std::atomic<int> calls, wrong;
  calls = wrong = 0;
  const auto see = [](float a) { return ++calls, wrong += (read_control() & flushing) != flushing, a; };
  linear_case<float> x(number_shapes[0], {.feature = heed::feature_map<float>(see, see), .normalize = false});
  control_executor threads{.entered = read_control()};
  x.forward();
  x.forward({.executor = threads});
  x.decode();
  CHECK(calls > 0);
  CHECK(wrong == 0);
  CHECK(threads.calls > 0);
}

TEMPLATE_TEST_CASE("subnormal inputs count as zeros", "[linear]", float, double) {
  using call = linear_case<TestType>;
  if (!flushes) return;
  for (const shape& s : number_shapes)
    for (const feature map : features)
      check_subnormal_inputs<call>([&] { return make<TestType>(s, map); },
                                   {&call::q, &call::k, &call::v, &call::s0, &call::z0});
}
