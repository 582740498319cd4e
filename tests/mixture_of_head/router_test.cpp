// SPDX-License-Identifier: BSD-3-Clause

// The routers: the golden cases, closed forms, random logits beside the reference, and properties.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/reference/mixture_of_head.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/golden_mixture.hpp"
#include "support/mixture_run.hpp"

using namespace heed_test;
using heed::mixture_of_head::routing;

namespace {

namespace reference = heed::reference::mixture_of_head;
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

template <class T> void run_golden() {
  const golden_file file("mixture_of_head");
  REQUIRE(file.cases().size() == 15);
  int routings = 0, losses = 0;
  for (const std::string& name : file.cases()) {
    if (!has_routing(file, name)) continue;
    INFO(name);
    ++routings;
    golden_router<T> x(file, name);
    if (x.by_norm) {
      run_route_by_norm<T>(x.q.template cview<4>(), x.how, x.gates.template view<3>());
    } else {
      const double loss = run_route_trained<T>(logits_view(x.routed), logits_view(x.shared), logits_view(x.mix), x.how,
                                               x.gates.template view<3>());
      losses += x.has_loss;
      CHECK(std::abs(loss - x.loss) <= (std::is_same_v<T, double> ? 1e-12 : 1e-5) * std::max(1.0, x.loss));
    }
    CHECK(x.right());
  }
  CHECK((routings == 10 && losses == 7));
}

// Logits of B 2, N 9; seed 0: many ties
struct token_logits {
  buffer<double> routed, shared, mix;
  token_logits(index_t routed_heads, index_t shared_heads, std::uint32_t seed)
      : routed(buffer<double>::input({2, routed_heads, 9, 1}, layout::bshd)),
        shared(buffer<double>::input({2, shared_heads, 9, 1}, layout::reversed_rows)),
        mix(buffer<double>::input({2, 2, 9, 1})) {
    random_numbers random(seed + 1);
    for (auto* x : {&routed, &shared, &mix}) x->randomize(random);
    if (seed == 0)
      for (auto* x : {&routed, &shared, &mix}) x->each([&](double& l) { l = std::round(l); });
  }
};

}  // namespace

TEST_CASE("golden routings in float") { run_golden<float>(); }
TEST_CASE("golden routings in double") { run_golden<double>(); }

TEST_CASE("trained: beside the reference, for every number of heads, with ties") {
  for (const index_t shared : {0, 1, 2, 5})
    for (const index_t routed : {0, 1, 2, 3, 8})
      for (index_t active = routed == 0 ? 0 : 1; active <= routed; ++active)
        for (const std::uint32_t seed : {0u, 1u, 2u}) {
          if (shared + routed == 0) continue;
          INFO(shared << " shared, " << active << " of " << routed << ", seed " << seed);
          const token_logits x(routed, shared, seed);
          const auto got = buffer<double>::output({2, shared + routed, 9, 1}, layout::bshd),
                     expected = buffer<double>::output(got.size());
          const routing how{.shared = shared, .active = active};
          const double loss =
              run_route_trained<double>(x.routed.view3(), x.shared.view3(), x.mix.view3(), how, got.view3());
          const double expected_loss =
              reference::route_trained(x.routed.view3(), x.shared.view3(), x.mix.view3(), how, expected.view3());
          double worst = std::abs(loss - expected_loss);
          for (index_t b = 0; b < 2; ++b)
            for (index_t i = 0; i < 9; ++i) {
              double routed_sum = 0, shared_sum = 0, alpha = 2;
              index_t on = 0;
              for (index_t h = 0; h < shared + routed; ++h) {
                worst = std::max(worst, std::abs(got(b, h, i) - expected(b, h, i)));
                CHECK((got(b, h, i) == 0) == (expected(b, h, i) == 0));
                (h < shared ? shared_sum : routed_sum) += got(b, h, i);
                on += h >= shared && got(b, h, i) != 0;
              }
              CHECK(on == active);  // exactly so many
              // the kept gates sum to alpha_1 K, the shared ones to alpha_0 S, and alpha_0 + alpha_1 = 2
              if (shared > 0 && routed > 0) {
                alpha = shared_sum / static_cast<double>(shared) + routed_sum / static_cast<double>(active);
                CHECK(alpha == Approx(2).epsilon(1e-14));
              } else {
                CHECK(shared_sum + routed_sum == Approx(static_cast<double>(shared + active)).epsilon(1e-14));
              }
            }
          CHECK(worst <= 1e-14);
          CHECK(got.canaries_alive());
        }
}

TEST_CASE("by norm: beside the reference, with ties") {
  for (const index_t heads : {1, 4, 9})
    for (index_t shared = 0; shared <= heads; ++shared)
      for (index_t active = 0; shared + active <= heads; ++active)
        for (const bool ties : {false, true}) {
          auto q = buffer<float>::input({2, heads, 11, 3}, layout::bshd);
          random_numbers random(7);
          q.randomize(random);
          if (ties) q.each([](float& x) { x = std::round(x); });
          const auto got = buffer<float>::output({2, heads, 11, 1}), expected = buffer<float>::output(got.size());
          run_route_by_norm<float>(q.cview(), {.shared = shared, .active = active}, got.view3());
          reference::route_by_norm(q.cview(), routing{.shared = shared, .active = active}, expected.view3());
          CHECK(same_bits(got, expected));
          CHECK(got.canaries_alive());
        }
}

TEST_CASE("a number added to all logits of a kind, or a factor of all queries, changes nothing") {
  const auto gates = buffer<double>::output({2, 8, 9, 1}), moved = buffer<double>::output(gates.size());
  for (const double added : {16., -4096., 4096.}) {  // exp overflows at 710
    const token_logits x(6, 2, 3);
    const double loss = run_route_trained<double>(x.routed.view3(), x.shared.view3(), x.mix.view3(),
                                                  {.shared = 2, .active = 3}, gates.view3());
    for (const auto* logits : {&x.routed, &x.shared, &x.mix}) logits->each([=](double& l) { l += added; });
    const double allowed = 1e-14 * std::abs(added);
    CHECK(run_route_trained<double>(x.routed.view3(), x.shared.view3(), x.mix.view3(), {.shared = 2, .active = 3},
                                    moved.view3()) == Approx(loss).epsilon(allowed));
    double worst = 0;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 8; ++h)
        for (index_t i = 0; i < 9; ++i) worst = std::max(worst, std::abs(gates(b, h, i) - moved(b, h, i)));
    CHECK(worst <= allowed);
  }

  auto q = buffer<double>::input({2, 8, 9, 5});
  random_numbers random(8);
  q.randomize(random);
  run_route_by_norm<double>(q.cview(), {.shared = 2, .active = 3}, gates.view3());
  q.each([](double& v) { v *= 8; });
  run_route_by_norm<double>(q.cview(), {.shared = 2, .active = 3}, moved.view3());
  CHECK(same_bits(gates, moved));
}

TEST_CASE("heads that change places take their gates along") {
  const token_logits x(5, 0, 4);
  const auto turned = buffer<double>::input({2, 5, 9, 1});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 5; ++h)
      for (index_t i = 0; i < 9; ++i) turned(b, h, i) = x.routed(b, (h + 2) % 5, i);
  const auto gates = buffer<double>::output({2, 5, 9, 1}), after = buffer<double>::output(gates.size());
  run_route_trained<double>(x.routed.view3(), {}, {}, {.shared = 0, .active = 2}, gates.view3());
  run_route_trained<double>(turned.view3(), {}, {}, {.shared = 0, .active = 2}, after.view3());
  double worst = 0;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 5; ++h)
      for (index_t i = 0; i < 9; ++i) worst = std::max(worst, std::abs(after(b, h, i) - gates(b, (h + 2) % 5, i)));
  CHECK(worst <= 1e-14);
}

TEST_CASE("equal logits: gates of 1 for the first heads, and the loss of a router that never changes its mind") {
  auto same = buffer<float>::input({1, 8, 4, 1});
  same.fill(0.7f);
  const auto first = [&](index_t heads) {
    return heads_in<float>(heed::tensor_view<float, 3>(same.view3().data(), {1, heads, 4}, {32, 4, 1}));
  };
  const auto gates = buffer<float>::output({1, 7, 4, 1});
  const double loss = run_route_trained<float>(first(4), first(3), first(2), {.shared = 3, .active = 2}, gates.view3());
  for (index_t h = 0; h < 7; ++h)
    for (index_t i = 0; i < 4; ++i) CHECK(gates(0, h, i) == (h < 5 ? 1.f : 0.f));
  CHECK(loss == Approx(2));
}

TEST_CASE("NaN: its token's gates are NaN where they are on, and other tokens do not see it") {
  const token_logits x(4, 2, 5);
  const auto clean = buffer<double>::output({2, 6, 9, 1}), got = buffer<double>::output(clean.size());
  const routing how{.shared = 2, .active = 2};
  run_route_trained<double>(x.routed.view3(), x.shared.view3(), x.mix.view3(), how, clean.view3());
  x.routed(1, 3, 4) = nan_value;
  const double loss = run_route_trained<double>(x.routed.view3(), x.shared.view3(), x.mix.view3(), how, got.view3());
  CHECK(std::isnan(loss));
  int on = 0;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 6; ++h)
      for (index_t i = 0; i < 9; ++i) {
        const bool hit = b == 1 && i == 4 && h >= 2;
        if (!hit) CHECK(got(b, h, i) == clean(b, h, i));
        if (hit) CHECK((std::isnan(got(b, h, i)) || got(b, h, i) == 0));
        if (hit) on += std::isnan(got(b, h, i));
        if (hit && h == 5) CHECK(got(b, h, i) == 0);  // a NaN is the last to be kept
      }
  CHECK(on == 2);

  auto q = buffer<double>::input({1, 3, 1, 2});
  q.fill(1);
  q(0, 0, 0, 1) = nan_value;
  const auto gates = buffer<double>::output({1, 3, 1, 1});
  run_route_by_norm<double>(q.cview(), {.shared = 0, .active = 2}, gates.view3());
  CHECK((gates(0, 0, 0) == 0 && gates(0, 1, 0) == 1 && gates(0, 2, 0) == 1));
}

TEST_CASE("no routed heads: active 0 means that all are shared, whether shared says so or not") {
  const token_logits x(0, 3, 6);
  const auto gates = buffer<double>::output({2, 3, 9, 1}), again = buffer<double>::output(gates.size());
  CHECK(run_route_trained<double>({}, x.shared.view3(), {}, {.shared = 3, .active = 0}, gates.view3()) == 0);
  CHECK(run_route_trained<double>({}, x.shared.view3(), {}, {.shared = 0, .active = 0}, again.view3()) == 0);
  CHECK(same_bits(gates, again));
}

TEST_CASE("no tokens, no heads") {
  const auto none = buffer<float>::input({2, 4, 0, 1}), gates = buffer<float>::output({2, 4, 0, 1}),
             no_heads = buffer<float>::output({2, 0, 5, 1}), q = buffer<float>::input({2, 4, 0, 3});
  CHECK(run_route_trained<float>(none.view3(), {}, {}, {.shared = 0, .active = 2}, gates.view3()) == 0);
  CHECK(run_route_trained<float>({}, {}, {}, {.shared = 0, .active = 0}, no_heads.view3()) == 0);
  run_route_by_norm<float>(q.cview(), {.shared = 1, .active = 2}, gates.view3());
}
