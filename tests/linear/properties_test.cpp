// SPDX-License-Identifier: BSD-3-Clause

// What must hold of linear attention whatever the numbers: hidden values, weights that sum to 1, gradients.

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/recurrent_adjoint.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

using heed::feature;
constexpr index_t n = 150, e = 24;
constexpr shape square{1, 2, 1, n, n, 20, e};

}  // namespace

TEST_CASE("normalised, without eps: no scale changes anything, however large or small") {
  const heed::linear::options<float> how{.mask = heed::causal(), .eps = 0};
  linear_case<float> plain({1, 2, 1, 9, 9, 20, e}, how);
  plain.forward();
  for (const double scale : {1e-60, 1e-40, 1e40, 1e60}) {
    linear_case<float> x(plain.s, how);
    x.options.scale = scale;
    x.forward();
    linear_case<float> step(plain.s, how);
    step.options.scale = scale;
    run_decode<float>(step.call(), step.memory(), step.options, {});
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 9; ++i)
        for (index_t c = 0; c < e; ++c) {
          CHECK(x.o(0, h, i, c) == Approx(plain.o(0, h, i, c)).epsilon(1e-6));
          CHECK(step.o(0, h, i, c) == Approx(plain.o(0, h, i, c)).epsilon(1e-4).margin(1e-5));
        }
  }
}

TEST_CASE("a call split anywhere, its state carried, is the whole call") {
  for (const index_t cut : {0, 1, 16, 64, 100, 149, 150}) {
    linear_case<float> x(square, {.mask = heed::causal()});
    auto s = buffer<float>::output(x.s0.size()), z = buffer<float>::output(x.z0.size());
    for (const bool second : {false, true}) {
      const auto part = [&](auto view) { return heed::slice(view, 2, second ? cut : 0, second ? n - cut : cut); };
      heed::linear::options<float> how{.mask = heed::causal()};
      if (second)
        how.initial_state = {s.cview(), z.view3()}, how.final_state = x.after();
      else
        how.initial_state = x.before(), how.final_state = {s.view(), z.view3()};
      run_forward<float>({part(x.q.cview()), part(x.k.cview()), part(x.v.cview()), part(x.o.view())}, how, {});
    }
    const verdict result = compare(x);
    INFO(result.where);
    CHECK(result.worst <= 1);
  }
}

TEST_CASE("weights sum to 1: a constant v is read back, the first token reads itself") {
  for (const feature map : {feature::elu_plus_one, feature::exp, feature::softmax, feature::taylor}) {
    linear_case<double> x(square, {.mask = heed::causal(), .feature = map, .eps = 0});
    x.options.initial_state = {};
    x.v.fill(2.5);
    x.forward();
    double worst = 0;
    x.o.each([&](double a) { worst = std::max(worst, std::abs(a - 2.5)); });
    CHECK(worst < 1e-12);
  }
}

// Reversed in time, queries that end with the keys are keys that begin with the queries: bottom_right is top_left.
TEST_CASE("gradients of q, k, v and the initial state of sums of scores are forward calls") {
  for (const bool causal : {false, true})
    for (const auto& [queries, keys] : {std::pair<index_t, index_t>{75, 75}, {40, 75}, {75, 40}})
      check_adjoint(
          {2, 2, 2, queries, keys, 12, 20}, 0.5,
          [&, mask = causal ? heed::causal() : heed::mask()](const recurrent_call<double>& x, auto s0, auto s1,
                                                             bool back) {
            heed::linear::options<double> how{.mask = mask,
                                              .align = back ? heed::top_left : heed::bottom_right,
                                              .scale = 0.5,
                                              .feature = feature::identity,
                                              .normalize = false};
            how.initial_state.s = s0, how.final_state.s = s1;
            run_forward<double>(x, how, {});
          },
          [](index_t) { return 1.0; }, [](index_t, index_t) { return 1.0; });
}

TEST_CASE("taylor is the softmax kernel up to the third order") {
  for (const double size : {0.1, 0.05}) {
    linear_case<double> x(square, {.mask = heed::causal(), .feature = feature::taylor, .eps = 0});
    x.options.initial_state = {};
    x.q.each([&](double& a) { a *= size; });
    x.k.each([&](double& a) { a *= size; });
    x.forward();
    double worst = 0, most = 0;
    for (index_t i = 0; i < n; ++i) {
      double sum = 0, value = 0;
      for (index_t j = 0; j <= i; ++j) {
        double s = 0;
        for (index_t c = 0; c < 20; ++c) s += x.q(0, 0, i, c) * x.k(0, 0, j, c);
        sum += std::exp(s), value += std::exp(s) * x.v(0, 0, j, 0);
        most = std::max(most, std::abs(s));
      }
      worst = std::max(worst, std::abs(x.o(0, 0, i, 0) - value / sum));
    }
    CHECK(worst < 2 * most * most * most / 6 * 3);
    CHECK(worst > 0);
  }
}

TEST_CASE("keys that no query sees leave the bits alone, whatever they hold") {
  const std::vector<std::int32_t> seen{60};
  for (const feature map : {feature::elu_plus_one, feature::softmax, feature::taylor})
    for (const bool causal : {false, true}) {
      const heed::linear::options<float> how{
          .mask = causal ? heed::causal() & heed::key_lengths(seen) : heed::key_lengths(seen), .feature = map};
      linear_case<float> x(square, how), y(square, how);
      for (index_t j = 60; j < n; ++j) x.k(0, 0, j, 3) = x.v(0, 0, j, 5) = std::nanf("");
      x.forward(), y.forward();
      CHECK((same_bits(x.o, y.o) && same_bits(x.s1, y.s1) && same_bits(x.z1, y.z1)));
    }
  for (const bool in_v : {false, true})
    for (const index_t at : {0, 5, 16, 63, 149}) {  // rows before a token that is not a number
      linear_case<float> x(square, {.mask = heed::causal()}), y(square, {.mask = heed::causal()});
      (in_v ? x.v : x.k)(0, 0, at, 3) = std::nanf("");
      x.forward(), y.forward();
      bool same = true;
      for (index_t h = 0; h < 2; ++h)
        same = same && std::memcmp(&x.o(0, h, 0), &y.o(0, h, 0), static_cast<std::size_t>(at * e) * sizeof(float)) == 0;
      CHECK(same);
      CHECK(std::isnan(x.o(0, 1, at, 3)));
    }
}
