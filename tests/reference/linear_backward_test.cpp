// SPDX-License-Identifier: BSD-3-Clause

// The gradients of the reference of linear attention beside central differences of its forward, golden gradients,
// closed forms.

#include "heed/reference/linear.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/recurrent_differences.hpp"
#include "support/golden_recurrent_backward.hpp"
#include "support/shapes.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using options = heed::linear::options<double>;
using gradients = heed::linear::gradients<double>;
namespace reference = heed::reference::linear;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr feature all_features[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                                    feature::silu,     feature::exp,          feature::softmax, feature::taylor};
bool is_signed(feature map) { return map == feature::identity || map == feature::silu; }

buffer<double> random_input(const extents& n, std::uint32_t seed) {
  auto x = buffer<double>::input(n);
  random_numbers random(seed);
  x.each([&](double& a) {  // not near 0, where relu and elu_plus_one have a kink
    const double number = random.normal();
    a = number + (number < 0 ? -0.02 : 0.02);
  });
  return x;
}

// A call, cotangents of its outputs, and all gradients
struct case_of {
  shape s;
  index_t sequences, features;
  options how;
  bool has_before = true, has_after = true;
  buffer<double> q = random_input({s.batch, s.heads, s.queries, s.dim}, 1),
                 k = random_input({s.batch, s.kv_heads, s.keys, s.dim}, 2),
                 v = random_input({s.batch, s.kv_heads, s.keys, s.value_dim}, 3),
                 s0 = random_input({sequences, s.kv_heads, features, s.value_dim}, 4),
                 z0 = random_input({sequences, s.kv_heads, features, 1}, 5),
                 dout = random_input({s.batch, s.heads, s.queries, s.value_dim}, 6), ds1 = random_input(s0.size(), 7),
                 dz1 = random_input(z0.size(), 8), o = buffer<double>::output(dout.size()),
                 s1 = buffer<double>::output(s0.size()), z1 = buffer<double>::output(z0.size()),
                 dq = buffer<double>::output(q.size()), dk = buffer<double>::output(k.size()),
                 dv = buffer<double>::output(v.size()), ds0 = buffer<double>::output(s0.size()),
                 dz0 = buffer<double>::output(z0.size());

  case_of(const shape& size, const options& opt, index_t count = -1)
      : s(size),
        sequences(count < 0 ? size.batch : count),
        features(heed::detail::feature_dim(heed::detail::parts(opt.feature), size.dim)),
        how(opt) {
    z0.each([](double& a) { a = 3 + std::abs(a); });
  }

  options states() const {
    options all = how;
    if (has_before) all.initial_state = {s0.cview(), z0.view3()};
    all.final_state = {s1.view(), z1.view3()};
    return all;
  }
  double loss() const {
    reference::forward(q.cview(), k.cview(), v.cview(), o.view(), states());
    return inner(dout, o) + (!has_after ? 0 : inner(ds1, s1) + (how.normalize ? inner(dz1, z1) : 0));
  }
  gradients asked() const {
    gradients all{dq.view(), dk.view(), dv.view(), {ds0.view(), dz0.view3()}, {ds1.cview(), dz1.view3()}};
    if (!has_after) all.dfinal_state = {};
    return all;
  }
  void backward() const { backward(asked()); }
  void backward(const gradients& all) const {
    reference::backward(q.cview(), k.cview(), v.cview(), o.cview(), dout.cview(), all, states());
  }
  verdict differences() const {
    verdict result;
    const double size = std::abs(loss()) + 1;
    const auto f = [&] { return loss(); };
    add_differences(result, "dq", q, dq, size, f), add_differences(result, "dk", k, dk, size, f);
    add_differences(result, "dv", v, dv, size, f);
    if (has_before) add_differences(result, "ds0", s0, ds0, size, f);
    if (has_before && how.normalize) add_differences(result, "dz0", z0, dz0, size, f);
    return result;
  }
};

void check(const case_of& x) {
  x.backward();
  const verdict result = x.differences();
  INFO("feature " << static_cast<int>(heed::detail::parts(x.how.feature).built_in) << " normalize " << x.how.normalize
                  << " " << to_string(x.s) << ": " << result.where);
  CHECK(result.worst <= 1);
  const bool written = all_written(x.dq) && all_written(x.dk) && all_written(x.dv) && all_written(x.ds0);
  CHECK(written);
  CHECK((x.how.normalize ? all_written(x.dz0) : x.dz0.untouched()));
}

bool all_zero(const buffer<double>& x) {
  bool zero = true;
  x.each([&](double a) { zero = zero && a == 0; });
  return zero;
}
// eps keeps denominators away from 0.
options with_eps(options how, feature map) {
  how.feature = map, how.eps = is_signed(map) ? 40 : 0.5;
  return how;
}

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

TEST_CASE("a wrong gradient differs from the differences") {
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

TEST_CASE("closed forms") {
  case_of one({1, 1, 1, 1, 1, 3, 2}, {.eps = 0});  // one key, normalised: o = v
  one.has_before = one.has_after = false;
  one.backward();
  bool zero = true, same = true;
  one.dq.each([&](double a) { zero = zero && std::abs(a) < 1e-15; });
  one.dk.each([&](double a) { zero = zero && std::abs(a) < 1e-15; });
  for (index_t e = 0; e < 2; ++e) same = same && one.dv(0, 0, 0, e) == Approx(one.dout(0, 0, 0, e)).epsilon(1e-15);
  CHECK((zero && same));

  case_of sums({1, 1, 1, 1, 1, 3, 2}, {.scale = 2, .feature = feature::identity, .normalize = false});
  sums.has_before = sums.has_after = false;  // o = 2 (q.k) v
  sums.backward();
  double read = 0, score = 0;
  for (index_t e = 0; e < 2; ++e) read += sums.dout(0, 0, 0, e) * sums.v(0, 0, 0, e);
  for (index_t d = 0; d < 3; ++d) score += sums.q(0, 0, 0, d) * sums.k(0, 0, 0, d);
  for (index_t d = 0; d < 3; ++d) {
    CHECK(sums.dq(0, 0, 0, d) == Approx(2 * read * sums.k(0, 0, 0, d)));
    CHECK(sums.dk(0, 0, 0, d) == Approx(2 * read * sums.q(0, 0, 0, d)));
    for (index_t e = 0; e < 2; ++e)
      CHECK(sums.ds0(0, 0, d, e) == Approx(2 * sums.q(0, 0, 0, d) * sums.dout(0, 0, 0, e)));
  }
  for (index_t e = 0; e < 2; ++e) CHECK(sums.dv(0, 0, 0, e) == Approx(2 * score * sums.dout(0, 0, 0, e)));
}

TEST_CASE("without eps: a constant v gives q and k no gradient; the length of phi(q) has no gradient") {
  for (const bool causal : {false, true}) {
    case_of x({1, 2, 1, 6, 6, 4, 3}, {.mask = causal ? heed::causal() : heed::mask{}, .eps = 0});
    x.has_before = x.has_after = false;
    x.v.fill(1.5);
    x.backward();
    double largest = 0;
    for (const buffer<double>* const dx : {&x.dq, &x.dk})
      dx->each([&](double a) { largest = std::max(largest, std::abs(a)); });
    CHECK(largest < 1e-14);

    case_of relu({1, 2, 1, 6, 6, 4, 3},
                 {.mask = causal ? heed::causal() : heed::mask{}, .feature = feature::relu, .eps = 0});
    relu.q.each([](double& a) { a = std::abs(a); });  // phi(q) = q
    relu.backward();
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 6; ++i) {
        double along = 0, size = 0;
        for (index_t d = 0; d < 4; ++d) {
          along += relu.q(0, h, i, d) * relu.dq(0, h, i, d);
          size += std::abs(relu.q(0, h, i, d) * relu.dq(0, h, i, d));
        }
        CHECK(std::abs(along) <= 1e-13 * size + 1e-15);
      }
  }
}

TEST_CASE("two halves, the gradient of the state between them carried, are the whole") {
  for (const feature map : {feature::elu_plus_one, feature::taylor})
    for (const index_t cut : {0, 1, 3, 6}) {
      const case_of x({1, 2, 1, 6, 6, 3, 2}, with_eps({.mask = heed::causal()}, map));
      x.backward();
      const auto s = buffer<double>::output(x.s0.size()), z = buffer<double>::output(x.z0.size()),
                 ds = buffer<double>::output(x.s0.size()), dz = buffer<double>::output(x.z0.size()),
                 ds0 = buffer<double>::output(x.s0.size()), dz0 = buffer<double>::output(x.z0.size()),
                 dq = buffer<double>::output(x.q.size()), dk = buffer<double>::output(x.k.size()),
                 dv = buffer<double>::output(x.v.size());
      options first = x.states(), second = first;
      first.final_state = {s.view(), z.view3()}, second.initial_state = first.final_state;
      const auto part = [&](auto view, bool last) {
        return heed::slice(view, 2, last ? cut : 0, last ? 6 - cut : cut);
      };
      reference::forward(part(x.q.cview(), false), part(x.k.cview(), false), part(x.v.cview(), false),
                         part(x.o.view(), false), first);
      for (const bool last : {true, false})
        reference::backward(
            part(x.q.cview(), last), part(x.k.cview(), last), part(x.v.cview(), last), part(x.o.cview(), last),
            part(x.dout.cview(), last),
            {part(dq.view(), last), part(dk.view(), last), part(dv.view(), last),
             last ? heed::state_view<double>{ds.view(), dz.view3()} : heed::state_view<double>{ds0.view(), dz0.view3()},
             last ? heed::state_view<const double>{x.ds1.cview(), x.dz1.view3()}
                  : heed::state_view<const double>{ds.cview(), dz.view3()}},
            last ? second : first);
      for (const double apart :
           {largest_difference(dq, x.dq), largest_difference(dk, x.dk), largest_difference(dv, x.dv),
            largest_difference(ds0, x.ds0), largest_difference(dz0, x.dz0)})
        CHECK(apart < 1e-12);
    }
}

TEST_CASE("rows and keys without a partner have no gradient, whatever they hold") {
  case_of none({1, 2, 1, 4, 3, 2, 2}, {.mask = heed::causal(), .align = heed::bottom_right});  // row 0 sees nothing
  none.has_before = none.has_after = false;
  none.backward();
  const auto dk = none.dk.hash(), dv = none.dv.hash();
  none.q(0, 0, 0, 1) = not_a_number, none.dout(0, 1, 0, 0) = not_a_number;
  none.backward();
  for (index_t h = 0; h < 2; ++h)
    for (index_t d = 0; d < 2; ++d) CHECK(none.dq(0, h, 0, d) == 0);
  CHECK((none.dk.hash() == dk && none.dv.hash() == dv));

  case_of zero({1, 1, 1, 2, 3, 2, 2}, {.feature = feature::relu, .eps = 0});  // a denominator of exactly 0
  zero.has_before = zero.has_after = false;
  zero.q.each([](double& a) { a = std::abs(a); }), zero.k.each([](double& a) { a = std::abs(a); });
  for (index_t d = 0; d < 2; ++d) zero.q(0, 0, 1, d) = -1;
  zero.backward();
  CHECK((zero.dq(0, 0, 1, 0) == 0 && zero.dq(0, 0, 1, 1) == 0));
  CHECK_FALSE(all_zero(zero.dq));

  for (const feature map : all_features) {  // hidden, and seen by nobody
    const std::vector<std::int32_t> seen{3};
    case_of x({1, 1, 1, 2, 6, 2, 2},
              with_eps({.mask = heed::causal() & heed::key_lengths(seen), .align = heed::top_left}, map));
    x.has_after = false;
    x.q.each([](double& a) { a = std::abs(a); }), x.k.each([](double& a) { a = std::abs(a); });
    x.backward();
    const auto before = x.dq.hash();
    for (index_t j = 2; j < 6; ++j) x.k(0, 0, j, 1) = x.v(0, 0, j, 0) = not_a_number;
    x.backward();
    CHECK(x.dq.hash() == before);
    for (index_t j = 0; j < 6; ++j) CHECK((x.dk(0, 0, j, 0) == 0) == (j >= 2));
    for (index_t j = 0; j < 6; ++j) CHECK((x.dv(0, 0, j, 1) == 0) == (j >= 2));
  }

  const case_of no_keys({1, 2, 1, 3, 0, 2, 2}, {.eps = 0.5}), no_rows({1, 2, 1, 0, 3, 2, 2}, {.eps = 0.5});
  check(no_keys), check(no_rows);
  CHECK_FALSE(all_zero(no_rows.dk));  // by the final state
}

TEST_CASE("what is visible and not a number arrives") {
  for (const feature map : all_features)
    for (const buffer<double> case_of::*const input : {&case_of::q, &case_of::k, &case_of::v, &case_of::dout}) {
      case_of x({1, 1, 1, 3, 3, 2, 2}, with_eps({}, map));
      (x.*input)(0, 0, 1, 0) = not_a_number;
      x.backward();
      CHECK(std::isnan(x.dq(0, 0, 1, 0)));
    }
}

TEST_CASE("gradients that are not asked for are not written, 16-bit inputs give those of their numbers") {
  const case_of all({1, 2, 1, 4, 4, 3, 2}, {.mask = heed::causal()});
  all.backward();
  for (int which = 0; which < 5; ++which) {
    const case_of x({1, 2, 1, 4, 4, 3, 2}, {.mask = heed::causal()});
    gradients some{.dfinal_state = x.asked().dfinal_state};
    if (which == 0) some.dq = x.dq.view();
    if (which == 1) some.dk = x.dk.view();
    if (which == 2) some.dv = x.dv.view();
    if (which == 3) some.dinitial_state.s = x.ds0.view();
    if (which == 4) some.dinitial_state.z = x.dz0.view3();
    x.backward(some);
    CHECK((which == 0 ? same_bits(x.dq, all.dq) : x.dq.untouched()));
    CHECK((which == 1 ? same_bits(x.dk, all.dk) : x.dk.untouched()));
    CHECK((which == 2 ? same_bits(x.dv, all.dv) : x.dv.untouched()));
    CHECK((which == 3 ? same_bits(x.ds0, all.ds0) : x.ds0.untouched()));
    CHECK((which == 4 ? same_bits(x.dz0, all.dz0) : x.dz0.untouched()));
  }

  const auto q = buffer<heed::bf16_t>::input({1, 1, 3, 2}), k = buffer<heed::bf16_t>::input({1, 1, 3, 2}),
             v = buffer<heed::bf16_t>::input({1, 1, 3, 2}), dout = buffer<heed::bf16_t>::input({1, 1, 3, 2});
  const case_of wide({1, 1, 1, 3, 3, 2, 2}, {});
  const buffer<double>* const from[] = {&wide.q, &wide.k, &wide.v, &wide.dout};
  const buffer<heed::bf16_t>* const to[] = {&q, &k, &v, &dout};
  for (int t = 0; t < 4; ++t)
    for (index_t i = 0; i < 3; ++i)
      for (index_t d = 0; d < 2; ++d) {
        (*to[t])(0, 0, i, d) = heed::bf16_t(static_cast<float>((*from[t])(0, 0, i, d)));
        (*from[t])(0, 0, i, d) = static_cast<double>(static_cast<float>((*to[t])(0, 0, i, d)));
      }
  const auto dq = buffer<float>::output(q.size());
  reference::backward(q.cview(), k.cview(), v.cview(), q.cview(), dout.cview(), {.dq = dq.view()});
  reference::backward(wide.q.cview(), wide.k.cview(), wide.v.cview(), wide.o.cview(), wide.dout.cview(),
                      {.dq = wide.dq.view()});
  for (index_t i = 0; i < 3; ++i)
    for (index_t d = 0; d < 2; ++d) CHECK(dq(0, 0, i, d) == static_cast<float>(wide.dq(0, 0, i, d)));
}
