// SPDX-License-Identifier: BSD-3-Clause

// linear::backward beside the reference: feature maps, masks, alignments, chunks, states, shapes, what is asked for.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/linear_backward_case.hpp"

using namespace heed_test;

namespace {

using heed::feature;
template <class T> using options = heed::linear::options<T>;

constexpr feature all_features[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                                    feature::silu,     feature::exp,          feature::softmax, feature::taylor};
bool positive(feature map) { return map != feature::identity && map != feature::silu; }

template <class T> void check(const shape& s, const options<T>& how = {}, layouts in = {}, index_t count = -1) {
  linear_backward_case<T> x(s, how, in, count);
  check_backward(x);
}

}  // namespace

TEST_CASE("backward: every feature map, causal and not, normalised and not") {
  std::size_t turn = 0;
  for (const feature map : all_features)
    for (const index_t d : {1, 5, 16, 20})
      for (const index_t n : {1, 17, 70, 150})
        for (const bool causal : {false, true}) {
          if (turn++ % thinning != 0 || (d == 20 && n == 150 && map == feature::taylor)) continue;
          const shape s{1, 2, 1, n, n, d, 24};
          const heed::mask mask = causal ? heed::causal() : heed::mask();
          check<float>(s, {.mask = mask, .scale = 0.7, .feature = map, .normalize = false});
          if (positive(map)) check<float>(s, {.mask = mask, .scale = 0.7, .feature = map, .eps = 1e-3});
          if (n == 70) check<double>(s, {.mask = mask, .feature = map, .normalize = positive(map)});
        }
}

TEST_CASE("backward: taylor features of wider heads, and of chunks of any length") {
  for (const index_t chunk : {0, 16})
    check<float>({1, 1, 1, 40, 40, 33, 20}, {.mask = heed::causal(), .feature = feature::taylor, .chunk = chunk});
  check<float>({1, 1, 1, 30, 30, 64, 8}, {.mask = heed::causal(), .feature = feature::taylor});
  check<float>({1, 1, 1, 20, 30, 33, 9}, {.feature = feature::taylor, .normalize = false});
  check<float>({1, 1, 1, 300, 300, 9, 16}, {.mask = heed::causal(), .feature = feature::taylor});
}

TEST_CASE("backward: functions of the caller's with their derivatives, in float and double") {
  const auto check_function = [](auto number, bool causal, bool normalize) {
    using T = decltype(number);
    const T shift = T(0.5);
    const heed::feature_map<T> map([shift](T x) { return x * x + shift; }, [](T x) { return 2 * x; });
    linear_backward_case<T> x({1, 2, 1, 70, 70, 20, 12},
                              {.mask = causal ? heed::causal() : heed::mask(), .feature = map, .normalize = normalize});
    x.run();
    const verdict result = compare_gradients(
        x, heed::feature_map<double>([](double a) { return a * a + 0.5; }, [](double a) { return 2 * a; }));
    INFO(result.where);
    CHECK(result.worst <= 1);
    CHECK(compare_gradients(
              x, heed::feature_map<double>([](double a) { return a * a + 0.5; }, [](double a) { return 2.001 * a; }))
              .worst > 1);
  };
  for (const bool causal : {false, true})
    for (const bool normalize : {false, true})
      check_function(0.0f, causal, normalize), check_function(0.0, causal, normalize);
}

TEST_CASE("backward: any alignment of queries and keys, causal; lengths; packed") {
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
  for (const index_t n : {1, 40, 100})
    for (const heed::mask& mask : {heed::key_lengths(seen), heed::causal() & heed::key_lengths(seen)})
      check<float>({2, 2, 1, n, 60, 16, 20}, {.mask = mask, .align = heed::end_of_lengths});
  const std::vector<std::int32_t> q_at{0, 0, 70, 71, 100}, k_at{0, 20, 90, 90, 120}, each{20, 33, 0, 30};
  for (const bool causal : {false, true}) {
    const heed::mask mask = causal ? heed::causal() : heed::mask();
    const shape s{1, 4, 2, 100, 130, 16, 20};  // keys from 120 on are in no sequence
    check<float>(s, {.mask = mask & heed::packed(q_at, k_at)}, {}, 4);
    for (const heed::alignment& align : {heed::bottom_right, heed::end_of_lengths})
      check<float>(s, {.mask = mask & heed::packed(q_at, k_at) & heed::key_lengths(each), .align = align}, {}, 4);
  }
}

TEST_CASE("backward: any chunk gives the same numbers") {
  for (const index_t chunk : {1, 7, 16, 24, 64, 65, 300, 100000}) {
    check<float>({1, 2, 1, 200, 200, 20, 24}, {.mask = heed::causal(), .chunk = chunk});
    check<float>({1, 2, 1, 50, 200, 20, 24}, {.chunk = chunk});
    check<double>({1, 1, 1, 100, 100, 5, 3}, {.mask = heed::causal(), .feature = feature::taylor, .chunk = chunk});
  }
}

TEST_CASE("backward: head dims, groups, layouts") {
  std::size_t turn = 0;
  for (const index_t d : head_dims) {
    const index_t e = head_dims[(++turn * 3 + 1) % std::size(head_dims)];
    check<float>({turn % 2 == 0 ? 2 : 1, 7, 1, 66, 66, d, e}, {.mask = heed::causal()});
    check<float>({1, 4, 2, 40, 90, d, e});
  }
  const shape s{2, 4, 2, 70, 70, 20, 12};
  for (const layout in : input_layouts)
    check<float>(s, {.mask = heed::causal()}, {.q = in, .k = in, .v = in, .skew = 3});
  linear_backward_case<float> plain(s, {.mask = heed::causal()});
  plain.run();
  for (const layout out : output_layouts) {
    const layouts all{out, out, out, out, out, 1};
    linear_backward_case<float> x(s, {.mask = heed::causal()}, all, -1, all);
    check_backward(x);
    CHECK(same_gradients(x, plain));
  }
}

TEST_CASE("backward: with an initial state and without, with a gradient of the final one and without") {
  std::size_t turn = 0;
  for (const bool causal : {false, true})
    for (const bool normalize : {true, false})
      for (const shape& s : {shape{1, 2, 1, 70, 70, 16, 20}, shape{2, 2, 2, 3, 90, 8, 8}, shape{1, 1, 1, 90, 3, 8, 8}})
        for (const int given : {0, 1, 2, 3}) {
          if (turn++ % thinning != 0) continue;
          linear_backward_case<float> x(s, {.mask = causal ? heed::causal() : heed::mask(), .normalize = normalize});
          if ((given & 1) == 0) x.options.initial_state = {};
          if ((given & 2) == 0) x.asked.dfinal_state = {};
          check_backward(x);
          x.options.final_state = {};  // nothing is read of it, nor written
          const auto states = x.s1.hash() ^ x.z1.hash();
          linear_backward_case<float> other(s, x.options);
          other.options = x.options;
          if ((given & 2) == 0) other.asked.dfinal_state = {};
          other.run();
          CHECK((same_gradients(x, other) && (x.s1.hash() ^ x.z1.hash()) == states));
        }
}

TEST_CASE("backward: no batch, heads, queries or keys; rows without a key") {
  for (const bool causal : {false, true})
    for (const shape& s : {shape{0, 2, 1, 5, 5, 8, 8}, shape{1, 0, 0, 5, 5, 8, 8}, shape{1, 2, 1, 0, 5, 8, 8},
                           shape{1, 2, 1, 5, 0, 8, 8}, shape{1, 2, 1, 0, 0, 8, 8}, shape{2, 2, 1, 30, 10, 8, 8}})
      for (const bool states : {false, true}) {
        linear_backward_case<float> x(s, {.mask = causal ? heed::causal() : heed::mask()});
        if (!states) x.options.initial_state = {}, x.asked.dfinal_state = {};
        check_backward(x);
      }
  test_executor workers(4);
  for (const bool normalize : {false, true}) {  // keys and values of which no query head reads anything
    linear_backward_case<float> x({2, 0, 2, 70, 70, 8, 9}, {.mask = heed::causal(), .normalize = normalize});
    check_backward(x, {.executor = workers});
  }
  linear_backward_case<float> x({1, 2, 1, 30, 10, 8, 8}, {.mask = heed::causal()});
  x.options.initial_state = {}, x.asked.dfinal_state = {};
  x.run();
  for (index_t i = 0; i < 20; ++i)
    for (index_t d = 0; d < 8; ++d) CHECK(x.dq(0, 1, i, d) == 0);
  CHECK(x.dq(0, 1, 25, 0) != 0);  // of row 20, which sees one key, it is 0 but for eps
}

// Without a gradient of q the forward sweep is there for denominators alone, and without an initial state these begin
// at eps.
TEST_CASE("backward: gradients of keys and values alone, with an initial state and without") {
  for (const bool causal : {false, true})
    for (const feature map : {feature::elu_plus_one, feature::relu_squared, feature::taylor})
      for (const index_t keys : {2, 70, 300})
        for (unsigned given = 0; given < 8; ++given) {
          INFO("keys " << keys << ", given " << given);
          linear_backward_case<float> x({1, 4, 2, 130, keys, 6, 20},
                                        {.mask = causal ? heed::causal() : heed::mask(), .feature = map});
          x.asked.dq = {}, x.asked.dinitial_state = {};
          if ((given & 1) == 0) x.asked.dk = {};
          if ((given & 2) == 0) x.asked.dv = {};
          if ((given & 4) == 0) x.options.initial_state = {}, x.asked.dfinal_state = {};
          x.run();
          const verdict result = compare_gradients(x);
          INFO(result.where);
          CHECK(result.worst <= 1);
        }
}

TEST_CASE("backward: what is not asked for is not written, and changes no bit of what is") {
  for (const bool causal : {false, true})
    for (const feature map : {feature::identity, feature::elu_plus_one, feature::taylor})
      for (const bool normalize : {true, false}) {
        if (normalize && !positive(map)) continue;
        const options<float> how{
            .mask = causal ? heed::causal() : heed::mask(), .feature = map, .normalize = normalize};
        const shape s{1, 2, 1, 70, 70, 6, 20};
        linear_backward_case<float> all(s, how);
        all.run();
        for (unsigned which = 0; which < 32; which += thinning == 1 ? 1 : 5) {
          linear_backward_case<float> x(s, how);
          heed::linear::gradients<float> some;
          some.dfinal_state = x.asked.dfinal_state;
          if (which & 1) some.dq = x.asked.dq;
          if (which & 2) some.dk = x.asked.dk;
          if (which & 4) some.dv = x.asked.dv;
          if (which & 8) some.dinitial_state = x.asked.dinitial_state;
          if (which & 16) some.dfinal_state = {};
          x.asked = some;
          if (which & 16) {
            check_backward(x);
          } else {
            x.run();
            CHECK(((which & 1) ? same_bits(x.dq, all.dq) : x.dq.untouched()));
            CHECK(((which & 2) ? same_bits(x.dk, all.dk) : x.dk.untouched()));
            CHECK(((which & 4) ? same_bits(x.dv, all.dv) : x.dv.untouched()));
            CHECK(((which & 8) ? same_bits(x.ds0, all.ds0) : x.ds0.untouched()));
            CHECK(((which & 8) && normalize ? same_bits(x.dz0, all.dz0) : x.dz0.untouched()));
          }
        }
      }
}

TEST_CASE("backward: every option and every input changes the gradients") {
  const shape s{1, 1, 1, 40, 41, 8, 8};
  linear_backward_case<float> plain(s);
  plain.run();
  const auto changed = [&](const char* what, auto change) {
    INFO(what);
    linear_backward_case<float> x(s);
    change(x);
    x.run();
    CHECK_FALSE(same_bits(x.dq, plain.dq));
    CHECK_FALSE(same_bits(x.dk, plain.dk));
    CHECK_FALSE(same_bits(x.dv, plain.dv));
    CHECK_FALSE(same_bits(x.ds0, plain.ds0));
    return x;
  };
  using type = linear_backward_case<float>;
  const type causal = changed("mask", [](type& x) { x.options.mask = heed::causal(); });
  changed("scale", [](type& x) { x.options.scale = 0.01; });
  changed("feature", [](type& x) { x.options.feature = feature::exp; });
  changed("normalize", [](type& x) { x.options.normalize = false; });
  changed("eps", [](type& x) { x.options.eps = 1; });
  const type top =
      changed("alignment", [](type& x) { x.options.mask = heed::causal(), x.options.align = heed::top_left; });
  CHECK_FALSE(same_bits(top.dk, causal.dk));
  changed("q", [](type& x) { x.q(0, 0, 3, 1) += 1; });
  changed("k", [](type& x) { x.k(0, 0, 3, 1) += 1; });
  changed("dout", [](type& x) { x.dout(0, 0, 3, 1) += 1; });
}

TEST_CASE("backward: a wrong alignment, feature, eps, scale, gradient of the normaliser or of the state fails") {
  linear_backward_case<float> x({1, 1, 1, 40, 41, 8, 8}, {.mask = heed::causal(), .eps = 5});
  x.run();
  CHECK(compare_gradients(x).worst <= 1);
  CHECK(compare_gradients(x, feature::relu).worst > 1);
  const auto wrong = [&](auto change) {
    linear_backward_case<float> y({1, 1, 1, 40, 41, 8, 8}, {.mask = heed::causal(), .eps = 5});
    y.run();
    change(y);
    return compare_gradients(y).worst > 1;
  };
  using type = linear_backward_case<float>;
  CHECK_FALSE(wrong([](type&) {}));
  CHECK(wrong([](type& y) { y.options.align = heed::top_left; }));
  CHECK(wrong([](type& y) { y.options.eps = 5.02; }));
  CHECK(wrong([](type& y) { y.options.scale = 1.01; }));
  CHECK(wrong([](type& y) { y.options.mask = {}; }));
  CHECK(wrong([](type& y) { y.options.initial_state = {}; }));
  CHECK(wrong([](type& y) { y.asked.dfinal_state = {}; }));
  CHECK(wrong([](type& y) { y.ds1.each([](float& a) { a *= 1.001f; }); }));
  CHECK(wrong([](type& y) { y.dz1.each([](float& a) { a *= 1.001f; }); }));
  CHECK(wrong([](type& y) { y.dz0.each([](float& a) { a *= 1.001f; }); }));
  for (buffer<float> type::*const gradient : {&type::dq, &type::dk, &type::dv})
    CHECK(wrong([=](type& y) {
      for (index_t d = 0; d < 8; ++d) (y.*gradient)(0, 0, 39, d) *= 1.0001f;
    }));
}

TEST_CASE("backward: long calls keep their accuracy") {
  const index_t n = thinning == 1 ? 3000 : 500;
  check<float>({1, 1, 1, n, n, 32, 48}, {.mask = heed::causal()});
  check<float>({1, 1, 1, n, n, 32, 16}, {.mask = heed::causal(), .feature = feature::identity, .normalize = false});
  check<float>({1, 1, 1, n / 2, n, 64, 64});
}

TEST_CASE("backward: a scale that keeps products in range that would leave it") {
  for (const double scale : {1e-10, -3e-5})
    for (const feature map : {feature::elu_plus_one, feature::identity, feature::relu})
      for (const bool causal : {true, false})
        for (const bool normalize : {true, false}) {
          if (normalize && map == feature::identity) continue;  // its denominators may be anything
          INFO("scale " << scale << ", feature " << static_cast<int>(map));
          linear_backward_case<float> x(
              {1, 2, 1, 70, 70, 16, 20},
              {.mask = causal ? heed::causal() : heed::mask{}, .scale = scale, .feature = map, .normalize = normalize});
          x.q.each([](float& a) { a = 1e9f * std::abs(a); });
          x.k.each([](float& a) { a = 1e9f * std::abs(a); });
          check_backward(x);
          bool finite = true;
          for (const buffer<float>* const dx : {&x.dq, &x.dk, &x.dv})
            dx->each([&](float a) { finite = finite && std::isfinite(a); });
          CHECK(finite);
        }
}

TEST_CASE("backward: the cost model's chunks are those of forward") {
  for (const shape& s : {shape{1, 1, 1, 500, 500, 128, 16}, shape{1, 1, 1, 500, 500, 16, 128}}) {
    const linear_backward_case<float> x(s, {.mask = heed::causal()});
    CHECK(x.plan_backward().chunk == x.plan().chunk);
  }
}
