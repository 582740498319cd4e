// SPDX-License-Identifier: BSD-3-Clause

// What must hold of lightning attention whatever the numbers.

#include <limits>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/float_control.hpp"
#include "support/recurrent_adjoint.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

constexpr index_t n = 150, d = 20, e = 24;
constexpr shape square{1, 1, 1, n, n, d, e};

double apart(const buffer<double>& a, const buffer<double>& b) {
  double worst = 0, size = 1;
  for (index_t i = 0; i < a.size()[2]; ++i)
    for (index_t c = 0; c < a.size()[3]; ++c) {
      worst = std::max(worst, std::abs(a(0, 0, i, c) - b(0, 0, i, c)));
      size = std::max(size, std::abs(b(0, 0, i, c)));
    }
  return worst / size;
}

}  // namespace

TEST_CASE("a call split anywhere, its state carried, is the whole call") {
  for (const bool gated : {false, true})
    for (const index_t cut : {0, 1, 16, 31, 64, 100, 149, 150}) {
      const auto make = [gated] {
        return gated ? lightning_case<float>(square, 1, 9) : lightning_case<float>(square, {0.03});
      };
      lightning_case<float> x = make();
      auto between = buffer<float>::output(x.s0.size());
      for (const bool second : {false, true}) {
        const index_t first = second ? cut : 0, count = second ? n - cut : cut;
        const auto part = [&](auto view) { return heed::slice(view, 2, first, count); };
        heed::lightning::options<float> how;
        how.initial_state.s = second ? between.cview() : x.s0.cview();
        how.final_state.s = second ? x.s1.view() : between.view();
        const heed::decay<float> gates(
            heed::tensor_view<const float, 3>(gated ? &x.gates(0, 0, first) : nullptr, {1, 1, count}, {0, 0, 1}));
        run_forward<float>({part(x.q.cview()), part(x.k.cview()), part(x.v.cview()), part(x.o.view())},
                           gated ? gates : x.decay(), how, {});
      }
      const verdict result = compare(x);
      INFO(result.where);
      CHECK(result.worst <= 1);
    }
}

TEST_CASE("no decay is linear attention without features and normaliser") {
  lightning_case<double> x(square, {0.0});
  linear_case<double> y(square, {.mask = heed::causal(), .feature = heed::feature::identity, .normalize = false});
  x.forward(), y.forward();
  CHECK(apart(x.o, y.o) < 1e-14);
  CHECK(apart(x.s1, y.s1) < 1e-14);
}

TEST_CASE("orthonormal keys are read back exactly; of random ones the squared error is (n - 1) / D") {
  const shape eye{1, 1, 1, 16, 16, 16, 5};
  lightning_case<float> x(eye, {0.0});
  x.options.initial_state = {};
  x.q.fill(0), x.k.fill(0);
  for (index_t i = 0; i < 16; ++i) x.k(0, 0, i, 15 - i) = x.q(0, 0, i, 15 - i) = 1;
  x.forward();
  CHECK(same_bits(x.o, x.v));

  const index_t pairs = 24, dim = 64;
  double errors = 0;
  for (std::uint32_t round = 0; round < 40; ++round) {
    lightning_case<double> y({1, 1, 1, 2 * pairs, 2 * pairs, dim, 16}, {0.0});
    random_numbers random(round);
    y.k.randomize(random), y.v.randomize(random);
    y.options.initial_state = {};
    for (index_t i = 0; i < pairs; ++i) {  // first write n pairs, then read with their keys and write nothing
      double length = 0, value = 0;
      for (index_t c = 0; c < dim; ++c) length += y.k(0, 0, i, c) * y.k(0, 0, i, c);
      for (index_t c = 0; c < 16; ++c) value += y.v(0, 0, i, c) * y.v(0, 0, i, c);
      for (index_t c = 0; c < dim; ++c) {
        y.q(0, 0, pairs + i, c) = y.k(0, 0, i, c) /= std::sqrt(length);
        y.k(0, 0, pairs + i, c) = 0;
      }
      for (index_t c = 0; c < 16; ++c) y.v(0, 0, i, c) /= std::sqrt(value);
    }
    y.forward();
    for (index_t i = 0; i < pairs; ++i)
      for (index_t c = 0; c < 16; ++c) {
        const double error = y.o(0, 0, pairs + i, c) - y.v(0, 0, i, c);
        errors += error * error;
      }
  }
  CHECK(errors / (40.0 * pairs) == Approx((pairs - 1) / static_cast<double>(dim)).epsilon(0.1));
}

TEST_CASE("gradients of q, k, v and the initial state are forward calls, with slopes and with gates") {
  for (const index_t chunk : {0, 16}) {
    const shape s{2, 2, 2, 75, 75, 12, 20};
    const std::vector<double> slopes{0.03, 0.4};
    const heed::lightning::options<double> how{.scale = 0.5, .chunk = chunk};
    check_adjoint(
        s, how.scale,
        [&](const recurrent_call<double>& x, auto s0, auto s1, bool) {
          heed::lightning::options<double> with_states = how;
          with_states.initial_state.s = s0, with_states.final_state.s = s1;
          run_forward<double>(x, slopes, with_states, {});
        },
        [&](index_t h) { return std::exp(-slopes[static_cast<std::size_t>(h)]); },
        [&](index_t, index_t h) { return std::exp(-slopes[static_cast<std::size_t>(h)]); });

    for (const bool cuts : {false, true}) {
      auto gates = buffer<double>::input({2, 2, 76, 1});  // one more: the first of reversed time, which fades nothing
      random_numbers random(9);
      gates.each([&](double& g) {
        g = cuts && random.below(20) == 0 ? -std::numeric_limits<double>::infinity() : -0.3 * random.uniform();
      });
      for (index_t b = 0; b < 2; ++b) gates(b, 0, 75) = gates(b, 1, 75) = 0;
      check_adjoint(
          s, how.scale,
          [&](const recurrent_call<double>& x, auto s0, auto s1, bool back) {
            heed::lightning::options<double> with_states = how;
            with_states.initial_state.s = s0, with_states.final_state.s = s1;
            const auto all = gates.view3();
            const heed::decay<double> decay(heed::tensor_view<const double, 3>(
                back ? &gates(0, 0, 75) : all.data(), {2, 2, 75},
                {all.stride(0), all.stride(1), back ? -all.stride(2) : all.stride(2)}));
            run_forward<double>(x, decay, with_states, {});
          },
          [](index_t) { return 1.0; }, [&](index_t b, index_t h) { return std::exp(gates(b, h, 0)); });
    }
  }
}

TEST_CASE("linear in v; zeros in front change nothing") {
  lightning_case<double> x(square, {0.05}), twice(square, {0.05}), late(square, {0.05});
  x.options.initial_state = {}, twice.options.initial_state = {}, late.options.initial_state = {};
  twice.v.each([](double& a) { a *= 2; });
  for (index_t i = 0; i < 30; ++i)
    for (index_t c = 0; c < d; ++c) x.k(0, 0, i, c) = 0;
  x.forward();
  twice.k = mapped(x.k, [](double a) { return a; });
  twice.forward();
  CHECK(apart(twice.o, mapped(x.o, [](double a) { return 2 * a; })) == 0);
  const auto part = [&](auto view) { return heed::slice(view, 2, 30, n - 30); };
  run_forward<double>({part(x.q.cview()), part(x.k.cview()), part(x.v.cview()), part(late.o.view())}, late.decay(),
                      {.final_state = late.options.final_state}, {});
  for (index_t i = 0; i < 30; ++i)
    for (index_t c = 0; c < e; ++c) late.o(0, 0, i, c) = 0;
  CHECK(apart(late.o, x.o) < 1e-14);
}

TEST_CASE("a long silence ends in zeros, and leaves no subnormal number on the way") {
  for (const double slope : {1e-3, 0.01, 0.3, 2.0}) {
    lightning_case<float> x({1, 1, 1, 2000, 2000, 8, 8}, {slope});
    x.k.fill(0);
    for (int round = 0; round < 50; ++round) {  // 10^5 tokens
      x.options.initial_state.s = round == 0 ? x.s0.cview() : x.s1.cview();
      x.forward();
      CHECK((!flushes || none_subnormal(x.s1)));
    }
    bool zero = true;
    x.s1.each([&](float a) { zero = zero && a == 0; });
    CHECK(zero);
  }
}
