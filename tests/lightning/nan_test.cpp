// SPDX-License-Identifier: BSD-3-Clause

// Values that are not finite: they reach every row from their token on, and no row before it or behind a cut, nor
// another head, batch entry, column or state.

#include <limits>

#include "support/catch.hpp"
#include "support/recurrent_case.hpp"
#include "support/recurrent_isolation.hpp"

using namespace heed_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("a token that is not a number leaves the bits of all rows before it alone") {
  for (const bool gated : {false, true})
    for (const float bad : {std::nanf(""), inf})
      for (const index_t at : {0, 5, 15, 16, 40, 63, 64, 99})
        for (const bool in_v : {false, true}) {
          const shape s{1, 1, 1, 100, 100, 16, 20};
          INFO("token " << at << (in_v ? " of v" : " of k") << (gated ? ", gates" : ""));
          lightning_case<float> x = gated ? lightning_case<float>(s, 1, 0) : lightning_case<float>(s, {0.05});
          lightning_case<float> y = gated ? lightning_case<float>(s, 1, 0) : lightning_case<float>(s, {0.05});
          (in_v ? x.v : x.k)(0, 0, at, 3) = bad;
          x.forward(), y.forward();
          CHECK(std::memcmp(&x.o(0, 0, 0), &y.o(0, 0, 0), static_cast<std::size_t>(at * 20) * sizeof(float)) == 0);
          bool reached = true;
          for (index_t i = at; i < 100; ++i) reached = reached && !std::isfinite(x.o(0, 0, i, 3));
          CHECK(reached);
          if (in_v) {  // other columns never see it
            bool same = true;
            for (index_t i = 0; i < 100; ++i)
              same = same && std::memcmp(&x.o(0, 0, i, 4), &y.o(0, 0, i, 4), 16 * sizeof(float)) == 0;
            CHECK(same);
          }
        }
}

TEST_CASE("a query that is not a number is its own row's") {
  const shape s{1, 1, 1, 100, 100, 16, 20};
  lightning_case<float> x(s, {0.05}), y(s, {0.05});
  x.q(0, 0, 41, 3) = std::nanf("");
  x.forward(), y.forward();
  bool same = true;
  for (index_t i = 0; i < 100; ++i)
    if (i != 41) same = same && std::memcmp(&x.o(0, 0, i), &y.o(0, 0, i), 20 * sizeof(float)) == 0;
  CHECK(same);
  CHECK(std::isnan(x.o(0, 0, 41, 0)));
  CHECK(same_bits(x.s1, y.s1));
}

TEST_CASE("behind a cut nothing of what was before is left, by gates and by an infinite slope") {
  const shape s{1, 1, 1, 100, 100, 16, 20};
  for (const index_t chunk : {0, 5, 64, 100})
    for (const index_t cut : {1, 15, 16, 50, 64, 99}) {
      lightning_case<float> x(s, 1, 0, {.chunk = chunk}), y(s, 1, 0, {.chunk = chunk});
      for (auto* z : {&x, &y}) z->gates(0, 0, cut) = -inf;
      x.k(0, 0, cut - 1, 2) = x.v(0, 0, cut - 1, 7) = x.s0(0, 0, 3, 3) = std::nanf("");
      x.forward(), y.forward();
      INFO("cut at " << cut << ", chunk " << chunk);
      CHECK(std::memcmp(&x.o(0, 0, cut), &y.o(0, 0, cut), static_cast<std::size_t>((100 - cut) * 20) * sizeof(float)) ==
            0);
      CHECK(same_bits(x.s1, y.s1));
    }
  lightning_case<float> x(s, {std::numeric_limits<double>::infinity()}),
      y(s, {std::numeric_limits<double>::infinity()});
  x.k(0, 0, 30, 2) = x.v(0, 0, 60, 7) = std::nanf("");
  x.forward(), y.forward();
  bool same = true;
  for (index_t i = 0; i < 100; ++i)
    if (i != 30 && i != 60) same = same && std::memcmp(&x.o(0, 0, i), &y.o(0, 0, i), 20 * sizeof(float)) == 0;
  CHECK(same);
}

TEST_CASE("one number that is not finite reaches its own batch entry, heads, column and state") {
  const shape s{2, 4, 2, 40, 40, 8, 12};
  const auto run = [](lightning_case<float>& x) { x.forward(); };
  for (const index_t states : {2, 4})
    for (const bool gated : {false, true}) {
      INFO(states << " states" << (gated ? ", gates" : ""));
      const auto make = [&] {
        const heed::lightning::options<float> how{.chunk = 16};
        return gated ? lightning_case<float>(s, states, 0, how) : lightning_case<float>(s, some_slopes(states), how);
      };
      for (const float bad : {std::nanf(""), inf})
        for (const index_t at : {0, 21}) check_isolation({.at = at, .bad = bad}, make, run);
      if (!gated) continue;
      auto clean = make(), bent = make();
      bent.gates(1, 1, 21) = std::nanf("");
      clean.forward(), bent.forward();
      const index_t readers = 4 / states;
      CHECK(wrongly_reached(bent.o, clean.o, [&](index_t b, index_t h, index_t i, index_t) {
              return b == 1 && h / readers == 1 && i >= 21;
            }) == 0);
      CHECK(wrongly_reached(bent.s1, clean.s1,
                            [](index_t b, index_t state, index_t, index_t) { return b == 1 && state == 1; }) == 0);
    }
}
