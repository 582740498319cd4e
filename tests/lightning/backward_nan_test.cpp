// SPDX-License-Identifier: BSD-3-Clause

// Values that are not finite reach the gradients that depend on them, and no other, in lightning::backward; padding and
// what is behind a cut may hold anything.

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/gradient_isolation.hpp"
#include "support/lightning_backward_case.hpp"

using namespace heed_test;

namespace {

using type = lightning_backward_case<float>;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr shape grouped{2, 4, 2, 40, 40, 8, 12};
constexpr index_t batch = 1, kv_head = 0, head = 1, element = 3, column = 5;  // of what is bent

void run(type& x) { x.backward(); }

}  // namespace

TEST_CASE("backward: one number that is not finite, slopes and gates") {
  for (const index_t states : {2, 4})
    for (const bool gated : {false, true})
      for (const float bad : {not_a_number, inf})
        for (const index_t at : {0, 21, 39}) {
          INFO(states << " states" << (gated ? ", gates" : "") << ", token " << at << " is " << bad);
          const auto make = [&] {
            const heed::lightning::options<float> how{.chunk = 16};
            return gated ? type(grouped, states, 0, how) : type(grouped, some_slopes(states), how);
          };
          const index_t readers = 4 / states, of_head = head / readers;  // the state that head 1 reads
          const auto own = [](index_t b, index_t h) { return b == batch && h == kv_head; };
          const auto group = [](index_t b, index_t h) { return b == batch && h / 2 == kv_head; };
          check_reach(
              "q", make, [&](type& x) { x.q(batch, head, at, element) = bad; }, run,
              {.dk = [=](auto b, auto h, auto j, auto d) { return own(b, h) && j <= at && d == element; },
               .dv = [=](auto b, auto h, auto j, auto) { return own(b, h) && j <= at; },
               .ds0 = [=](auto b, auto h, auto f, auto) { return b == batch && h == of_head && f == element; }});
          check_reach("k", make, [&](type& x) { x.k(batch, kv_head, at, element) = bad; }, run,
                      {.dq = [=](auto b, auto h, auto i, auto d) { return group(b, h) && i >= at && d == element; },
                       .dv = [=](auto b, auto h, auto j, auto) { return own(b, h) && j == at; }});
          check_reach("v", make, [&](type& x) { x.v(batch, kv_head, at, column) = bad; }, run,
                      {.dq = [=](auto b, auto h, auto i, auto) { return group(b, h) && i >= at; },
                       .dk = [=](auto b, auto h, auto j, auto) { return own(b, h) && j == at; }});
          check_reach("dout", make, [&](type& x) { x.dout(batch, head, at, column) = bad; }, run,
                      {.dq = [=](auto b, auto h, auto i, auto) { return b == batch && h == head && i == at; },
                       .dk = [=](auto b, auto h, auto j, auto) { return own(b, h) && j <= at; },
                       .dv = [=](auto b, auto h, auto j, auto e) { return own(b, h) && j <= at && e == column; },
                       .ds0 = [=](auto b, auto h, auto, auto e) { return b == batch && h == of_head && e == column; }});
          check_reach("initial_state", make, [&](type& x) { x.s0(batch, of_head, element, column) = bad; }, run,
                      {.dq = [=](auto b, auto h, auto, auto d) {
                        return b == batch && h / readers == of_head && d == element;
                      }});
          check_reach("dfinal_state", make, [&](type& x) { x.ds1(batch, of_head, element, column) = bad; }, run,
                      {.dk = [=](auto b, auto h, auto, auto d) { return own(b, h) && d == element; },
                       .dv = [=](auto b, auto h, auto, auto e) { return own(b, h) && e == column; },
                       .ds0 = [=](auto b, auto h, auto f,
                                  auto e) { return b == batch && h == of_head && f == element && e == column; }});
        }
}

TEST_CASE("backward: a gradient of a gate or slope is not a number where something that it depends on is") {
  for (const index_t at : {0, 21, 39})
    for (const bool gated : {false, true})
      for (int which = 0; which < 6; ++which) {
        INFO("input " << which << ", token " << at << (gated ? ", gates" : ""));
        type clean = gated ? type(grouped, 4, 0) : type(grouped, some_slopes(4));
        type x = gated ? type(grouped, 4, 0) : type(grouped, some_slopes(4));
        if (which == 0) x.q(batch, head, at, element) = not_a_number;
        if (which == 1) x.k(batch, kv_head, at, element) = not_a_number;
        if (which == 2) x.v(batch, kv_head, at, column) = not_a_number;
        if (which == 3) x.dout(batch, head, at, column) = not_a_number;
        if (which == 4) x.s0(batch, head, element, column) = not_a_number;
        if (which == 5) x.ds1(batch, head, element, column) = not_a_number;
        clean.backward(), x.backward();
        const bool of_key = which == 1 || which == 2;  // of both heads that share it
        const auto reached = [&](index_t b, index_t h) { return b == batch && (h == head || (of_key && h / 2 == 0)); };
        int wrong = 0, missed = 0;
        for (index_t h = 0; h < 4 && !gated; ++h) {
          const bool is_nan = std::isnan(x.dslopes(0, 0, 0, h)), must = reached(batch, h) && (!of_key || at < 39);
          wrong += !reached(batch, h) && !(x.dslopes(0, 0, 0, h) == clean.dslopes(0, 0, 0, h));
          missed += must && !is_nan;
        }
        for (index_t b = 0; b < 2 && gated; ++b)
          for (index_t h = 0; h < 4; ++h)
            for (index_t t = 0; t < 40; ++t) {
              wrong += !reached(b, h) && !(x.dgates(b, h, t) == clean.dgates(b, h, t));
              const bool depends = which == 0 || which == 3 ? t <= at : !of_key || t > at;
              missed += reached(b, h) && depends && !std::isnan(x.dgates(b, h, t));
            }
        CHECK(wrong == 0);
        CHECK(missed == 0);
      }
}

TEST_CASE("backward: padding holds anything, and has no gradient but that of q, which reads the state") {
  const std::vector<std::int32_t> seen{25, 0};
  for (const bool gated : {false, true})
    for (const index_t states : {2, 4})
      for (const float bad : {not_a_number, inf}) {
        const heed::lightning::options<float> how{.mask = heed::key_lengths(seen), .chunk = 16};
        const auto make = [&] {
          return gated ? type(grouped, states, 9, how) : type(grouped, some_slopes(states), how);
        };
        type x = make(), y = make();
        bool zero = true;
        x.backward();
        for (index_t b = 0; b < 2; ++b)
          for (index_t j = seen[static_cast<std::size_t>(b)]; j < 40; ++j) {
            for (index_t h = 0; h < 2; ++h) y.k(b, h, j, 3) = y.v(b, h, j, 5) = bad;
            for (index_t h = 0; h < states && gated; ++h) y.gates(b, h, j) = not_a_number;
            for (index_t h = 0; h < states && gated; ++h) zero = zero && x.dgates(b, h, j) == 0;
            for (index_t h = 0; h < 2; ++h) zero = zero && x.dk(b, h, j, 3) == 0 && x.dv(b, h, j, 5) == 0;
          }
        y.backward();
        CHECK(zero);
        CHECK(same_gradients(x, y));
      }
}

TEST_CASE("backward: nothing of what is before a cut gets through, nor back through it") {
  const shape s{1, 1, 1, 100, 100, 16, 20};
  for (const index_t chunk : {0, 5, 64, 100})
    for (const index_t cut : {1, 15, 16, 50, 64, 99})
      for (const bool forward : {true, false}) {
        INFO("cut at " << cut << ", chunk " << chunk << (forward ? ", from before" : ", from behind"));
        type x(s, 1, 0, {.chunk = chunk}), y(s, 1, 0, {.chunk = chunk});
        for (type* const z : {&x, &y}) z->gates(0, 0, cut) = -inf;
        if (forward)
          y.k(0, 0, cut - 1, 2) = y.v(0, 0, cut - 1, 7) = y.s0(0, 0, 3, 3) = y.q(0, 0, cut - 1, 1) = not_a_number;
        else
          y.q(0, 0, cut, 2) = y.dout(0, 0, cut, 7) = y.ds1(0, 0, 3, 3) = y.k(0, 0, cut, 1) = not_a_number;
        x.backward(), y.backward();
        const index_t first = forward ? cut : 0, end = forward ? 100 : cut;
        bool same = true;
        for (index_t i = first; i < end; ++i)
          same = same && std::memcmp(&x.dq(0, 0, i), &y.dq(0, 0, i), 16 * sizeof(float)) == 0 &&
                 std::memcmp(&x.dk(0, 0, i), &y.dk(0, 0, i), 16 * sizeof(float)) == 0 &&
                 std::memcmp(&x.dv(0, 0, i), &y.dv(0, 0, i), 20 * sizeof(float)) == 0 &&
                 x.dgates(0, 0, i) == y.dgates(0, 0, i);
        CHECK(same);
        CHECK(y.dgates(0, 0, cut) == 0);
        if (!forward) CHECK(same_bits(x.ds0, y.ds0));
      }
  type x(s, {static_cast<double>(inf)}), y(s, {static_cast<double>(inf)});  // lambda = 0 cuts everywhere
  y.q(0, 0, 30, 2) = y.k(0, 0, 60, 2) = y.v(0, 0, 70, 2) = y.dout(0, 0, 80, 2) = not_a_number;
  x.backward(), y.backward();
  bool same = true;
  for (index_t i = 0; i < 100; ++i)
    if (i != 30 && i != 60 && i != 70 && i != 80)
      same = same && std::memcmp(&x.dq(0, 0, i), &y.dq(0, 0, i), 16 * sizeof(float)) == 0 &&
             std::memcmp(&x.dk(0, 0, i), &y.dk(0, 0, i), 16 * sizeof(float)) == 0 &&
             std::memcmp(&x.dv(0, 0, i), &y.dv(0, 0, i), 20 * sizeof(float)) == 0;
  CHECK(same);
  CHECK(same_bits(x.ds0, y.ds0));
  CHECK(y.dslopes(0, 0, 0, 0) == 0);
}

TEST_CASE("backward: rows that read nothing have no gradient, whatever they hold") {
  const std::vector<std::int32_t> none{0};
  for (const bool gated : {false, true}) {
    const heed::lightning::options<float> how{.mask = heed::key_lengths(none)};
    const shape s{1, 2, 1, 20, 20, 8, 12};
    type x = gated ? type(s, 2, 0, how) : type(s, some_slopes(2), how);
    x.options.initial_state = {}, x.asked.dinitial_state = {}, x.asked.dfinal_state = {};
    x.q(0, 0, 3, 1) = x.dout(0, 1, 4, 2) = not_a_number;
    x.backward();
    const auto zero = [](const buffer<float>& a) {
      bool all = true;
      a.each([&](float number) { all = all && number == 0; });
      return all;
    };
    CHECK(zero(x.dq));
    CHECK((zero(x.dk) && zero(x.dv)));
    CHECK(zero(gated ? x.dgates : x.dslopes));
  }
}

// Sums of gates within a chunk may carry it on to keys behind it, whose outputs are not numbers anyway, up to a cut.
TEST_CASE("backward: a gate that is not a number reaches what it fades, and nothing beyond a cut") {
  const shape s{1, 1, 1, 70, 70, 8, 8};
  for (const index_t chunk : {0, 7, 16}) {
    type x(s, 1, 0, {.chunk = chunk}), y(s, 1, 0, {.chunk = chunk});
    for (type* const z : {&x, &y}) z->gates(0, 0, 10) = z->gates(0, 0, 40) = -inf;
    y.gates(0, 0, 20) = not_a_number;
    x.backward(), y.backward();
    bool same = true, reached = true;
    for (index_t i = 0; i < 70; ++i) {
      const bool fades = i >= 20 && i < 40, faded = i >= 10 && i < 20;
      for (index_t d = 0; d < 8; ++d) {
        same = same && (fades || x.dq(0, 0, i, d) == y.dq(0, 0, i, d));
        reached = reached && (!fades || std::isnan(y.dq(0, 0, i, d)));
        same =
            same && (fades || faded || (x.dk(0, 0, i, d) == y.dk(0, 0, i, d) && x.dv(0, 0, i, d) == y.dv(0, 0, i, d)));
        reached = reached && (!faded || (std::isnan(y.dk(0, 0, i, d)) && std::isnan(y.dv(0, 0, i, d))));
      }
      same = same && (fades || faded || x.dgates(0, 0, i) == y.dgates(0, 0, i));
      reached = reached && (i <= 10 || i > 20 || std::isnan(y.dgates(0, 0, i)));
    }
    CHECK(same);
    CHECK(reached);
    CHECK(same_bits(x.ds0, y.ds0));
    CHECK((y.dgates(0, 0, 10) == 0 && y.dgates(0, 0, 40) == 0));
  }
}
