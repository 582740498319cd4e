// SPDX-License-Identifier: BSD-3-Clause

// lightning::backward by log_gates beside the reference: lengths and chunks, zeros, cuts, steep gates, masks, strides.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/lightning_backward_case.hpp"

using namespace heed_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
template <class T> using options = heed::lightning::options<T>;

template <class T>
void check(const shape& s, index_t heads, std::int32_t cuts, const options<T>& how = {}, layouts in = {},
           index_t count = -1) {
  lightning_backward_case<T> x(s, heads, cuts, how, in, count);
  check_backward(x);
}

}  // namespace

TEST_CASE("backward: gates of every query head or key/value head, with and without cuts") {
  std::size_t turn = 0;
  for (const index_t n : {0, 1, 3, 16, 17, 64, 65, 150})
    for (const index_t chunk : {0, 1, 7, 24, 64, 100})
      for (const std::int32_t cuts : {0, 2, 30}) {
        if (++turn % thinning != 0) continue;
        check<float>({2, 4, 2, n, n, 20, 24}, turn % 2 == 0 ? 4 : 2, cuts, {.scale = 0.3, .chunk = chunk});
        check<double>({1, 2, 1, n, n, 8, 5}, turn % 2 == 0 ? 2 : 1, cuts, {.chunk = chunk});
      }
}

TEST_CASE("backward: head dims and groups, gates") {
  std::size_t turn = 0;
  for (const index_t d : head_dims)
    for (const auto& [heads, kv_heads] : {std::pair<index_t, index_t>{1, 1}, {7, 1}, {4, 2}}) {
      const index_t e = head_dims[(++turn * 3 + 1) % std::size(head_dims)];
      check<float>({turn % 4 == 0 ? 2 : 1, heads, kv_heads, 66, 66, d, e}, turn % 2 == 0 ? heads : kv_heads, 20);
    }
}

TEST_CASE("backward: packed sequences and padding, gates") {
  const std::vector<std::int32_t> at{0, 0, 70, 71, 71, 201, 201}, each{0, 33, 1, 0, 130, 0}, seen{0, 33, 70};
  for (const index_t chunk : {0, 5, 64})
    for (const index_t states : {4, 2}) {
      const shape s{1, 4, 2, 201, 201, 16, 20};
      check<float>(s, states, 9, {.mask = heed::packed(at, at), .chunk = chunk}, {}, 6);
      check<float>(s, states, 9, {.mask = heed::packed(at, at) & heed::key_lengths(each), .chunk = chunk}, {}, 6);
      check<float>({3, 4, 2, 70, 70, 16, 8}, states, 9, {.mask = heed::key_lengths(seen), .chunk = chunk});
      lightning_backward_case<float> x({3, 4, 2, 70, 70, 16, 8}, states, 9, {.mask = heed::key_lengths(seen)});
      x.backward();
      for (index_t i = 33; i < 70; ++i)
        CHECK((x.dgates(1, 0, i) == 0 && x.dk(1, 0, i, 0) == 0 && x.dq(1, 0, i, 0) != 0));
    }
}

TEST_CASE("backward: a gate of -inf has the gradient 0, whatever is around it") {
  for (const index_t n : {1, 2, 64, 65, 130})
    for (const index_t which : {-1, 0, 1, 2})
      for (const int given : {0, 1, 2, 3}) {
        lightning_backward_case<float> x({1, 1, 1, n, n, 8, 8}, 1, 0);
        if ((given & 1) == 0) x.options.initial_state = {};
        if ((given & 2) == 0) x.asked.dfinal_state = {};
        for (index_t i = 0; i < n; ++i)
          if (which < 0 || i == which * (n - 1) / 2) x.gates(0, 0, i) = -inf;
        check_backward(x);
        bool zero = true, finite = true;
        for (index_t i = 0; i < n; ++i) zero = zero && (!std::isinf(x.gates(0, 0, i)) || x.dgates(0, 0, i) == 0);
        x.dgates.each([&](float a) { finite = finite && std::isfinite(a); });
        CHECK((zero && finite));
      }
}

TEST_CASE("backward: steep gates, and gentle ones behind them, keep their accuracy") {
  lightning_backward_case<float> x({1, 1, 1, 200, 200, 16, 16}, 1, 0);
  for (index_t i = 0; i < 200; ++i) x.gates(0, 0, i) = i % 5 == 0 ? -80.0f : -1e-3f;
  check_backward(x);
  for (const float steep : {-1000.0f, std::numeric_limits<float>::lowest()}) {
    for (index_t i = 0; i < 200; ++i) x.gates(0, 0, i) = i % 50 == 0 ? steep : -1e-3f;
    check_backward(x);
  }
  lightning_backward_case<double> y({1, 1, 1, 200, 200, 16, 16}, 1, 0);
  for (index_t i = 0; i < 200; ++i) y.gates(0, 0, i) = i % 5 == 0 ? -600.0 : -1e-3;
  check_backward(y);
  const index_t n = thinning == 1 ? 3000 : 500;
  check<float>({1, 1, 1, n, n, 32, 48}, 1, 0);
}

TEST_CASE("backward: sequences so long that states are saved on the way: batches, heads, states and chunks") {
  static const std::vector<std::int32_t> lengths{600, 280}, offsets{0, 300, 300, 900};
  for (const index_t chunk : {0, 1, 7, 100})
    for (const index_t states : {4, 2})
      for (const std::int32_t cuts : {0, 200}) {
        lightning_backward_case<float> x({2, 4, 2, 600, 600, 20, 24}, states, cuts, {.chunk = chunk});
        check_backward(x);
        test_executor threads(3, order::shuffled, true);
        lightning_backward_case<float> y(x.s, states, cuts, {.chunk = chunk});
        y.backward({.executor = threads});
        CHECK(same_gradients(x, y));
        if (chunk == 1 || cuts > 0) continue;
        check<float>({2, 4, 2, 600, 600, 20, 24}, states, cuts, {.mask = heed::key_lengths(lengths), .chunk = chunk});
        check<float>({1, 4, 2, 900, 900, 20, 24}, states, cuts,
                     {.mask = heed::packed(offsets, offsets), .chunk = chunk}, {}, 3);
      }
}

TEST_CASE("backward: NaN behind a gate of -inf changes no gate after it, where a state is saved in between") {
  constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
  for (const index_t reset : {255, 256, 257, 300}) {
    lightning_backward_case<float> x({1, 1, 1, 600, 600, 16, 16}, 1, 0, {.chunk = 32}), y(x.s, 1, 0, {.chunk = 32});
    x.gates(0, 0, reset) = y.gates(0, 0, reset) = -inf;
    x.k(0, 0, 100, 3) = nan_value, x.v(0, 0, 40, 2) = nan_value;
    x.backward();
    check_backward(y);
    bool same = x.dgates(0, 0, reset) == 0;
    for (index_t i = reset + 1; i < 600; ++i) same = same && x.dgates(0, 0, i) == y.dgates(0, 0, i);
    CHECK(same);
  }
}

TEST_CASE("backward: gates of 0 are no decay, equal gates are a slope") {
  for (const float gate : {0.0f, -0.25f, -40.0f}) {
    const shape s{1, 2, 2, 130, 130, 16, 16};
    lightning_backward_case<double> x(s, 2, 0), y(s, {-gate, -gate});
    x.gates.fill(gate);
    check_backward(x), check_backward(y);
    for (index_t h = 0; h < 2; ++h) {
      double sum = 0;
      for (index_t i = 0; i < 130; ++i) sum += x.dgates(0, h, i);
      CHECK(y.dslopes(0, 0, 0, h) == Approx(-sum).epsilon(1e-9).margin(1e-9));
    }
  }
}

TEST_CASE("backward: gates in token-major strides; every layout of gradients of gates") {
  const shape s{2, 4, 2, 70, 70, 8, 8};
  lightning_backward_case<float> plain(s, 4, 9), turned(s, 4, 9, {}, {.q = layout::bshd}, -1, {.q = layout::bshd});
  plain.backward(), turned.backward();
  CHECK(same_gradients(plain, turned));
  CHECK((turned.gates.view().stride(2) == 4 && turned.dgates.view().stride(2) == 4));
}

TEST_CASE("backward: what is not asked for is not written, and changes no bit of what is, gates") {
  for (const index_t states : {2, 1})
    for (const std::int32_t cuts : {0, 9}) {
      const shape s{1, 2, 1, 70, 70, 6, 20};
      lightning_backward_case<float> all(s, states, cuts);
      all.backward();
      for (unsigned which = 0; which < 64; ++which) {
        lightning_backward_case<float> x(s, states, cuts);
        heed::lightning::gradients<float> some;
        some.dfinal_state = x.asked.dfinal_state;
        if (which & 1) some.dq = x.asked.dq;
        if (which & 2) some.dk = x.asked.dk;
        if (which & 4) some.dv = x.asked.dv;
        if (which & 8) some.dinitial_state = x.asked.dinitial_state;
        if (which & 16) some.dlog_gates = x.asked.dlog_gates;
        if (which & 32) some.dfinal_state = {};
        x.asked = some;
        if (which & 32) {
          check_backward(x);
          continue;
        }
        x.backward();
        CHECK(((which & 1) ? same_bits(x.dq, all.dq) : x.dq.untouched()));
        CHECK(((which & 2) ? same_bits(x.dk, all.dk) : x.dk.untouched()));
        CHECK(((which & 4) ? same_bits(x.dv, all.dv) : x.dv.untouched()));
        CHECK(((which & 8) ? same_bits(x.ds0, all.ds0) : x.ds0.untouched()));
        CHECK(((which & 16) ? same_bits(x.dgates, all.dgates) : x.dgates.untouched()));
      }
    }
}

TEST_CASE("backward: a gate taken for its neighbour fails, a gradient of gates that misses a token or its own decay") {
  lightning_backward_case<float> x({1, 1, 1, 60, 60, 16, 16}, 1, 0);
  x.backward();
  CHECK(compare_gradients(x).worst <= 1);
  auto late = buffer<double>::input({1, 1, 60, 1});
  for (index_t i = 0; i < 60; ++i) late(0, 0, i) = static_cast<double>(x.gates(0, 0, i < 59 ? i + 1 : 0));
  CHECK(compare_gradients(x, heed::decay<double>(late.view3())).worst > 1);
  const auto wrong = [&](auto change) {
    lightning_backward_case<float> y({1, 1, 1, 60, 60, 16, 16}, 1, 0);
    y.backward();
    change(y.dgates);
    return compare_gradients(y).worst > 1;
  };
  CHECK_FALSE(wrong([](const buffer<float>&) {}));
  CHECK(wrong([](const buffer<float>& g) {
    for (index_t i = 0; i < 59; ++i) g(0, 0, i) = g(0, 0, i + 1);
  }));
  CHECK(wrong([&](const buffer<float>& g) {
    for (index_t i = 0; i < 60; ++i) g(0, 0, i) *= std::exp(x.gates(0, 0, i));
  }));
  CHECK(wrong([](const buffer<float>& g) { g(0, 0, 30) *= 1.01f; }));
}
