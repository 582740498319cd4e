// SPDX-License-Identifier: BSD-3-Clause

// Options at the ends of their ranges: places at the ends of int32, soft-caps, slopes and biases of any size, scale 0,
// empty calls, strides 0 and negative, ids that differ in few bits.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr std::int32_t least = std::numeric_limits<std::int32_t>::min(),
                       most = std::numeric_limits<std::int32_t>::max();
constexpr float float_max = std::numeric_limits<float>::max();
constexpr shape many{1, 2, 1, 40, 90, 8, 8}, few{1, 2, 1, 3, 90, 8, 8}, one_key{1, 2, 1, 20, 1, 8, 8};
constexpr shape shapes[] = {many, few, one_key, {1, 1, 1, 1, 1, 8, 8}};

}  // namespace

TEST_CASE("places at the ends of int32") {
  for (const shape& s : shapes) {
    const auto n = static_cast<std::int32_t>(s.queries);
    for (const std::int32_t first :
         {least, least + 1, least + n, -(1 << 24) - 1, (1 << 24) + 1, most - n - 100, most - n + 1, most - 1, most}) {
      INFO(to_string(s) << ", first place " << first);
      const std::vector<std::int32_t> place{first};
      const heed::alignment align = heed::first_place(place);
      const auto near = [](const heed::position& at) { return at.place < 0 || at.key % 2 == at.place % 2; };
      for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(5), heed::window(-1, 3),
                                     heed::window(3, -1), heed::window(3, -1, 7), heed::window(most, most),
                                     heed::visible_if(near), heed::causal() & heed::visible_if(near)})
        for (const double slope : {0.0, 1e-9, 0.5}) {
          heed::softmax::options<float> how{.mask = mask, .align = align};
          if (slope > 0) how.alibi_slopes = slope;
          check<float>(s, how);
          check<double>(s, {.mask = mask, .align = align, .alibi_slopes = slope});
        }
    }
  }
}

TEST_CASE("soft-caps from nearly nothing to none") {
  for (const shape& s : shapes)
    for (const bool with_function : {false, true})
      for (const double cap :
           {1e-30, 1e-20, 1e-6, 1.0, 1e6, 1e20, 1e29, 1e38, 1e300, std::numeric_limits<double>::infinity()}) {
        INFO(to_string(s) << ", soft-cap " << cap << with_function);
        heed::softmax::options<float> how{.softcap = cap};
        heed::softmax::options<double> wide{.softcap = cap};
        if (with_function) {
          how.score = [](float x, const heed::position& at) { return x + 0.1f * static_cast<float>(at.key % 3); };
          wide.score = [](double x, const heed::position& at) { return x + 0.1 * (at.key % 3); };
        }
        check<float>(s, how);
        check<double>(s, wide);
      }
}

TEST_CASE("soft-caps that a float does not hold: scores of 0") {
  for (const shape& s : shapes)
    for (const double cap : {1e-36, 1e-38, 1e-45, 1e-60, 1e-300, std::numeric_limits<double>::denorm_min()}) {
      INFO(to_string(s) << ", soft-cap " << cap);
      check<float>(s, {.softcap = cap});
    }
}

TEST_CASE("a scale so far below the soft-cap that a float does not hold their ratio") {
  for (const shape& s : shapes) {
    INFO(to_string(s));
    softmax_case<float> x(s, {.scale = 1e-30, .softcap = 1e20});
    for (const buffer<float>* each : {&x.q, &x.k}) each->each([](float& a) { a *= 1e15f; });
    check(x);
  }
}

TEST_CASE("a soft-cap of infinity is none, bit by bit") {
  for (const shape& s : shapes) {
    softmax_case<float> plain(s), capped(s, {.softcap = std::numeric_limits<double>::infinity()});
    plain.forward(), capped.forward();
    CHECK((same_bits(plain.o, capped.o) && same_bits(plain.lse, capped.lse)));
  }
}

TEST_CASE("slopes 0 and large, per head and mixed") {
  for (const shape& s : shapes) {
    const std::vector<double> mixed{0, 100};
    const std::vector<float> zero{0, 0};
    check<float>(s, {.alibi_slopes = 0});
    if (s.out_heads() == 2) check<float>(s, {.alibi_slopes = mixed});
    for (const double slope : {1e-30, 10.0, 1e4, 1e30})
      check<float>(s, {.mask = heed::causal(), .alibi_slopes = slope});
    if (s.out_heads() != 2) continue;
    softmax_case<float> none(s), zeros(s, {.alibi_slopes = zero});
    none.forward(), zeros.forward();
    bool equal = true;
    for (index_t i = 0; i < s.queries; ++i) equal = equal && std::abs(none.lse(0, 1, i) - zeros.lse(0, 1, i)) < 1e-5f;
    CHECK(equal);
  }
}

TEST_CASE("scale 0 with every option and mask") {
  for (const shape& s : shapes) {
    const option_parts<float> parts(s);
    for (const auto& part : parts.all) {
      INFO(to_string(s) << ", " << part.name);
      heed::softmax::options<float> how = parts.of({&part}, parts.whole());
      how.scale = 0;
      check<float>(s, how);
      how.softcap = 2;
      check<float>(s, how);
    }
  }
}

// The lowest float is what many programs write where they mean -inf. It is a number: beside others it hides the key,
// a row of nothing else is a mean. Scores up to 2.3e38, the largest that fit in units of log 2, hold for both signs.
TEST_CASE("biases and scores as large as numbers are") {
  for (const shape& s : shapes)
    for (const float large : {-1e4f, -1e30f, -1e38f, -2.3e38f, -3e38f, -float_max, 1e30f, 1e38f, 2.3e38f})
      for (const bool all : {true, false}) {
        INFO(to_string(s) << ", " << large << (all ? " everywhere" : " in places"));
        if (all && large == -1e4f) continue;  // the scores beside it are not lost
        std::vector<float> bias(static_cast<std::size_t>(s.keys), large), same(bias.size(), 0);
        for (std::size_t j = 0; j < bias.size(); ++j) {
          const bool other = !all && (j % 3 == 1 || s.keys == 1);
          if (other) bias[j] = 0;
          if (!all && other == (large > 0) && s.keys > 1) same[j] = -std::numeric_limits<float>::infinity();
        }
        const auto per_key = [&](const std::vector<float>& x) {
          return heed::tensor_view<const float, 4>(x.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1});
        };
        softmax_case<float> by_bias(s, {.bias = per_key(bias)}), expected(s, {.bias = per_key(same)});
        softmax_case<float> by_score(s, {.score = [&bias](float x, const heed::position& at) {
                                       return x + bias[static_cast<std::size_t>(at.key)];
                                     }});
        if (all || large > 0) expected.options.scale = 0;  // beside 1e30 scores are nothing
        check(expected);
        for (softmax_case<float>* x : {&by_bias, &by_score}) {
          x->forward();
          double worst = 0;
          bool finite = true;
          for (index_t h = 0; h < s.out_heads(); ++h)
            for (index_t i = 0; i < s.queries; ++i) {
              finite = finite && std::isfinite(x->lse(0, h, i));
              for (index_t e = 0; e < s.value_dim; ++e)
                worst = std::max(worst, std::abs(static_cast<double>(x->o(0, h, i, e) - expected.o(0, h, i, e))));
            }
          CHECK(finite);
          CHECK(worst <= 2e-6);
          if (all && std::abs(large) <= 2.3e38f) CHECK(x->lse(0, 0, 0) == Approx(large));
        }
      }
}

// Scores are in units of log 2: the largest sink is the largest number over log2(e). A row without keys shows it as
// lse.
template <class T> void largest_sink(double bound) {
  CHECK(bound == Approx(static_cast<double>(std::numeric_limits<T>::max()) / std::log2(std::exp(1))).epsilon(1e-3));
  for (const index_t rows : {2, 40})
    for (const double sign : {-1.0, 1.0})
      for (const double part : {0.5, 0.9999, 1.001, 1.27}) {
        const double sink = sign * bound * part;
        INFO(rows << " rows, sink " << sink);
        softmax_case<T> none({1, 1, 1, rows, 0, 8, 8}, {.sink_logits = sink});
        none.forward();
        const double shown = static_cast<double>(none.lse(0, 0, rows - 1)) / sign / bound;
        CHECK(shown == Approx(std::min(part, 1.0)).epsilon(5e-4));
        softmax_case<T> five({1, 1, 1, rows, 5, 8, 8}, {.sink_logits = sink});
        if (sign < 0) {
          check(five);  // it adds nothing
          continue;
        }
        five.forward();
        CHECK(same_bits(five.lse, none.lse));  // it is all of the sum
        bool zero = true;
        five.o.each([&](T x) { zero = zero && x == 0; });
        CHECK(zero);
      }
}
TEST_CASE("the largest sink: exact up to the bound, cut beyond it") {
  largest_sink<float>(2.358e38), largest_sink<double>(1.246e308);
}

TEST_CASE("sinks of any size") {
  for (const shape& s : shapes)
    for (const double sink : {-std::numeric_limits<double>::infinity(), -1e30, -300.0, 0.0, 300.0, 1e30}) {
      INFO(to_string(s) << ", sink " << sink);
      check<float>(s, {.sink_logits = sink});
      check<float>(s, {.mask = heed::causal(), .align = heed::top_left, .sink_logits = sink});
      const std::vector<std::int32_t> before{-1000};
      check<float>(s, {.mask = heed::causal(), .align = heed::first_place(before), .sink_logits = sink});
    }
}

TEST_CASE("no queries, no keys, one key: every option and mask") {
  for (const shape& s : {shape{1, 2, 1, 0, 9, 8, 8}, shape{1, 2, 1, 5, 0, 8, 8}, shape{1, 2, 1, 20, 0, 8, 8},
                         shape{1, 2, 1, 0, 0, 8, 8}, shape{2, 2, 4, 1, 1, 8, 8}, shape{1, 20, 1, 1, 1, 8, 8}}) {
    const option_parts<float> parts(s);
    for (const auto& first : parts.all)
      for (const auto& second : parts.all) {
        if (first.kind == second.kind) continue;
        INFO(to_string(s) << ", " << first.name << " and " << second.name);
        check<float>(s, parts.of({&first, &second}, parts.whole()));
      }
  }
}

TEST_CASE("bias, keep and ids with strides 0 and negative") {
  for (const shape& s : {many, few}) {
    const index_t n = s.queries, m = s.keys;
    std::vector<float> numbers(static_cast<std::size_t>(2 * n * m));
    random_numbers random(5);
    for (float& x : numbers) x = static_cast<float>(random.normal());
    const auto visible = std::make_unique<bool[]>(numbers.size());
    for (std::size_t i = 0; i < numbers.size(); ++i) visible[i] = numbers[i] > -0.7f;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(n + m));
    for (std::int32_t& id : ids) id = random.below(3);
    struct placing {
      index_t first;
      std::array<index_t, 4> strides;
    };
    const placing ways[] = {{0, {0, 0, 0, 0}},
                            {0, {0, 0, 0, 1}},
                            {m - 1, {0, 0, 0, -1}},
                            {0, {0, n * m, m, 1}},
                            {n * m - m, {0, n * m, -m, 1}},
                            {n * m - 1, {0, 0, -m, -1}},
                            {n * m, {0, -n * m, m, 1}},
                            {0, {0, 0, 1, n}},
                            {n - 1, {0, 0, -1, n}},
                            {n, {0, 0, -1, 1}},
                            {m, {0, 0, 1, -1}},
                            {0, {0, 0, 1, 1}},
                            {0, {0, 0, 1, 0}},
                            {n, {0, 0, -1, 0}},
                            {0, {0, 0, 0, 2}},
                            {0, {0, 0, 2, 1}},
                            {2 * m, {0, 0, 1, -2}}};
    for (const auto& [first, strides] : ways) {
      INFO(to_string(s) << ", from " << first << ", strides " << strides[1] << " " << strides[2] << " " << strides[3]);
      check<float>(s, {.bias = {numbers.data() + first, {1, 2, n, m}, strides}});
      check<float>(s, {.mask = heed::keep({visible.get() + first, {1, 2, n, m}, strides})});
      check<float>(s, {.mask = heed::causal() & heed::keep({visible.get() + first, {1, 2, n, m}, strides})});
    }
    for (const index_t query_stride : {-1, 0, 1})
      for (const index_t key_stride : {-1, 0, 1}) {
        const std::int32_t* const q = ids.data() + (query_stride < 0 ? n - 1 : 0);
        const std::int32_t* const k = ids.data() + (key_stride < 0 ? m - 1 : 0);
        check<float>(s, {.mask = heed::segments({q, {1, n}, {0, query_stride}}, {k, {1, m}, {0, key_stride}})});
      }
  }
}

TEST_CASE("keep with every choice of broadcast axes") {
  for (const shape& s : {shape{2, 4, 2, 40, 90, 8, 8}, shape{2, 4, 2, 3, 90, 8, 8}}) {
    const extents full{s.batch, s.out_heads(), s.queries, s.keys};
    const index_t count = full[0] * full[1] * full[2] * full[3];
    const auto visible = std::make_unique<bool[]>(static_cast<std::size_t>(count));
    random_numbers random(11);
    for (index_t i = 0; i < count; ++i) visible[static_cast<std::size_t>(i)] = random.uniform() < 0.6;
    for (unsigned axes = 0; axes < 16; ++axes) {
      std::array<index_t, 4> n{}, stride{};
      index_t step = 1;
      for (std::size_t a = 4; a-- > 0;) {
        n[a] = (axes >> a & 1) != 0 ? 1 : full[a];
        stride[a] = step;
        step *= n[a];
      }
      INFO("axes " << axes);
      check<float>(s, {.mask = heed::keep({visible.get(), n, stride})});
      check<double>(s, {.mask = heed::window(30) & heed::keep({visible.get(), n, stride})});
    }
  }
}

TEST_CASE("keep of nothing and of everything, in blocks") {
  for (const shape& s : {shape{1, 1, 1, 80, 600, 8, 8}, shape{1, 1, 1, 2, 600, 8, 8}}) {
    const auto visible = std::make_unique<bool[]>(static_cast<std::size_t>(s.queries * s.keys));
    const heed::tensor_view<const bool, 4> view(visible.get(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1});
    check<float>(s, {.mask = heed::keep(view)});
    for (const index_t block : {16, 50, 64, 256}) {
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j)
          visible[static_cast<std::size_t>(i * s.keys + j)] = (i / block + j / block) % 2 == 0;
      check<float>(s, {.mask = heed::keep(view)});
      check<float>(s, {.mask = heed::keep(view) & heed::causal()});
    }
    std::fill_n(visible.get(), s.queries * s.keys, true);
    softmax_case<float> all(s, {.mask = heed::keep(view)}), none(s);
    all.forward(), none.forward();
    CHECK((same_bits(all.o, none.o) && same_bits(all.lse, none.lse)));
  }
}

TEST_CASE("ids that differ in the low or the high half only, and of either sign") {
  const std::vector<std::vector<std::int32_t>> sets = {{0, 1, 0x10000, 0x10001},
                                                       {-1, 0xffff, -0x10000, 0},
                                                       {least, most, -1, 0},
                                                       {0x7fff0000, 0x7fff0001, 0, 1},
                                                       {-2, -1, 0xfffe, 0xffff},
                                                       {least, least + 1, least + 0x10000, 0},
                                                       {16777216, 16777217, 16777218, 16777219},
                                                       {-16777217, -16777216, 16777217, 16777216}};
  for (const shape& s : {many, few, shape{1, 2, 1, 80, 300, 8, 8}})
    for (const auto& set : sets)
      for (const index_t run : {1, 7, 32}) {  // mixed, and in order as documents are
        std::vector<std::int32_t> q, k;
        for (index_t i = 0; i < s.queries; ++i) q.push_back(set[static_cast<std::size_t>(i / run % 4)]);
        for (index_t j = 0; j < s.keys; ++j) k.push_back(set[static_cast<std::size_t>(j / run % 4)]);
        INFO(to_string(s) << ", " << set[0] << " " << set[1] << " " << set[2] << " " << set[3] << ", runs of " << run);
        const heed::mask mask = heed::segments({q.data(), {1, s.queries}, {0, 1}}, {k.data(), {1, s.keys}, {0, 1}});
        check<float>(s, {.mask = mask});
        check<double>(s, {.mask = mask & heed::causal()});
      }
}

TEST_CASE("a bias and a keep without keys") {
  const shape none{1, 2, 1, 20, 0, 8, 8};
  static const float number = 0;
  for (const index_t queries : {index_t{20}, index_t{2}}) {
    shape s = none;
    s.queries = queries;
    check<float>(s, {.mask = heed::keep({nullptr, {1, 1, queries, 0}, {0, 0, 1, 1}}),
                     .alibi_slopes = 1,
                     .bias = {&number, {1, 1, queries, 0}, {0, 0, 1, 1}}});
  }
}
