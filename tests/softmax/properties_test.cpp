// SPDX-License-Identifier: BSD-3-Clause

// What attention must do without any reference: symmetries, bounds and limits. The properties and where they are shown:
//   P1 order of keys and queries, P2 between the values, P3 equal values, P4 linear in v, P6 scale 0 and large,
//   P7 turned q and k, P8 factor of q in the scale, P12 groups of heads, P13 windows, P14 alignments, P19 one key,
//   P20 every key twice: here. P1 to P3 with bias, mask and sink, P5 bias per row, P9 splits of the keys with options,
//   P10 chunks of queries, P15 keep and bias, P16 soft-cap without end, P17 no sink: score_properties_test.cpp.
//   P9 also merge_test.cpp, P10 also few_rows_test.cpp, P11 executor_test.cpp (workers) and few_rows_test.cpp (tiles),
//   P18 nan_test.cpp and hidden_test.cpp.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

using options = heed::softmax::options<double>;

// Queries in lanes, few rows, more key/value heads.
constexpr shape shapes[] = {{2, 4, 2, 40, 61, 12, 9}, {1, 2, 1, 3, 150, 20, 7}, {1, 1, 3, 30, 33, 8, 16}};

bool same(const softmax_case<double>& a, const softmax_case<double>& b) { return heed_test::same(a, b, 1e-13); }

}  // namespace

TEST_CASE("P1: the order of the keys does not matter, the order of the queries is kept") {
  for (const shape& s : shapes) {
    const auto x = ran(s);
    softmax_case<double> keys(s), queries(s);
    for (index_t b = 0; b < s.batch; ++b) {
      for (index_t h = 0; h < s.kv_heads; ++h)
        for (index_t j = 0; j < s.keys; ++j) {
          for (index_t d = 0; d < s.dim; ++d) keys.k(b, h, j, d) = x.k(b, h, (j * 7 + 3) % s.keys, d);
          for (index_t e = 0; e < s.value_dim; ++e) keys.v(b, h, j, e) = x.v(b, h, (j * 7 + 3) % s.keys, e);
        }
      for (index_t h = 0; h < s.heads; ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t d = 0; d < s.dim; ++d) queries.q(b, h, i, d) = x.q(b, h, s.queries - 1 - i, d);
    }
    keys.forward();
    CHECK(same(keys, x));
    queries.forward();
    double worst = 0;
    for (index_t i = 0; i < s.queries; ++i)
      for (index_t e = 0; e < s.value_dim; ++e)
        worst = std::max(worst, std::abs(queries.o(0, 0, i, e) - x.o(0, 0, s.queries - 1 - i, e)));
    CHECK(worst <= 1e-13);
  }
}

TEST_CASE("P2: every output lies between the values; P3: equal values come out as they are") {
  for (const shape& s : shapes)
    for (const heed::mask& mask : {heed::mask{}, heed::window(-1, -1), heed::window(30, 5)}) {
      const auto x = ran(s, {.mask = mask});
      const index_t group = x.s.out_heads() / s.kv_heads;
      for (index_t h = 0; h < s.out_heads(); ++h)
        for (index_t e = 0; e < s.value_dim; ++e) {
          double low = HUGE_VAL, high = -HUGE_VAL;
          for (index_t j = 0; j < s.keys; ++j) {
            low = std::min(low, x.v(0, h / group, j, e));
            high = std::max(high, x.v(0, h / group, j, e));
          }
          bool inside = true;
          for (index_t i = 0; i < s.queries; ++i)
            inside = inside && x.o(0, h, i, e) >= low - 1e-13 && x.o(0, h, i, e) <= high + 1e-13;
          CHECK(inside);
        }
      softmax_case<double> constant(s, {.mask = mask});
      constant.v.fill(-2.5);
      constant.forward();
      double worst = 0;
      constant.o.each([&](const double& o) { worst = std::max(worst, std::abs(o + 2.5)); });
      CHECK(worst <= 1e-14);
    }
}

TEST_CASE("P4: linear in v") {
  for (const shape& s : shapes) {
    const auto x = ran(s);
    softmax_case<double> y(s), sum(s);
    y.v.each([n = 0](double& e) mutable { e = std::sin(n++); });
    y.forward();
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.kv_heads; ++h)
        for (index_t j = 0; j < s.keys; ++j)
          for (index_t e = 0; e < s.value_dim; ++e) sum.v(b, h, j, e) = 2 * x.v(b, h, j, e) - 3 * y.v(b, h, j, e);
    sum.forward();
    double worst = 0;
    for (index_t i = 0; i < s.queries; ++i)
      for (index_t e = 0; e < s.value_dim; ++e)
        worst = std::max(worst, std::abs(sum.o(0, 0, i, e) - 2 * x.o(0, 0, i, e) + 3 * y.o(0, 0, i, e)));
    CHECK(worst <= 1e-13);
  }
}

TEST_CASE("P6: scale 0 gives the mean, a large scale the value of the best key") {
  for (const shape& s : shapes) {
    const auto mean = ran(s, {.scale = 0}), sharp = ran(s, {.scale = 1e6});
    const index_t kv = s.kv_heads - 1, head = s.out_heads() - 1, query_head = s.heads - 1;
    for (index_t i = 0; i < s.queries; ++i) {
      double sum = 0, best = -HUGE_VAL;
      index_t where = 0;
      for (index_t j = 0; j < s.keys; ++j) {
        double dot = 0;
        for (index_t d = 0; d < s.dim; ++d) dot += mean.q(0, query_head, i, d) * mean.k(0, kv, j, d);
        if (dot > best) best = dot, where = j;
        sum += mean.v(0, kv, j, 0);
      }
      CHECK(mean.o(0, head, i, 0) == Approx(sum / static_cast<double>(s.keys)).margin(1e-13));
      CHECK(sharp.o(0, head, i, 0) == Approx(mean.v(0, kv, where, 0)).epsilon(1e-9));
    }
  }
}

TEST_CASE("P7: turning q and k together changes nothing; P8: nor does moving a factor from q to the scale") {
  for (const shape& s : shapes) {
    const auto x = ran(s, {.mask = heed::causal(), .scale = 0.4});
    softmax_case<double> turned(s, {.mask = heed::causal(), .scale = 0.4}),
        scaled(s, {.mask = heed::causal(), .scale = 0.1});
    const auto turn = [](const buffer<double>& y) {  // by one angle in every plane of two neighbours
      const double c = std::cos(0.7), t = std::sin(0.7);
      for (index_t b = 0; b < y.size()[0]; ++b)
        for (index_t h = 0; h < y.size()[1]; ++h)
          for (index_t i = 0; i < y.size()[2]; ++i)
            for (index_t d = 0; d + 1 < y.size()[3]; d += 2) {
              const double first = y(b, h, i, d), second = y(b, h, i, d + 1);
              y(b, h, i, d) = c * first - t * second;
              y(b, h, i, d + 1) = t * first + c * second;
            }
    };
    turn(turned.q);
    turn(turned.k);
    turned.forward();
    CHECK(same(turned, x));
    scaled.q.each([](double& e) { e *= 4; });
    scaled.forward();
    CHECK(same(scaled, x));
  }
}

TEST_CASE("P12: a group of heads is the same heads with keys and values repeated") {
  for (const index_t n : {2, 30}) {
    const auto grouped = ran({2, 6, 2, n, 40, 12, 9}, {.mask = heed::causal()});
    softmax_case<double> repeated({2, 6, 6, n, 40, 12, 9}, {.mask = heed::causal()});
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h) {
        for (index_t i = 0; i < n; ++i)
          for (index_t d = 0; d < 12; ++d) repeated.q(b, h, i, d) = grouped.q(b, h, i, d);
        for (index_t j = 0; j < 40; ++j) {
          for (index_t d = 0; d < 12; ++d) repeated.k(b, h, j, d) = grouped.k(b, h / 3, j, d);
          for (index_t e = 0; e < 9; ++e) repeated.v(b, h, j, e) = grouped.v(b, h / 3, j, e);
        }
      }
    repeated.forward();
    CHECK(same(repeated, grouped));
  }
}

TEST_CASE("P13: a window wider than the keys is causal, a window of one key is that key") {
  for (const shape& s : shapes) {
    CHECK(same(ran(s, {.mask = heed::window(s.keys)}), ran(s, {.mask = heed::causal()})));
    CHECK(same(ran(s, {.mask = heed::window(s.keys, s.keys)}), ran(s)));
    CHECK(same(ran(s, {.mask = heed::window(-1, -1)}), ran(s), 0));
    const auto self = ran(s, {.mask = heed::window(0)});
    const index_t group = s.out_heads() / s.kv_heads;
    bool equal = true;
    for (index_t h = 0; h < s.out_heads(); ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t e = 0; e < s.value_dim; ++e)
          equal = equal && self.o(0, h, i, e) == self.v(0, h / group, i + s.keys - s.queries, e);
    CHECK(equal);
  }
}

TEST_CASE("P14: top-left and bottom-right are the same exactly for N = M") {
  for (const shape& s : shapes) {
    CHECK_FALSE(
        same(ran(s, {.mask = heed::causal(), .align = heed::top_left}), ran(s, {.mask = heed::causal()}), 1e-3));
    shape square = s;
    square.keys = square.queries;
    CHECK(
        same(ran(square, {.mask = heed::causal(), .align = heed::top_left}), ran(square, {.mask = heed::causal()}), 0));
  }
}

TEST_CASE("P19: one visible key gives its value, bit by bit") {
  for (shape s : shapes) {
    s.keys = 1;
    const auto x = ran(s);
    const index_t group = s.out_heads() / s.kv_heads;
    bool equal = true;
    for (index_t h = 0; h < s.out_heads(); ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t e = 0; e < s.value_dim; ++e) equal = equal && x.o(0, h, i, e) == x.v(0, h / group, 0, e);
    CHECK(equal);
  }
}

TEST_CASE("P20: every key twice: the same output, lse higher by log 2") {
  for (const shape& s : shapes) {
    const auto x = ran(s);
    shape twice = s;
    twice.keys = 2 * s.keys;
    softmax_case<double> y(twice);
    for (index_t b = 0; b < s.batch; ++b) {
      for (index_t h = 0; h < s.heads; ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t d = 0; d < s.dim; ++d) y.q(b, h, i, d) = x.q(b, h, i, d);
      for (index_t h = 0; h < s.kv_heads; ++h)
        for (index_t j = 0; j < twice.keys; ++j) {
          for (index_t d = 0; d < s.dim; ++d) y.k(b, h, j, d) = x.k(b, h, j % s.keys, d);
          for (index_t e = 0; e < s.value_dim; ++e) y.v(b, h, j, e) = x.v(b, h, j % s.keys, e);
        }
    }
    y.forward();
    CHECK(largest_difference(x.o, y.o) <= 1e-13);
    x.lse.each([](double& e) { e += std::log(2.0); });
    CHECK(largest_difference(x.lse, y.lse) <= 1e-13);
  }
}
