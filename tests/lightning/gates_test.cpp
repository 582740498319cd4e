// SPDX-License-Identifier: BSD-3-Clause

// lightning::forward by log_gates beside the reference: lengths and chunks, zeros, cuts, steep gates, strides.

#include <limits>

#include "support/catch.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("gates of every query head or key/value head, with and without cuts") {
  std::size_t turn = 0;
  for (const index_t n : {0, 1, 3, 16, 17, 64, 65, 150})
    for (const index_t chunk : {0, 1, 7, 24, 64, 100})
      for (const std::int32_t cuts : {0, 2, 30}) {
        if (++turn % thinning != 0) continue;
        lightning_case<float> x({2, 4, 2, n, n, 20, 24}, turn % 2 == 0 ? 4 : 2, cuts, {.chunk = chunk});
        check(x);
        lightning_case<double> y({1, 2, 1, n, n, 8, 5}, turn % 2 == 0 ? 2 : 1, cuts, {.chunk = chunk});
        check(y);
      }
}

TEST_CASE("gates of 0 are no decay, equal gates are a slope") {
  for (const float gate : {0.0f, -0.25f, -40.0f}) {
    const shape s{1, 2, 2, 130, 130, 16, 16};
    lightning_case<float> x(s, 2, 0), y(s, {-gate, -gate});
    x.gates.fill(gate);
    check(x);
    y.forward();
    const verdict result = [&] {
      verdict v;
      const lightning_answer size = answer(y, heed::decay<double>(y.slopes), true);
      compare(v, "o", x.o, mapped(y.o, [](double a) { return a; }), size.o, 2 * recurrent_tolerance<float>(130, 16));
      return v;
    }();
    INFO(result.where);
    CHECK(result.worst <= 1);
  }
}

TEST_CASE("steep gates, and gentle ones behind them, keep their accuracy") {
  lightning_case<float> x({1, 1, 1, 200, 200, 16, 16}, 1, 0);
  for (index_t i = 0; i < 200; ++i) x.gates(0, 0, i) = i % 5 == 0 ? -80.0f : -1e-3f;
  check(x);
  for (index_t i = 0; i < 200; ++i) x.gates(0, 0, i) = i % 50 == 0 ? -1000.0f : -1e-3f;
  check(x);
  for (index_t i = 0; i < 200; ++i) x.gates(0, 0, i) = i % 50 == 0 ? std::numeric_limits<float>::lowest() : -1e-3f;
  check(x);
  lightning_case<double> y({1, 1, 1, 200, 200, 16, 16}, 1, 0);
  for (index_t i = 0; i < 200; ++i) y.gates(0, 0, i) = i % 5 == 0 ? -600.0 : -1e-3;
  check(y);
}

TEST_CASE("every token cut, the first or the last alone") {
  for (const index_t n : {1, 2, 64, 65})
    for (const index_t which : {-1, 0, 1, 2}) {
      lightning_case<float> x({1, 1, 1, n, n, 8, 8}, 1, 0);
      for (index_t i = 0; i < n; ++i)
        if (which < 0 || i == which * (n - 1) / 2) x.gates(0, 0, i) = -inf;
      check(x);
    }
}

TEST_CASE("gates in token-major strides, and gates that are not a number") {
  const shape s{2, 4, 2, 70, 70, 8, 8};
  lightning_case<float> plain(s, 4, 9), turned(s, 4, 9, {}, {.q = layout::bshd});
  plain.forward(), turned.forward();
  CHECK(same_bits(plain.o, turned.o));
  CHECK(turned.gates.view().stride(2) == 4);

  lightning_case<float> x({1, 1, 1, 70, 70, 8, 8}, 1, 0);
  x.gates(0, 0, 20) = std::numeric_limits<float>::quiet_NaN();
  x.gates(0, 0, 40) = -inf;
  x.forward();
  const verdict result = compare(x);
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK(std::isnan(x.o(0, 0, 30, 0)));
  CHECK(std::isfinite(x.o(0, 0, 40, 0)));
}
