// SPDX-License-Identifier: BSD-3-Clause

// linear::forward beside the reference: feature maps, masks, alignments, chunks, states, layouts.

#include <cmath>
#include <limits>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

using heed::feature;
template <class T> using options = heed::linear::options<T>;

constexpr feature all_features[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                                    feature::silu,     feature::exp,          feature::softmax, feature::taylor};

template <class T> void check(const shape& s, const options<T>& how = {}, layouts in = {}, index_t count = -1) {
  linear_case<T> x(s, how, in, count);
  heed_test::check(x);
}
bool positive(feature map) { return map != feature::identity && map != feature::silu; }

}  // namespace

TEST_CASE("every feature map, causal and not, normalised and not") {
  std::size_t turn = 0;
  for (const feature map : all_features)
    for (const index_t d : {1, 5, 16, 20}) {
      for (const index_t n : {1, 17, 70, 150}) {
        const shape s{1, 2, 1, n, n, d, 24};
        for (const bool causal : {false, true}) {
          if (turn++ % thinning != 0) continue;
          const heed::mask mask = causal ? heed::causal() : heed::mask();
          check<float>(s, {.mask = mask, .scale = 0.7, .feature = map, .normalize = false});
          if (positive(map)) check<float>(s, {.mask = mask, .scale = 0.7, .feature = map, .eps = 1e-3});
          if (n == 70) check<double>(s, {.mask = mask, .feature = map, .normalize = positive(map)});
        }
      }
    }
}

TEST_CASE("taylor features of wider heads, more than one block of them, and long chunks of their own accord") {
  for (const index_t d : {33, 64}) {
    check<float>({1, 1, 1, 40, 40, d, 20}, {.mask = heed::causal(), .feature = feature::taylor});
    check<float>({1, 1, 1, 40, 40, d, 16}, {.mask = heed::causal(), .feature = feature::taylor, .chunk = 16});
  }
  check<float>({1, 1, 1, 700, 700, 20, 16}, {.mask = heed::causal(), .feature = feature::taylor});
}

TEST_CASE("functions of the caller's, causal and not, in float and double") {
  const auto check_function = [](auto number, bool causal) {
    using T = decltype(number);
    const T shift = T(0.5);
    const auto f = [shift](T x) { return x > 0 ? x + shift : shift; };
    const heed::mask mask = causal ? heed::causal() : heed::mask();
    linear_case<T> x({1, 2, 1, 70, 70, 20, 12}, {.mask = mask, .feature = {f, [](T) { return T(1); }}});
    x.forward();
    const verdict result = compare(
        x, heed::feature_map<double>([](double a) { return a > 0 ? a + 0.5 : 0.5; }, [](double) { return 1.0; }));
    INFO(result.where);
    CHECK(result.worst <= 1);
  };
  for (const bool causal : {false, true}) check_function(0.0f, causal), check_function(0.0, causal);
}

TEST_CASE("any alignment of queries and keys, causal; lengths; packed") {
  std::size_t turn = 0;
  const std::vector<std::int32_t> into{10, 60}, before{-40, -100}, beyond{200, 20}, seen{55, 0};
  for (const index_t n : {1, 40, 100})
    for (const index_t m : {0, 1, 60, 130})
      for (const heed::alignment& align : {heed::bottom_right, heed::top_left, heed::first_place(into),
                                           heed::first_place(before), heed::first_place(beyond)})
        for (const index_t chunk : {0, 7, 64}) {
          if (turn++ % thinning != 0) continue;
          check<float>({2, 2, 1, n, m, 16, 20}, {.mask = heed::causal(), .align = align, .chunk = chunk});
          if (m >= 55)
            check<float>({2, 2, 1, n, m, 16, 20},
                         {.mask = heed::causal() & heed::key_lengths(seen), .align = align, .chunk = chunk});
        }
  for (const index_t n : {1, 40, 100})  // places 55 - n and -n on
    for (const index_t m : {60, 130}) {
      check<float>({2, 2, 1, n, m, 16, 20},
                   {.mask = heed::causal() & heed::key_lengths(seen), .align = heed::end_of_lengths});
      check<float>({2, 2, 1, n, m, 16, 20}, {.mask = heed::key_lengths(seen), .align = heed::end_of_lengths});
    }
  const std::vector<std::int32_t> q_at{0, 0, 70, 71, 100}, k_at{0, 20, 90, 90, 130}, each{20, 33, 0, 40};
  for (const bool causal : {false, true}) {
    const heed::mask mask = causal ? heed::causal() : heed::mask();
    check<float>({1, 4, 2, 100, 130, 16, 20}, {.mask = mask & heed::packed(q_at, k_at)}, {}, 4);
    for (const heed::alignment& align : {heed::bottom_right, heed::end_of_lengths})
      check<float>({1, 4, 2, 100, 130, 16, 20},
                   {.mask = mask & heed::packed(q_at, k_at) & heed::key_lengths(each), .align = align}, {}, 4);
  }
}

TEST_CASE("any chunk gives the same numbers") {
  for (const index_t chunk : {1, 7, 16, 24, 64, 65, 300, 100000}) {
    check<float>({1, 2, 1, 200, 200, 20, 24}, {.mask = heed::causal(), .chunk = chunk});
    check<float>({1, 2, 1, 50, 200, 20, 24}, {.chunk = chunk});
    check<double>({1, 1, 1, 100, 100, 5, 3}, {.mask = heed::causal(), .feature = feature::taylor, .chunk = chunk});
  }
}

TEST_CASE("head dims, groups, layouts") {
  std::size_t turn = 0;
  for (const index_t d : head_dims) {
    const index_t e = head_dims[(++turn * 3 + 1) % std::size(head_dims)];
    check<float>({turn % 2 == 0 ? 2 : 1, 7, 1, 66, 66, d, e}, {.mask = heed::causal()});
    check<float>({1, 4, 2, 40, 90, d, e});
  }
  const shape s{2, 4, 2, 70, 70, 20, 12};
  for (const layout in : input_layouts)
    check<float>(s, {.mask = heed::causal()}, {.q = in, .k = in, .v = in, .skew = 3});
  for (const layout out : output_layouts) check<float>(s, {.mask = heed::causal()}, {.o = out, .lse = out, .skew = 1});
}

TEST_CASE("final states take all tokens where no query head is there to read them") {
  test_executor workers(4);
  for (const shape& s : {shape{2, 0, 2, 70, 70, 8, 9}, shape{1, 0, 3, 5, 70, 8, 4}}) {
    linear_case<float> x(s, {.mask = heed::causal()}), y(s);
    heed_test::check(x), heed_test::check(y, {.executor = workers});
    CHECK((all_written(x.z1) && all_written(y.z1)));
  }
}

TEST_CASE("states: none, one memory for both, a row without a key reads the initial one") {
  for (const bool causal : {false, true}) {
    const shape s{1, 2, 1, 70, 70, 16, 20};
    const options<float> how{.mask = causal ? heed::causal() : heed::mask()};
    linear_case<float> x(s, how), both(s, how);
    both.options.final_state = both.memory();
    both.forward();
    heed_test::check(x);
    CHECK((same_bits(x.o, both.o) && same_bits(x.s1, both.s0) && same_bits(x.z1, both.z0)));
    x.options.initial_state = {};
    heed_test::check(x);
    x.options.final_state = {};
    heed_test::check(x);
  }
  linear_case<float> nothing({1, 1, 1, 40, 0, 8, 8}, {.eps = 0});  // no key, no state: 0
  nothing.options.initial_state = {};
  heed_test::check(nothing);
  bool zero = true;
  nothing.o.each([&](float x) { zero = zero && x == 0; });
  CHECK(zero);
}

TEST_CASE("every option changes the result") {
  const shape s{1, 1, 1, 40, 40, 8, 8};
  linear_case<float> plain(s), causal(s, {.mask = heed::causal()}), scaled(s, {.scale = 0.01}),
      other(s, {.feature = feature::relu}), sums(s, {.normalize = false}), eps(s, {.eps = 1.0}),
      top(s, {.mask = heed::causal(), .align = heed::top_left});
  for (auto* x : {&plain, &causal, &scaled, &other, &sums, &eps}) x->forward();
  for (auto* x : {&causal, &scaled, &other, &sums, &eps}) CHECK_FALSE(same_bits(x->o, plain.o));
  linear_case<float> longer({1, 1, 1, 20, 40, 8, 8}, {.mask = heed::causal()}),
      early({1, 1, 1, 20, 40, 8, 8}, {.mask = heed::causal(), .align = heed::top_left});
  longer.forward(), early.forward();
  CHECK_FALSE(same_bits(longer.o, early.o));
}

TEST_CASE("a wrong alignment and a wrong feature fail") {
  linear_case<float> x({1, 1, 1, 40, 41, 8, 8}, {.mask = heed::causal()});
  x.forward();
  CHECK(compare(x).worst <= 1);
  CHECK(compare(x, feature::relu).worst > 1);
  x.options.align = heed::top_left;
  CHECK(compare(x).worst > 1);
}

TEST_CASE("end_of_lengths: a padded cache is the same call on the tokens that it holds; why names the place") {
  const std::vector<std::int32_t> held{50};
  linear_case<float> x({1, 2, 1, 20, 90, 16, 20},
                       {.mask = heed::causal() & heed::key_lengths(held), .align = heed::end_of_lengths, .chunk = 16});
  heed_test::check(x);
  CHECK(says(x.plan(), "query 0 at place 30"));
  linear_case<float> alone({1, 2, 1, 20, 90, 16, 20}, {.mask = heed::causal(), .chunk = 16});
  const recurrent_call<float> all = alone.call();
  run_forward<float>({all.q, heed::slice(all.k, 2, 0, 50), heed::slice(all.v, 2, 0, 50), all.o}, alone.options, {});
  CHECK((same_bits(x.o, alone.o) && same_bits(x.s1, alone.s1) && same_bits(x.z1, alone.z1)));
  CHECK_FALSE(says(linear_case<float>({1, 1, 1, 20, 90, 8, 8}).plan(), "place"));
}

// phi(q).phi(k) overflows; the results do not.
void large_numbers(float size, double scale) {
  for (const feature map : {feature::elu_plus_one, feature::identity, feature::relu})
    for (const bool causal : {true, false})
      for (const bool normalize : {true, false}) {
        if (normalize && map == feature::identity) continue;  // its denominators may be anything
        INFO(static_cast<double>(size) << ", scale " << scale << ", feature " << static_cast<int>(map));
        linear_case<float> x(
            {1, 2, 1, 70, 70, 16, 20},
            {.mask = causal ? heed::causal() : heed::mask{}, .scale = scale, .feature = map, .normalize = normalize});
        x.q.each([&](float& a) { a = size * std::abs(a); });
        x.k.each([&](float& a) { a = size * std::abs(a); });
        heed_test::check(x);
        bool finite = true;
        x.o.each([&](float a) { finite = finite && std::isfinite(a); });
        CHECK(finite);
      }
}
TEST_CASE("a scale below 1 keeps products in range that would leave it") {
  large_numbers(2e19f, 1e-10), large_numbers(2e19f, -3e-5), large_numbers(1e25f, 1e-20);
}

TEST_CASE("sums of weights near the largest float; a scale that a normaliser without eps cancels") {
  for (const double scale : {1.0, 0.5, 1e-12, 3.0}) {
    linear_case<float> x({1, 1, 1, 1, 1, 1, 1}, {.scale = scale, .feature = feature::exp});
    x.q(0, 0, 0, 0) = x.k(0, 0, 0, 0) = 43.9f, x.v(0, 0, 0, 0) = 1;
    x.forward();
    CHECK(x.o(0, 0, 0, 0) == Approx(1).epsilon(1e-5));
    run_decode<float>(x.call(), x.memory(), x.options, {});
    CHECK(x.o(0, 0, 0, 0) == Approx(1).epsilon(1e-5));
    linear_case<float> y({1, 1, 1, 1, 1, 1, 1}, {.scale = scale, .feature = feature::elu_plus_one, .eps = 0});
    y.q(0, 0, 0, 0) = -50, y.k(0, 0, 0, 0) = -10, y.v(0, 0, 0, 0) = 2;
    y.options.initial_state = {};
    y.forward();
    CHECK(y.o(0, 0, 0, 0) == Approx(2).epsilon(1e-5));
  }
}

TEST_CASE("a scale of which little is left beyond what phi(q) takes") {
  linear_case<float> x({1, 1, 1, 1, 1, 1, 1}, {.scale = 1e-60, .feature = feature::identity, .normalize = false});
  x.q(0, 0, 0, 0) = 1e19f, x.k(0, 0, 0, 0) = 2e19f, x.v(0, 0, 0, 0) = 1;
  x.forward();
  CHECK(x.o(0, 0, 0, 0) == Approx(2e-22).epsilon(1e-5));
}

TEST_CASE("the scale makes no other bits: a power of 2 and the rest of it") {
  for (const double scale : {0.125, 0.1, 1e-3, -0.7, 1.0, 3.0})
    for (const bool normalize : {true, false}) {
      linear_case<float> x({1, 2, 1, 70, 70, 16, 20}, {.mask = heed::causal(), .scale = scale, .normalize = normalize});
      heed_test::check(x);
      linear_case<float> whole(x.s, x.options);
      whole.options.scale = std::ldexp(scale, 20), whole.options.eps = std::ldexp(x.options.eps, 20);
      whole.forward();
      bool same = true;
      for (index_t i = 0; i < 70; ++i)
        for (index_t e = 0; e < 20; ++e)
          same = same && whole.o(0, 1, i, e) == std::ldexp(x.o(0, 1, i, e), normalize ? 0 : 20);
      CHECK(same);
    }
}
