// SPDX-License-Identifier: BSD-3-Clause

// softmax::backward under every option and pair of options: each gradient that an option has, sums over what a bias is
// broadcast over, and derivatives of score functions.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/softmax_backward_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

// Groups in both directions, several tiles, few rows
constexpr shape shapes[] = {{2, 4, 2, 25, 60, 20, 12}, {1, 2, 4, 70, 140, 16, 16}, {2, 2, 1, 2, 60, 9, 7}};

template <class T> heed::score_function<T> curved() {
  return {[](T x, const heed::position& p) {
            return x > -std::numeric_limits<T>::infinity()
                       ? x + static_cast<T>(1 + p.head + p.key % 3) * std::sin(x + static_cast<T>(p.place % 5)) / 8
                       : x;
          },
          [](T x, const heed::position& p) {
            return 1 + static_cast<T>(1 + p.head + p.key % 3) * std::cos(x + static_cast<T>(p.place % 5)) / 8;
          }};
}
template <class T> using part = typename option_parts<T>::part;

// Every part alone, and one of `step` pairs
template <class T> void each_pair(const shape& s, std::size_t step) {
  const option_parts<T> parts(s);
  std::size_t turn = 0;
  for (const part<T>& first : parts.all)
    for (const part<T>& second : parts.all) {
      const bool alone = &first == &second;
      if (!alone && (!(first.kind < second.kind) || turn++ % step != 0)) continue;
      INFO(first.name << ", " << second.name);
      const std::vector<const part<T>*> chosen = alone ? std::vector{&first} : std::vector{&first, &second};
      heed::softmax::options<T> how = parts.of(chosen, parts.whole());
      check_backward<T>(s, how);
      if (first.kind == part_kind::score || second.kind == part_kind::score || turn % 3 != 0) continue;
      how.score = curved<T>();
      check_backward<T>(s, how);
    }
}

}  // namespace

TEST_CASE("gradients in float under every option and pairs of them") {
  for (const shape& s : shapes) each_pair<float>(s, 5 * thinning);
}
TEST_CASE("gradients in double under every option and pairs of them") { each_pair<double>(shapes[0], 19 * thinning); }

TEST_CASE("gradients with everything at once") {
  for (const shape& s : shapes)
    for (const double scale : {0.0, -0.4, 0.7}) {
      const option_parts<float> parts(s);
      std::vector<const part<float>*> all;
      for (const part<float>& each : parts.all)
        if (each.name == "softcap" || each.name == "alibi" || each.name == "bias" || each.name == "sinks" ||
            each.name == "causal" || each.name == "first_place" || each.name == "keep")
          all.push_back(&each);
      REQUIRE(all.size() == 7);
      heed::softmax::options<float> how = parts.of(all, parts.whole());
      how.scale = scale, how.score = curved<float>();
      check_backward<float>(s, how);
    }
}

TEST_CASE("dbias: every broadcast of its axes, in every layout, has the sums of the full one") {
  for (const shape& s : shapes) {
    const index_t heads = s.out_heads();
    std::vector<double> numbers(static_cast<std::size_t>(s.batch * heads * s.queries * s.keys));
    random_numbers random(6);
    for (double& x : numbers) x = random.normal();
    for (int axes = 0; axes < 16; ++axes) {  // bit a: axis a is broadcast
      INFO(to_string(s) << ", broadcast " << axes);
      extents n{s.batch, heads, s.queries, s.keys};
      for (std::size_t a = 0; a < 4; ++a)
        if ((axes >> a & 1) != 0) n[a] = 1;
      const heed::tensor_view<const double, 4> bias(numbers.data(), n, {n[1] * n[2] * n[3], n[2] * n[3], n[3], 1});
      const layout how = n[3] > 1 ? output_layouts[static_cast<std::size_t>(axes) % 5] : layout::bhsd;
      backward_case<double> x(s, {.mask = heed::causal(), .bias = bias}, {}, {.dbias = how});
      check(x);
      // written out: the same result, and gradients of which those of x are sums
      std::vector<double> written;
      for (index_t i = 0; i < s.batch * heads * s.queries * s.keys; ++i) {
        const index_t b = i / (heads * s.queries * s.keys), h = i / (s.queries * s.keys) % heads,
                      q = i / s.keys % s.queries, k = i % s.keys;
        written.push_back(bias(n[0] > 1 ? b : 0, n[1] > 1 ? h : 0, n[2] > 1 ? q : 0, n[3] > 1 ? k : 0));
      }
      backward_case<double> full(s, {.mask = heed::causal(),
                                     .bias = {written.data(),
                                              {s.batch, heads, s.queries, s.keys},
                                              {heads * s.queries * s.keys, s.queries * s.keys, s.keys, 1}}});
      check(full);
      CHECK((same_bits(x.dq, full.dq) && same_bits(x.dk, full.dk) && same_bits(x.dv, full.dv)));
      std::vector<double> sums(static_cast<std::size_t>(n[0] * n[1] * n[2] * n[3]), 0), sizes(sums);
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < heads; ++h)
          for (index_t i = 0; i < s.queries; ++i)
            for (index_t j = 0; j < s.keys; ++j) {
              const auto at = static_cast<std::size_t>(
                  (((n[0] > 1 ? b : 0) * n[1] + (n[1] > 1 ? h : 0)) * n[2] + (n[2] > 1 ? i : 0)) * n[3] +
                  (n[3] > 1 ? j : 0));
              sums[at] += full.dbias(b, h, i, j), sizes[at] += std::abs(full.dbias(b, h, i, j));
            }
      double worst = 0;
      std::size_t at = 0;
      x.dbias.each([&](double got) { worst = std::max(worst, std::abs(got - sums[at]) / (sizes[at] + 1e-300)), ++at; });
      CHECK(worst < 1e-13);
    }
  }
}

TEST_CASE("dbias where the bias is stored transposed or along diagonals: its own strides, one number for each pair") {
  const shape s{2, 2, 1, 30, 40, 8, 8};
  std::vector<float> numbers(static_cast<std::size_t>(2 * s.queries * s.keys + 80), 0.25f);
  random_numbers random(2);
  for (float& x : numbers) x = static_cast<float>(random.normal());
  check_backward<float>(s, {.bias = {numbers.data(), {1, 2, 30, 40}, {0, 1200, 1, 30}}});
  check_backward<float>(s, {.bias = {numbers.data() + 30, {1, 1, 30, 40}, {0, 0, -1, 1}}});
  check_backward<float>(s, {.bias = {numbers.data(), {2, 2, 30, 40}, {0, 0, 40, 1}}});
  backward_case<float> x(s, {.bias = {numbers.data(), {1, 1, 30, 40}, {0, 0, 40, 1}}});
  buffer<float> transposed = buffer<float>::output({1, 1, 40, 30});  // dbias with stride 1 along the queries
  check(x);
  x.wanted.dbias = {transposed.view().data(), {1, 1, 30, 40}, {0, 0, 1, 30}};
  x.backward();
  bool same = transposed.canaries_alive();
  for (index_t i = 0; i < 30; ++i)
    for (index_t j = 0; j < 40; ++j) same = same && transposed(0, 0, j, i) == x.dbias(0, 0, i, j);
  CHECK(same);
}

TEST_CASE("dbias along diagonals has their sums, also of packed sequences and heads that share a table") {
  packing p;
  for (const auto& [n, m] : {std::pair(20, 33), std::pair(0, 5), std::pair(41, 41), std::pair(7, 12)}) p.add(n, m);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 8, 8};
  const index_t n = s.queries, m = s.keys, entries = n + m - 1;
  std::vector<double> table(static_cast<std::size_t>(4 * entries)), sums(table.size());
  random_numbers random(3);
  for (double& x : table) x = random.normal();
  for (const bool packed : {false, true})
    for (const index_t tables : {1, 4}) {
      INFO((packed ? "packed, " : "") << tables << " tables");
      heed::softmax::options<double> how{.mask = heed::causal()};
      if (packed) how.mask = how.mask & heed::packed(p.queries, p.keys);
      std::vector<double> written;
      const heed::tensor_view<const double, 4> bias(table.data() + n - 1, {1, tables, n, m}, {0, entries, -1, 1});
      for (index_t h = 0; h < tables; ++h)
        for (index_t i = 0; i < n; ++i)
          for (index_t j = 0; j < m; ++j) written.push_back(bias(0, h, i, j));
      how.bias = {written.data(), {1, tables, n, m}, {0, n * m, m, 1}};
      backward_case<double> full(s, how);
      check(full);
      std::vector<double> expected(sums.size(), 0), sizes(sums.size(), 1e-300);
      for (index_t h = 0; h < tables; ++h)
        for (index_t i = 0; i < n; ++i)
          for (index_t j = 0; j < m; ++j) {
            const auto at = static_cast<std::size_t>(h * entries + n - 1 - i + j);
            expected[at] += full.dbias(0, h, i, j), sizes[at] += std::abs(full.dbias(0, h, i, j));
          }
      how.bias = bias;
      backward_case<double> x(s, how);
      x.wanted.dbias = {sums.data() + n - 1, {1, tables, n, m}, {0, entries, -1, 1}};
      x.forward();
      for (const index_t workers : {1, 3}) {
        test_executor threads(workers, order::reversed, true);
        std::fill(sums.begin(), sums.end(), 77);
        x.backward({.executor = threads});
        double worst = 0;
        for (std::size_t a = 0; a < static_cast<std::size_t>(tables * entries); ++a)
          worst = std::max(worst, std::abs(sums[a] - expected[a]) / sizes[a]);
        CHECK(worst < 1e-12);
        CHECK((same_bits(x.dq, full.dq) && same_bits(x.dk, full.dk) && same_bits(x.dv, full.dv)));
        for (std::size_t a = static_cast<std::size_t>(tables * entries); a < sums.size(); ++a) CHECK(sums[a] == 77);
      }
    }
}

TEST_CASE("slopes and sinks: a gradient for each head, also of one number for all") {
  for (const shape& s : shapes) {
    const auto heads = static_cast<std::size_t>(s.out_heads());
    const std::vector<float> slopes(heads, 0.125f), sinks(heads, 0.5f);
    backward_case<float> one(s, {.alibi_slopes = 0.125f, .sink_logits = 0.5f}),
        each(s, {.alibi_slopes = slopes, .sink_logits = sinks});
    check(one), check(each);
    CHECK(same_gradients(one, each));
    backward_case<double> zero(s, {.alibi_slopes = 0, .sink_logits = -std::numeric_limits<double>::infinity()});
    check(zero);  // a slope of 0 has a gradient, a sink of -inf has none
    CHECK(zero.dslopes(0, 0, 0, 0) != 0);
    CHECK(zero.dsinks(0, 0, 0, 0) == 0);
  }
}

TEST_CASE("gradients of sinks alone are sums over rows, without a pass over keys") {
  backward_case<float> x(shapes[0], {.sink_logits = 0.5f});
  x.wanted = {.dsink_logits = x.wanted.dsink_logits};
  const heed::plan plan = x.backward_plan();
  CHECK(std::string(plan.path) == "backward: sums over rows");
  CHECK(std::string(plan.why.data()).find("sums over rows alone") == 0);
}

TEST_CASE("sinks from far below the scores to far above them") {
  for (const double sink : {-100.0, -20.0, 0.0, 20.0, 60.0}) check_backward<float>(shapes[0], {.sink_logits = sink});
}

TEST_CASE("soft-caps from sharp to none") {
  for (const double cap : {0.05, 0.5, 5.0, 50.0, 1e30}) {
    INFO(cap);
    check_backward<float>(shapes[0], {.scale = 1, .softcap = cap});
    check_backward<double>(shapes[0], {.scale = 1, .softcap = cap});
  }
}

TEST_CASE("score functions: any derivative is passed on, at the score and position of the pair") {
  for (const shape& s : shapes) {
    check_backward<float>(s, {.score = curved<float>()});
    check_backward<float>(s,
                          {.mask = heed::window(20, 3), .softcap = 2, .alibi_slopes = 0.05, .score = curved<float>()});
    check_backward<double>(s, {.mask = heed::causal(), .score = curved<double>()});
    // A derivative of 0: no gradient of q and k
    backward_case<float> x(
        s, {.score = {[](float, const heed::position& p) { return 0.1f * static_cast<float>(p.key % 7); },
                      [](float, const heed::position&) { return 0.f; }}});
    check(x);
    bool zero = true;
    x.dq.each([&](float element) { zero = zero && element == 0; });
    x.dk.each([&](float element) { zero = zero && element == 0; });
    CHECK(zero);
  }
}
