// SPDX-License-Identifier: BSD-3-Clause

// User functions: which position they are told, what they may capture, and which pairs they are asked about.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;
using heed::position;

namespace {

// Both drivers, groups, more key/value heads, several tiles of queries and keys, odd sizes.
constexpr shape shapes[] = {{3, 4, 2, 37, 53, 8, 8}, {1, 1, 1, 150, 300, 8, 8}, {2, 2, 6, 20, 30, 8, 8},
                            {3, 4, 2, 3, 53, 8, 8},  {2, 6, 1, 1, 300, 8, 8},   {2, 1, 3, 5, 140, 8, 8}};

// A number in [-1, 1) of all of a position; exact in float.
template <class T> T mix(const position& at) {
  const auto n = [](std::int32_t x) { return static_cast<std::uint32_t>(x); };
  std::uint32_t x = n(at.batch) * 97 + n(at.head);
  for (const std::uint32_t y : {n(at.query), n(at.key), n(at.place)}) x = (x ^ y) * 2654435761u + (x >> 15);
  return static_cast<T>(static_cast<std::int32_t>((x >> 12) & 0xffff) - 0x8000) / 0x8000;
}

// Notes which positions it was told, and counts those that are none.
struct watch {
  shape s;
  std::vector<std::int32_t> times;
  int bad = 0;
  void see(const position& at) {
    const bool legal = at.batch >= 0 && at.batch < s.batch && at.head >= 0 && at.head < s.out_heads() &&
                       at.query >= 0 && at.query < s.queries && at.key >= 0 && at.key < s.keys &&
                       at.place == at.query + s.keys - s.queries;
    bad += !legal;
    if (legal)
      ++times[static_cast<std::size_t>(((at.batch * s.out_heads() + at.head) * s.queries + at.query) * s.keys +
                                       at.key)];
  }
};

}  // namespace

TEST_CASE("score functions and predicates see the reference's positions") {
  for (const shape& s : shapes) {
    std::vector<std::int32_t> first;
    for (index_t b = 0; b < s.batch; ++b) first.push_back(static_cast<std::int32_t>(7 * b) - 5);
    for (const heed::alignment& align : {heed::bottom_right, heed::top_left, heed::first_place(first)})
      for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(20, 4, 2)}) {
        const auto score = [](float x, const position& at) { return x + 4 * mix<float>(at); };
        const auto sees = [](const position& at) { return mix<float>(at) > -0.5f; };
        check<float>(s, {.mask = mask, .align = align, .score = score});
        check<float>(s, {.mask = mask & heed::visible_if(sees), .align = align});
        check<float>(s, {.mask = mask & heed::visible_if(sees), .align = align, .score = score});
        check<double>(s, {.mask = mask & heed::visible_if(sees),
                          .align = align,
                          .score = [](double x, const position& at) { return x + 4 * mix<double>(at); }});
      }
  }
}

TEST_CASE("in packed sequences positions count within the sequence") {
  packing p;
  p.add(0, 4), p.add(40, 60), p.add(3, 20), p.add(1, 0), p.add(20, 7), p.add(2, 150);
  for (const index_t heads : {1, 4}) {
    const shape s{1, heads, 1, p.queries.back(), p.keys.back(), 8, 8};
    for (const heed::alignment& align : {heed::bottom_right, heed::top_left}) {
      const auto score = [](float x, const position& at) { return x + 4 * mix<float>(at); };
      const auto sees = [](const position& at) { return mix<float>(at) > -0.5f; };
      const heed::mask packed = heed::packed(p.queries, p.keys);
      check<float>(s, {.mask = packed, .align = align, .score = score});
      check<float>(s, {.mask = packed & heed::visible_if(sees), .align = align});
      check<float>(s, {.mask = packed & heed::causal() & heed::visible_if(sees), .align = align, .score = score});
    }
    int wrong = 0;  // each sequence's own numbers, and no other
    const auto inside = [&wrong, &p](const position& at) {
      const auto b = static_cast<std::size_t>(at.batch);
      const std::int32_t n = p.queries[b + 1] - p.queries[b], m = p.keys[b + 1] - p.keys[b];
      wrong += !(0 <= at.query && at.query < n && 0 <= at.key && at.key < m && at.place == at.query + m - n);
      return true;
    };
    check<float>(s, {.mask = heed::packed(p.queries, p.keys) & heed::visible_if(inside)});
    CHECK(wrong == 0);
  }
}

TEST_CASE("every visible pair is asked about, and no position that is none") {
  for (const shape& s : shapes)
    for (const bool predicate : {true, false})
      for (const heed::mask& mask : {heed::mask{}, heed::causal()}) {
        INFO(to_string(s) << (predicate ? ", visible_if" : ", score"));
        watch seen{s,
                   std::vector<std::int32_t>(static_cast<std::size_t>(s.batch * s.out_heads() * s.queries * s.keys))};
        softmax_case<float> x(s, {.mask = mask});
        if (predicate)
          x.options.mask = mask & heed::visible_if([&seen](const position& at) { return seen.see(at), true; });
        else
          x.options.score = [&seen](float y, const position& at) { return seen.see(at), y; };
        x.forward();
        CHECK(seen.bad == 0);
        bool all = true;
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.out_heads(); ++h)
            for (index_t i = 0; i < s.queries; ++i)
              for (index_t j = 0; j < s.keys; ++j) {
                const bool visible = heed::detail::parts(mask).present == 0 || j <= i + s.keys - s.queries;
                all =
                    all &&
                    (!visible ||
                     seen.times[static_cast<std::size_t>(((b * s.out_heads() + h) * s.queries + i) * s.keys + j)] >= 1);
              }
        CHECK(all);
      }
}

TEST_CASE("32 bytes of captures, by value and by reference") {
  for (const shape& s : {shapes[0], shapes[3]}) {
    const std::array<double, 4> d{0.5, -0.25, 2, 1};
    const std::array<std::int32_t, 8> n{1, 2, 3, 4, 5, 6, 7, 3};
    const auto score = [d](float x, const position& at) {
      return static_cast<float>(d[0] * static_cast<double>(x) + d[1] * (at.key % 3) + d[2] * (at.head % 2) + d[3]);
    };
    const auto sees = [n](const position& at) { return (at.key + n[7]) % n[3] != 0 || at.query % n[0] == n[6]; };
    static_assert(sizeof score == 32 && sizeof sees == 32);
    check<float>(s, {.score = score});
    check<float>(s, {.mask = heed::visible_if(sees)});
    check<float>(s, {.mask = heed::visible_if(sees), .score = score});

    // What a function refers to is read during the call, not before it.
    std::vector<float> table(static_cast<std::size_t>(s.keys), 0);
    softmax_case<float> x(
        s, {.score = [&table](float y, const position& at) { return y + table[static_cast<std::size_t>(at.key)]; }});
    for (std::size_t j = 0; j < table.size(); ++j) table[j] = static_cast<float>(j % 5) - 2;
    check(x);
    std::vector<float> bias = table;  // the same as a bias per key
    softmax_case<float> y(s, {.bias = {bias.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1}}});
    y.forward();
    double worst = 0;
    for (index_t i = 0; i < s.queries; ++i)
      worst = std::max(worst, std::abs(static_cast<double>(x.o(0, 0, i, 0) - y.o(0, 0, i, 0))));
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("function pointers") {
  struct functions {
    static float score(float x, const position& at) { return 0.5f * x + 0.01f * static_cast<float>(at.key); }
    static bool sees(const position& at) { return at.key % 2 == 0 || at.place == at.key; }
  };
  for (const shape& s : shapes)
    check<float>(s, {.mask = heed::visible_if(&functions::sees), .score = &functions::score});
}

TEST_CASE("a score function sees what scale, soft-cap, ALiBi and bias have made, in natural units") {
  // Rows that fill whole vectors: lanes without a row are asked about the last row's positions, with other scores.
  for (const shape& s : {shape{1, 2, 1, 32, 50, 8, 8}, shape{1, 2, 1, 2, 50, 8, 8}}) {
    std::vector<float> bias(static_cast<std::size_t>(s.queries * s.keys));
    random_numbers random(3);
    for (float& b : bias) b = static_cast<float>(random.normal());
    std::vector<double> told(static_cast<std::size_t>(2 * s.queries * s.keys), 1e9);
    softmax_case<float> x(s, {.scale = 0.6,
                              .softcap = 1.25,
                              .alibi_slopes = 0.03,
                              .bias = {bias.data(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}},
                              .score = [&told, &s](float y, const position& at) {
                                told[static_cast<std::size_t>((at.head * s.queries + at.query) * s.keys + at.key)] =
                                    static_cast<double>(y);
                                return y;
                              }});
    x.forward();
    double worst = 0;
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j) {
          double dot = 0;
          for (index_t d = 0; d < s.dim; ++d) dot += static_cast<double>(x.q(0, h, i, d) * x.k(0, 0, j, d));
          const double expected = 1.25 * std::tanh(0.6 * dot / 1.25) -
                                  0.03 * std::abs(static_cast<double>(i + s.keys - s.queries - j)) +
                                  static_cast<double>(bias[static_cast<std::size_t>(i * s.keys + j)]);
          worst =
              std::max(worst, std::abs(expected - told[static_cast<std::size_t>((h * s.queries + i) * s.keys + j)]));
        }
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("functions run on the executor's threads, one tile at a time") {
  const shape s{2, 4, 2, 150, 130, 8, 8};
  const heed::softmax::options<float> how{
      .mask = heed::visible_if([](const position& at) { return mix<float>(at) > -0.5f; }),
      .score = [](float x, const position& at) { return x + mix<float>(at); }};
  softmax_case<float> serial(s, how);
  check(serial);
  for (const index_t workers : {2, 4}) {
    test_executor executor(workers, order::shuffled, true);
    softmax_case<float> x(s, how);
    x.forward({.executor = executor});
    CHECK((same_bits(x.o, serial.o) && same_bits(x.lse, serial.lse)));
  }
}
