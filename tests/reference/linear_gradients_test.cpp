// SPDX-License-Identifier: BSD-3-Clause

// The gradients of the reference of linear attention: closed forms, halves, what is hidden, what is not asked for.

#include <cmath>
#include <limits>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/linear_reference_case.hpp"

using namespace heed_test;

namespace {

using case_of = linear_reference_case;
using heed::feature;
using options = heed::linear::options<double>;
using gradients = heed::linear::gradients<double>;
namespace reference = heed::reference::linear;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

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

TEST_CASE("linear: two halves, the gradient of the state between them carried, are the whole") {
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
