// SPDX-License-Identifier: BSD-3-Clause

// lightning::decode beside the reference and beside forward: any number of new tokens, in place, without allocation.

#include <cmath>
#include <limits>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"
#include "support/float_control.hpp"
#include "support/recurrent_case.hpp"
#include "support/recurrent_isolation.hpp"

using namespace heed_test;

namespace {

// s0 is the memory: the reference's answer is taken before the call, the result is in s0 and copied to s1.
template <class T> void check_decode(lightning_case<T> x, const heed::context& ctx = {}) {
  INFO(to_string(x.s) << " states " << x.states);
  lightning_case<T> before(x.gated ? lightning_case<T>(x.s, x.states, 9, x.options)
                                   : lightning_case<T>(x.s, x.slopes, x.options));
  x.options.initial_state = {}, x.options.final_state = {};  // not used
  if (x.gated)
    for (index_t i = 0; i < x.s.queries; ++i)
      for (index_t h = 0; h < x.states; ++h)
        for (index_t b = 0; b < x.s.batch; ++b) before.gates(b, h, i) = x.gates(b, h, i);
  run_decode<T>(x.call(), x.decay(), x.memory(), x.options, ctx);
  for (index_t b = 0; b < x.sequences; ++b)
    for (index_t h = 0; h < x.states; ++h)
      for (index_t f = 0; f < x.features; ++f)
        for (index_t e = 0; e < x.s.value_dim; ++e) before.s1(b, h, f, e) = x.s0(b, h, f, e);
  for (index_t b = 0; b < x.s.batch; ++b)
    for (index_t h = 0; h < x.s.heads; ++h)
      for (index_t i = 0; i < x.s.queries; ++i)
        for (index_t e = 0; e < x.s.value_dim; ++e) before.o(b, h, i, e) = x.o(b, h, i, e);
  const verdict result = compare(before);
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK(x.o.canaries_alive());
}

}  // namespace

TEST_CASE("new tokens, one to many, every head dim, slopes and gates") {
  std::size_t turn = 0;
  for (const index_t n : {0, 1, 2, 4, 5, 17, 70})
    for (const index_t d : head_dims) {
      const index_t e = turn % 2 == 0 ? d : head_dims[(turn * 5 + 3) % std::size(head_dims)];
      const shape s{turn % 3 == 0 ? 2 : 1, 4, 2, n, n, d, e};
      if (turn++ % thinning != 0) continue;
      check_decode(lightning_case<float>(s, some_slopes(turn % 2 == 0 ? 4 : 2), {.scale = 0.5}));
      check_decode(lightning_case<float>(s, turn % 2 == 0 ? 4 : 2, 9));
      check_decode(lightning_case<double>(s, some_slopes(4)));
    }
}

TEST_CASE("the memory takes tokens that no query head is there to read") {
  check_decode(lightning_case<float>({2, 0, 2, 5, 5, 8, 9}, some_slopes(2), {.scale = 0.5}));
  check_decode(lightning_case<float>({2, 0, 2, 5, 5, 8, 9}, 2, 3));
}

TEST_CASE("behind a cut nothing is left of the memory, were it not finite") {
  constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool gated : {false, true})
    for (const index_t n : {1, 5}) {
      const shape s{1, 1, 1, n, n, 8, 20};
      lightning_case<float> x = gated ? lightning_case<float>(s, 1, 0) : lightning_case<float>(s, {inf});
      for (index_t f = 0; f < 8; ++f) x.s0(0, 0, f, f) = f % 2 == 0 ? nan : inf;
      if (gated) x.gates(0, 0, 0) = -inf;
      run_decode<float>(x.call(), x.decay(), x.memory(), {}, {});
      for (index_t e = 0; e < 20; ++e) {
        float dot = 0;
        for (index_t d = 0; d < 8; ++d) dot += x.q(0, 0, 0, d) * x.k(0, 0, 0, d);
        CHECK(x.o(0, 0, 0, e) == Approx(dot * x.v(0, 0, 0, e)).epsilon(1e-4).margin(1e-5));
        for (index_t f = 0; f < 8; ++f) CHECK(std::isfinite(x.s0(0, 0, f, e)));
      }
    }
}

TEST_CASE("strong decays and an infinite slope") {
  const double inf = std::numeric_limits<double>::infinity();
  for (const index_t n : {1, 3, 40}) check_decode(lightning_case<float>({1, 3, 1, n, n, 16, 20}, {0, 90, inf}));
}

TEST_CASE("prefill and steps of any size are the whole call") {
  const shape s{1, 4, 2, 75, 75, 20, 24};
  lightning_case<float> whole(s, some_slopes(4)), x(s, some_slopes(4));
  whole.forward();
  x.options.final_state.s = x.s0.view();
  index_t at = 0;
  for (const index_t n : {40, 1, 1, 3, 5, 20, 1, 4}) {
    const auto part = [&](auto view) { return heed::slice(view, 2, at, n); };
    const recurrent_call<float> c{part(x.q.cview()), part(x.k.cview()), part(x.v.cview()), part(x.o.view())};
    at == 0 ? run_forward<float>(c, x.decay(), x.options, {}) : run_decode<float>(c, x.decay(), x.memory(), {}, {});
    at += n;
  }
  REQUIRE(at == 75);
  for (index_t h = 0; h < 4; ++h)
    for (index_t f = 0; f < 20; ++f)
      for (index_t e = 0; e < 24; ++e) x.s1(0, h, f, e) = x.s0(0, h, f, e);
  lightning_case<float> fresh(s, some_slopes(4));  // x.s0 was overwritten
  std::copy(&x.o(0, 0, 0), &x.o(0, 0, 0) + 4 * 75 * 24, &fresh.o(0, 0, 0));
  std::copy(&x.s1(0, 0, 0), &x.s1(0, 0, 0) + 4 * 20 * 24, &fresh.s1(0, 0, 0));
  const verdict result = compare(fresh);
  INFO(result.where);
  CHECK(result.worst <= 1);
}

TEST_CASE("any number of tokens: no scratch, no allocation, the bits of one by one and of any executor") {
  for (const index_t n : {1, 4, 5, 70})
    for (const bool gated : {false, true}) {
      const shape s{2, 4, 2, n, n, 64, 48};
      const auto make = [&] {
        return gated ? lightning_case<float>(s, 4, 9) : lightning_case<float>(s, some_slopes(4));
      };
      lightning_case<float> x = make(), y = make(), z = make();
      const heed::plan plan = run_plan_decode<float>(x.call(), x.decay(), x.memory(), x.options, {});
      REQUIRE(plan.ok());
      CHECK(plan.tasks == 8);
      CHECK(plan.workspace_bytes == 0);
      CHECK(std::string(plan.why.data()).find("token by token") != std::string::npos);
      const long before = allocations;
      run_decode<float>(x.call(), x.decay(), x.memory(), x.options, {});
      const long after = allocations;
      CHECK(after == before);
      test_executor threads(3, order::shuffled, true);
      run_decode<float>(y.call(), y.decay(), y.memory(), y.options, {.executor = threads});
      CHECK((same_bits(x.o, y.o) && same_bits(x.s0, y.s0)));
      for (index_t i = 0; i < n; ++i) {
        const auto part = [i](auto view) { return heed::slice(view, 2, i, 1); };
        const recurrent_call<float> c{part(z.q.cview()), part(z.k.cview()), part(z.v.cview()), part(z.o.view())};
        const heed::tensor_view<float, 3> g = z.gates.view3();
        const heed::decay<float> decay =
            gated ? heed::decay<float>(heed::tensor_view<const float, 3>(g.data() + i * g.stride(2), {2, 4, 1},
                                                                         {g.stride(0), g.stride(1), g.stride(2)}))
                  : z.decay();
        run_decode<float>(c, decay, z.memory(), {}, {});
      }
      CHECK((same_bits(x.o, z.o) && same_bits(x.s0, z.s0)));
    }
}

TEST_CASE("small numbers are lost by fading alone, and no token is before it was read") {
  for (const double slope : {0.0, 1.0})
    for (const index_t n : {1, 5}) {
      lightning_case<float> x({1, 1, 1, n, n, 8, 8}, {slope});
      x.q.fill(1e16f), x.k.fill(1e-16f), x.v.fill(1e-16f), x.s0.fill(0);
      run_decode<float>(x.call(), x.decay(), x.memory(), {}, {});
      CHECK(x.o(0, 0, 0, 0) == Approx(8e-16f));
      float left = 0;
      for (index_t t = 0; t < n; ++t) left = left * static_cast<float>(std::exp(-slope)) + 1e-32f;
      CHECK(x.s0(0, 0, 0, 0) == Approx(left).margin(0));
    }
}

TEST_CASE("a state that is silent for long becomes 0 and never holds a subnormal number") {
  lightning_case<float> x({1, 1, 1, 1, 1, 8, 8}, {20});
  x.k.fill(0);
  for (int step = 0; step < 40; ++step) {
    run_decode<float>(x.call(), x.decay(), x.memory(), {}, {});
    CHECK((!flushes || none_subnormal(x.s0)));
  }
  bool zero = true;
  x.s0.each([&](float a) { zero = zero && a == 0; });
  CHECK(zero);
}

TEST_CASE("one number that is not finite reaches its own batch entry, heads, column and memory") {
  const auto run = [](lightning_case<float>& x) { run_decode<float>(x.call(), x.decay(), x.memory(), x.options, {}); };
  for (const index_t n : {3, 20})
    for (const index_t states : {2, 4}) {
      INFO(n << " tokens, " << states << " states");
      const auto make = [&] { return lightning_case<float>({2, 4, 2, n, n, 8, 12}, some_slopes(states)); };
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()})
        check_isolation({.at = n / 2, .bad = bad, .in_place = true}, make, run);
    }
}
