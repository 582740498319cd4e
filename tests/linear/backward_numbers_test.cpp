// SPDX-License-Identifier: BSD-3-Clause

// Backward: subnormal numbers count as 0, and the control register of the caller is what it was.

#include <atomic>

#include "support/backward_numbers.hpp"
#include "support/catch.hpp"

using namespace heed_test;
using heed::feature;

namespace {

constexpr feature features[] = {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor};

template <class T> linear_backward_case<T> make(const shape& s, feature map) {
  return linear_backward_case<T>(s, {.mask = heed::causal(), .feature = map, .normalize = map != feature::identity});
}

}  // namespace

TEST_CASE("backward: the control register is the caller's") {
  for (const shape& s : number_shapes)
    for (const feature map : features) check_control_of_backward(make<float>(s, map));
}

TEST_CASE("backward: a feature map of the caller and its derivative run with both bits set, on every thread") {
  static std::atomic<int> calls, wrong;
  calls = wrong = 0;
  const auto see = [](float a) { return ++calls, wrong += (read_control() & flushing) != flushing, a; };
  linear_backward_case<float> x(number_shapes[0], {.feature = heed::feature_map<float>(see, see), .normalize = false});
  control_executor threads{.entered = read_control()};
  x.backward();
  x.backward({.executor = threads});
  CHECK(calls > 0);
  CHECK(wrong == 0);
  CHECK(threads.calls > 0);
}

TEMPLATE_TEST_CASE("backward: subnormal inputs count as zeros", "[linear]", float, double) {
  using call = linear_backward_case<TestType>;
  using input = decltype(call::o) call::*;
  if (!flushes) return;
  for (const shape& s : number_shapes)
    for (const feature map : features)
      check_subnormal_gradients<call>(
          [&] { return make<TestType>(s, map); },
          {input(&call::q), input(&call::k), input(&call::v), input(&call::o), input(&call::s0), input(&call::z0),
           input(&call::dout), input(&call::ds1), input(&call::dz1)});
}
