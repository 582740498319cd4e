// SPDX-License-Identifier: BSD-3-Clause

// The gradients of the reference of lightning attention: closed forms, halves, what is hidden, what is not asked for.

#include <cmath>
#include <limits>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/reference/linear.hpp"
#include "support/catch.hpp"
#include "support/lightning_reference_case.hpp"

using namespace heed_test;

namespace {

using case_of = lightning_reference_case;
using options = heed::lightning::options<double>;
using gradients = heed::lightning::gradients<double>;
namespace reference = heed::reference::lightning;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("one slope is the same gate everywhere: its gradient is that of all gates, with the other sign") {
  const std::vector<std::int32_t> seen{5, 2};
  for (const index_t states : {2, 4}) {
    const options how{.mask = heed::key_lengths(seen)};
    const case_of one({2, 4, 2, 6, 6, 3, 2}, states, false, how), many({2, 4, 2, 6, 6, 3, 2}, states, true, how);
    for (index_t h = 0; h < states; ++h)
      for (index_t b = 0; b < 2; ++b)
        for (index_t i = 0; i < 6; ++i) many.numbers(b, h, i) = -one.numbers(0, 0, 0, h);
    one.backward(), many.backward();
    for (const double apart : {largest_difference(one.dq, many.dq), largest_difference(one.dk, many.dk),
                               largest_difference(one.dv, many.dv), largest_difference(one.ds0, many.ds0)})
      CHECK(apart == 0);
    for (index_t h = 0; h < states; ++h) {
      double sum = 0;
      for (index_t b = 0; b < 2; ++b)
        for (index_t i = 0; i < 6; ++i) sum += many.dnumbers(b, h, i);
      CHECK(one.dnumbers(0, 0, 0, h) == Approx(-sum).epsilon(1e-12));
      for (index_t i = 2; i < 6; ++i) CHECK(many.dnumbers(1, h, i) == 0);  // padding
    }
  }
}

TEST_CASE("no decay is linear attention of sums; one token and nothing before it: scores times values") {
  case_of x({2, 4, 2, 5, 5, 3, 2}, 2, false, {.scale = 0.6});
  x.numbers.fill(0), x.backward();
  const case_of y({2, 4, 2, 5, 5, 3, 2}, 2, false);
  heed::linear::options<double> how{
      .mask = heed::causal(), .scale = 0.6, .feature = heed::feature::identity, .normalize = false};
  how.initial_state.s = y.s0.cview();
  heed::linear::gradients<double> asked{y.dq.view(), y.dk.view(), y.dv.view()};
  asked.dinitial_state.s = y.ds0.view(), asked.dfinal_state.s = y.ds1.cview();
  heed::reference::linear::backward(y.q.cview(), y.k.cview(), y.v.cview(), y.o.cview(), y.dout.cview(), asked, how);
  for (const double apart : {largest_difference(x.dq, y.dq), largest_difference(x.dk, y.dk),
                             largest_difference(x.dv, y.dv), largest_difference(x.ds0, y.ds0)})
    CHECK(apart < 1e-13);

  case_of one({1, 1, 1, 1, 1, 3, 2}, 1, false, {.scale = 2});
  one.has_before = one.has_after = false;
  one.backward();
  double read = 0, score = 0;
  for (index_t e = 0; e < 2; ++e) read += one.dout(0, 0, 0, e) * one.v(0, 0, 0, e);
  for (index_t d = 0; d < 3; ++d) score += one.q(0, 0, 0, d) * one.k(0, 0, 0, d);
  for (index_t d = 0; d < 3; ++d) {
    CHECK(one.dq(0, 0, 0, d) == Approx(2 * read * one.k(0, 0, 0, d)));
    CHECK(one.dk(0, 0, 0, d) == Approx(2 * read * one.q(0, 0, 0, d)));
    for (index_t e = 0; e < 2; ++e)
      CHECK(one.ds0(0, 0, d, e) ==
            Approx(2 * std::exp(-one.numbers(0, 0, 0, 0)) * one.q(0, 0, 0, d) * one.dout(0, 0, 0, e)));
  }
  for (index_t e = 0; e < 2; ++e) CHECK(one.dv(0, 0, 0, e) == Approx(2 * score * one.dout(0, 0, 0, e)));
  CHECK(one.dnumbers(0, 0, 0, 0) == 0);
}

TEST_CASE("lightning: two halves, the gradient of the state between them carried, are the whole") {
  for (const bool gated : {false, true})
    for (const index_t cut : {0, 1, 3, 6}) {
      const case_of x({1, 2, 1, 6, 6, 3, 2}, 2, gated), y({1, 2, 1, 6, 6, 3, 2}, 2, gated);
      x.backward();
      const auto s = buffer<double>::output(x.s0.size()), ds = buffer<double>::output(x.s0.size()),
                 slopes = buffer<double>::output({1, 1, 2, 2});
      const auto part = [&](auto view, bool last) {
        return heed::slice(view, 2, last ? cut : 0, last ? 6 - cut : cut);
      };
      const auto gates = [&](const buffer<double>& g, bool last) {
        const auto at = part(g.view(), last);
        return heed::tensor_view<double, 3>(at.data(), {1, 2, at.extent(2)},
                                            {at.stride(0), at.stride(1), at.stride(2)});
      };
      const auto decay = [&](bool last) { return gated ? heed::decay<double>(gates(x.numbers, last)) : x.decay(); };
      options first, second;
      first.initial_state.s = x.s0.cview(), first.final_state.s = s.view(), second.initial_state.s = s.cview();
      reference::forward(part(x.q.cview(), false), part(x.k.cview(), false), part(x.v.cview(), false), decay(false),
                         part(x.o.view(), false), first);
      for (const bool last : {true, false}) {
        gradients asked{part(y.dq.view(), last), part(y.dk.view(), last), part(y.dv.view(), last)};
        if (gated)
          asked.dlog_gates = gates(y.dnumbers, last);
        else
          asked.dslopes = {&slopes(0, 0, last ? 1 : 0), {2}, {1}};
        asked.dinitial_state.s = last ? ds.view() : y.ds0.view();
        asked.dfinal_state.s = last ? x.ds1.cview() : ds.cview();
        reference::backward(part(x.q.cview(), last), part(x.k.cview(), last), part(x.v.cview(), last), decay(last),
                            part(x.dout.cview(), last), asked, last ? second : first);
      }
      for (index_t h = 0; h < 2 && !gated; ++h) y.dnumbers(0, 0, 0, h) = slopes(0, 0, 0, h) + slopes(0, 0, 1, h);
      for (const double apart :
           {largest_difference(x.dq, y.dq), largest_difference(x.dk, y.dk), largest_difference(x.dv, y.dv),
            largest_difference(x.ds0, y.ds0), largest_difference(x.dnumbers, y.dnumbers)})
        CHECK(apart < 1e-12);
    }
}

TEST_CASE("padding and what is behind a cut hold anything; what is visible and not a number arrives") {
  const std::vector<std::int32_t> seen{3}, none{0};
  case_of x({1, 2, 1, 5, 5, 2, 2}, 2, true, {.mask = heed::key_lengths(seen)});
  x.backward();
  const auto before = x.dq.hash() + x.dk.hash() + x.dv.hash() + x.ds0.hash() + x.dnumbers.hash();
  for (index_t i = 3; i < 5; ++i)
    x.k(0, 0, i, 1) = x.v(0, 0, i, 0) = x.numbers(0, 0, i) = x.numbers(0, 1, i) = not_a_number;
  x.backward();
  CHECK(x.dq.hash() + x.dk.hash() + x.dv.hash() + x.ds0.hash() + x.dnumbers.hash() == before);
  CHECK_FALSE(all_zero(x.dk));
  for (index_t i = 3; i < 5; ++i) CHECK((x.dk(0, 0, i, 0) == 0 && x.dv(0, 0, i, 0) == 0 && x.dnumbers(0, 0, i) == 0));
  x.dout(0, 1, 4, 0) = not_a_number;  // padding reads the state
  x.backward();
  CHECK((std::isnan(x.dk(0, 0, 0, 0)) && std::isnan(x.dq(0, 1, 4, 0)) && !std::isnan(x.dq(0, 0, 4, 0))));

  case_of nothing({1, 1, 1, 2, 2, 2, 2}, 1, false, {.mask = heed::key_lengths(none)});
  nothing.has_before = nothing.has_after = false;
  nothing.dout.fill(not_a_number), nothing.k.fill(not_a_number);
  nothing.backward();
  CHECK((all_zero(nothing.dq) && all_zero(nothing.dk) && all_zero(nothing.dv) && all_zero(nothing.dnumbers)));

  for (const bool in_v : {false, true}) {
    case_of y({1, 1, 1, 5, 5, 2, 2}, 1, true);
    y.numbers(0, 0, 2) = -inf;
    const auto hashes = [&] {
      y.backward();
      double sum = 0;
      for (index_t i = 2; i < 5; ++i)
        sum += y.dq(0, 0, i, 0) + y.dk(0, 0, i, 0) + y.dv(0, 0, i, 0) + y.dnumbers(0, 0, i);
      return sum;
    };
    const double clean = hashes();
    (in_v ? y.v : y.k)(0, 0, 1, 0) = not_a_number;
    CHECK(hashes() == clean);
    CHECK(y.dnumbers(0, 0, 2) == 0);
    CHECK(std::isnan(in_v ? y.dq(0, 0, 1, 0) : y.dv(0, 0, 1, 0)));
  }
  for (const buffer<double> case_of::*const input : {&case_of::q, &case_of::k, &case_of::v, &case_of::dout}) {
    case_of y({1, 1, 1, 3, 3, 2, 2}, 1, false);
    (y.*input)(0, 0, 1, 0) = not_a_number;
    y.backward();
    CHECK(std::isnan(y.dnumbers(0, 0, 0, 0)));
  }
}

TEST_CASE("no tokens; gradients that are not asked for are not written") {
  for (const bool gated : {false, true}) {
    check(case_of({1, 2, 1, 0, 0, 2, 2}, 2, gated));  // ds0 is the gradient of the final state
    const case_of all({1, 2, 1, 4, 4, 2, 2}, 2, gated);
    all.backward();
    for (int which = 0; which < 5; ++which) {
      const case_of x({1, 2, 1, 4, 4, 2, 2}, 2, gated);
      gradients some, full = x.asked();
      some.dfinal_state = full.dfinal_state;
      if (which == 0) some.dq = full.dq;
      if (which == 1) some.dk = full.dk;
      if (which == 2) some.dv = full.dv;
      if (which == 3) some.dinitial_state = full.dinitial_state;
      if (which == 4) some.dslopes = full.dslopes, some.dlog_gates = full.dlog_gates;
      x.backward(some);
      CHECK((which == 0 ? same_bits(x.dq, all.dq) : x.dq.untouched()));
      CHECK((which == 1 ? same_bits(x.dk, all.dk) : x.dk.untouched()));
      CHECK((which == 2 ? same_bits(x.dv, all.dv) : x.dv.untouched()));
      CHECK((which == 3 ? same_bits(x.ds0, all.ds0) : x.ds0.untouched()));
      CHECK((which == 4 ? same_bits(x.dnumbers, all.dnumbers) : x.dnumbers.untouched()));
    }
  }
}
