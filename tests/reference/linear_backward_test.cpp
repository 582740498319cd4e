// SPDX-License-Identifier: BSD-3-Clause

// The gradients of the reference of linear attention beside central differences of its forward, and golden ones.

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/golden_recurrent_backward.hpp"
#include "support/linear_reference_case.hpp"

using namespace heed_test;

namespace {

using case_of = linear_reference_case;
using heed::feature;
using options = heed::linear::options<double>;
using gradients = heed::linear::gradients<double>;
namespace reference = heed::reference::linear;

}  // namespace

TEST_CASE("every feature map, mask and alignment, normalised and not: all gradients are central differences") {
  const std::vector<std::int32_t> seen{3, 2}, at{1, -2}, q_at{0, 2, 2, 5}, k_at{0, 3, 4, 6}, each{2, 1, 2};
  const std::vector<heed::mask> masks{{},
                                      heed::causal(),
                                      heed::key_lengths(seen),
                                      heed::causal() & heed::key_lengths(seen),
                                      heed::packed(q_at, k_at),
                                      heed::causal() & heed::packed(q_at, k_at) & heed::key_lengths(each)};
  for (const feature map : all_features)
    for (std::size_t m = 0; m < masks.size(); ++m)
      for (const heed::alignment& align : {heed::bottom_right, heed::top_left, heed::first_place(m < 4 ? at : each),
                                           m == 2 || m == 3 || m == 5 ? heed::end_of_lengths : heed::bottom_right})
        for (const bool normalize : {true, false}) {
          INFO("mask " << m);
          const options how = with_eps({.mask = masks[m], .align = align, .scale = 0.7, .normalize = normalize}, map);
          if (m < 4)
            check({{2, 2, 1, 3, 4, 2, 2}, how});
          else
            check({{1, 2, 1, 5, 7, 2, 2}, how, 3});  // the last key is in no sequence
        }
}

TEST_CASE("more queries than keys, groups, one of all, no states, no final gradient") {
  for (const feature map : {feature::elu_plus_one, feature::softmax, feature::taylor})
    for (const bool causal : {false, true})
      for (const shape& s : {shape{1, 4, 2, 5, 3, 3, 4}, shape{2, 3, 3, 2, 6, 3, 1}, shape{1, 1, 1, 1, 1, 1, 1}})
        for (const int states : {0, 1, 2, 3}) {
          case_of x(s, with_eps({.mask = causal ? heed::causal() : heed::mask{}, .scale = -0.3}, map));
          x.how.eps = map == feature::taylor ? 400 : 60;  // the scale is below 0
          x.has_before = (states & 1) != 0, x.has_after = (states & 2) != 0;
          check(x);
        }
}

TEST_CASE("a function of the caller's with its derivative") {
  for (const bool causal : {false, true}) {
    case_of x({1, 2, 1, 4, 5, 3, 2}, {.mask = causal ? heed::causal() : heed::mask{}, .eps = 0.5});
    x.how.feature = heed::feature_map<double>([](double a) { return 0.3 + a * a + 0.1 * a * a * a * a; },
                                              [](double a) { return 2 * a + 0.4 * a * a * a; });
    check(x);
  }
}

TEST_CASE("linear: a wrong gradient differs from the differences") {
  const case_of x({1, 1, 1, 4, 4, 2, 2}, {.mask = heed::causal(), .eps = 0.5});
  x.backward();
  CHECK(x.differences().worst <= 1);
  for (const buffer<double>* const dx : {&x.dq, &x.dk, &x.dv, &x.ds0, &x.dz0}) {
    (*dx)(0, 0, 1, 0) *= 1 + 1e-6;
    CHECK(x.differences().worst > 1);
    (*dx)(0, 0, 1, 0) /= 1 + 1e-6;
  }
  case_of y({1, 1, 1, 4, 4, 2, 2}, {.eps = 0.5});
  y.backward();
  y.how.eps = 0.51;
  CHECK(y.differences().worst > 1);
  y.how.eps = 0.5, y.how.mask = heed::causal();
  CHECK(y.differences().worst > 1);
}

TEST_CASE("golden gradients of linear attention") {
  const golden_file file("linear");
  int count = 0;
  for (const std::string& name : file.cases()) {
    golden_backward<double, golden_linear<double>> x(file, name);
    gradients asked;
    x.ask(asked);
    reference::backward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.got_o.cview<4>(), x.dout.cview<4>(), asked,
                        x.options);
    std::string of;
    const double worst = x.error(of);
    INFO(name << ": " << of << " off by " << worst << " of what is allowed");
    CHECK(worst <= 1);
    count += x.count;
  }
  CHECK(count == 20 * 3 + 6 + 2);
}
