// SPDX-License-Identifier: BSD-3-Clause

// Values that are not finite reach the gradients that depend on them, and no other, in linear::backward; what a mask
// hides may hold anything.

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/gradient_isolation.hpp"

using namespace heed_test;

namespace {

using heed::feature;
using type = linear_backward_case<float>;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr shape grouped{2, 4, 2, 40, 40, 8, 12};
constexpr index_t batch = 1, kv_head = 0, head = 1, element = 3, column = 5;  // of what is bent

void run(type& x) { x.run(); }
bool same(const type& a, const type& b) { return same_gradients(a, b); }

}  // namespace

TEST_CASE("backward: one number that is not finite, sums of scores") {
  for (const bool causal : {false, true})
    for (const float bad : {not_a_number, inf})
      for (const index_t at : {0, 21, 39}) {
        INFO((causal ? "causal, " : "") << "token " << at << " is " << bad);
        const auto make = [&] {
          return type(grouped, {.mask = causal ? heed::causal() : heed::mask(),
                                .feature = feature::identity,
                                .normalize = false,
                                .chunk = 16});
        };
        const auto own = [](index_t b, index_t h) { return b == batch && h == kv_head; };
        const auto group = [](index_t b, index_t h) { return b == batch && h / 2 == kv_head; };
        const auto reads = [=](index_t i) { return !causal || i >= at; };  // query i reads key `at`
        const auto read = [=](index_t j) { return !causal || j <= at; };   // query `at` reads key j
        check_reach("q", make, [&](type& x) { x.q(batch, head, at, element) = bad; }, run,
                    {.dk = [=](auto b, auto h, auto j, auto d) { return own(b, h) && read(j) && d == element; },
                     .dv = [=](auto b, auto h, auto j, auto) { return own(b, h) && read(j); },
                     .ds0 = [=](auto b, auto h, auto f, auto) { return own(b, h) && f == element; }});
        check_reach("k", make, [&](type& x) { x.k(batch, kv_head, at, element) = bad; }, run,
                    {.dq = [=](auto b, auto h, auto i, auto d) { return group(b, h) && reads(i) && d == element; },
                     .dv = [=](auto b, auto h, auto j, auto) { return own(b, h) && j == at; }});
        check_reach("v", make, [&](type& x) { x.v(batch, kv_head, at, column) = bad; }, run,
                    {.dq = [=](auto b, auto h, auto i, auto) { return group(b, h) && reads(i); },
                     .dk = [=](auto b, auto h, auto j, auto) { return own(b, h) && j == at; }});
        check_reach("dout", make, [&](type& x) { x.dout(batch, head, at, column) = bad; }, run,
                    {.dq = [=](auto b, auto h, auto i, auto) { return b == batch && h == head && i == at; },
                     .dk = [=](auto b, auto h, auto j, auto) { return own(b, h) && read(j); },
                     .dv = [=](auto b, auto h, auto j, auto e) { return own(b, h) && read(j) && e == column; },
                     .ds0 = [=](auto b, auto h, auto, auto e) { return own(b, h) && e == column; }});
        check_reach("initial_state", make, [&](type& x) { x.s0(batch, kv_head, element, column) = bad; }, run,
                    {.dq = [=](auto b, auto h, auto, auto d) { return group(b, h) && d == element; }});
        check_reach("dfinal_state", make, [&](type& x) { x.ds1(batch, kv_head, element, column) = bad; }, run,
                    {.dk = [=](auto b, auto h, auto, auto d) { return own(b, h) && d == element; },
                     .dv = [=](auto b, auto h, auto, auto e) { return own(b, h) && e == column; },
                     .ds0 = [=](auto b, auto h, auto f, auto e) { return own(b, h) && f == element && e == column; }});
      }
}

// A row's denominator and dout.o tie all of its gradients together.
TEST_CASE("backward: one number that is not a number, normalised") {
  for (const feature map : {feature::elu_plus_one, feature::exp, feature::softmax})
    for (const bool causal : {false, true})
      for (const index_t at : {0, 21, 39}) {
        INFO((causal ? "causal, " : "") << "feature " << static_cast<int>(map) << ", token " << at);
        const auto make = [&] {
          return type(grouped, {.mask = causal ? heed::causal() : heed::mask(), .feature = map, .chunk = 16});
        };
        const bool one_element = map != feature::softmax;
        const auto own = [](auto b, auto h, auto, auto) { return b == batch && h == kv_head; };
        const auto group = [](auto b, auto h, auto, auto) { return b == batch && h / 2 == kv_head; };
        const auto readers = [=](auto b, auto h, auto i, auto) {
          return b == batch && h / 2 == kv_head && (!causal || i >= at);
        };
        const auto row = [](index_t i) {
          return [i](auto b, auto h, auto n, auto) { return b == batch && h == head && n == i; };
        };
        const auto read = [=](auto b, auto h, auto j, auto) {
          return b == batch && h == kv_head && (!causal || j <= at);
        };
        const auto of_element = [=](auto b, auto h, auto, auto d) {
          return b == batch && h == kv_head && (d == element || !one_element);
        };
        check_reach("q", make, [&](type& x) { x.q(batch, head, at, element) = not_a_number; }, run,
                    {row(at), read, read, own, own});
        check_reach("k", make, [&](type& x) { x.k(batch, kv_head, at, element) = not_a_number; }, run,
                    {readers, own, own, own, own});
        check_reach("v", make, [&](type& x) { x.v(batch, kv_head, at, column) = not_a_number; }, run,
                    {.dq = readers, .dk = own, .dz0 = own});
        check_reach("dout", make, [&](type& x) { x.dout(batch, head, at, column) = not_a_number; }, run,
                    {row(at), read, [=](auto b, auto h, auto j, auto e) { return read(b, h, j, e) && e == column; },
                     [=](auto b, auto h, auto f, auto e) { return own(b, h, f, e) && e == column; }, own});
        check_reach("initial s", make, [&](type& x) { x.s0(batch, kv_head, element, column) = not_a_number; }, run,
                    {.dq = group, .dk = own, .dz0 = own});
        check_reach("initial z", make, [&](type& x) { x.z0(batch, kv_head, element) = not_a_number; }, run,
                    {group, own, own, own, own});
        check_reach(
            "dfinal s", make, [&](type& x) { x.ds1(batch, kv_head, element, column) = not_a_number; }, run,
            {.dk = of_element,
             .dv = [=](auto b, auto h, auto j, auto e) { return own(b, h, j, e) && e == column; },
             .ds0 = [=](auto b, auto h, auto f, auto e) { return own(b, h, f, e) && f == element && e == column; }});
        check_reach(
            "dfinal z", make, [&](type& x) { x.dz1(batch, kv_head, element) = not_a_number; }, run,
            {.dk = of_element, .dz0 = [=](auto b, auto h, auto f, auto e) { return own(b, h, f, e) && f == element; }});
      }
}

TEST_CASE("backward: keys behind key_lengths hold anything, and have no gradient") {
  const std::vector<std::int32_t> seen{25, 0};
  for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor})
    for (const bool causal : {false, true})
      for (const float bad : {not_a_number, inf}) {
        const heed::mask lengths = heed::key_lengths(seen);
        const heed::linear::options<float> how{.mask = causal ? heed::causal() & lengths : lengths,
                                               .feature = map,
                                               .normalize = map != feature::identity,
                                               .chunk = 16};
        type x({2, 4, 2, 40, 40, 6, 12}, how), y({2, 4, 2, 40, 40, 6, 12}, how);
        for (index_t b = 0; b < 2; ++b)
          for (index_t j = seen[static_cast<std::size_t>(b)]; j < 40; ++j)
            for (index_t h = 0; h < 2; ++h) y.k(b, h, j, 3) = y.v(b, h, j, 5) = bad;
        x.run(), y.run();
        CHECK(same(x, y));
        bool zero = true;
        for (index_t j = 25; j < 40; ++j) zero = zero && y.dk(0, 1, j, 3) == 0 && y.dv(0, 1, j, 5) == 0;
        for (index_t j = 0; j < 40; ++j) zero = zero && y.dk(1, 1, j, 3) == 0 && y.dv(1, 1, j, 5) == 0;
        CHECK(zero);
      }
}

TEST_CASE("backward: keys that no query sees, queries that see no key, keys of no sequence") {
  for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax, feature::taylor}) {
    const bool normalize = map != feature::identity;
    const auto check = [&](const char* what, const shape& s, const heed::alignment& align, const auto& bend,
                           const heed::mask& more = {}, index_t count = -1) {
      INFO(what << ", feature " << static_cast<int>(map));
      const heed::linear::options<float> how{
          .mask = heed::causal() & more, .align = align, .feature = map, .normalize = normalize, .chunk = 16};
      type x(s, how, {}, count), y(s, how, {}, count);
      for (type* const z : {&x, &y}) {  // no state: then they have no gradient at all
        z->options.initial_state = z->options.final_state = {};
        z->asked.dinitial_state = {}, z->asked.dfinal_state = {};
      }
      bend(y);
      x.run(), y.run();
      CHECK((same_bits(x.dq, y.dq) && same_bits(x.dk, y.dk) && same_bits(x.dv, y.dv)));
      return y;
    };
    const type late = check("keys from 20 on", {1, 2, 1, 20, 50, 6, 12}, heed::top_left, [](type& x) {
      for (index_t j = 20; j < 50; ++j) x.k(0, 0, j, 1) = x.v(0, 0, j, 3) = not_a_number;
    });
    const auto zero_rows = [](const buffer<float>& x, index_t first, index_t end) {
      bool zero = true;
      for (index_t h = 0; h < x.size()[1]; ++h)
        for (index_t i = first; i < end; ++i)
          for (index_t d = 0; d < x.size()[3]; ++d) zero = zero && x(0, h, i, d) == 0;
      return zero;
    };
    CHECK(zero_rows(late.dk, 20, 50));
    CHECK(zero_rows(late.dv, 20, 50));
    CHECK(late.dk(0, 0, 19, 1) != 0);
    const type early = check("queries up to 30", {1, 2, 1, 50, 20, 6, 12}, heed::bottom_right, [](type& x) {
      for (index_t i = 0; i < 30; ++i) x.q(0, 1, i, 1) = x.dout(0, 0, i, 3) = not_a_number;
    });
    CHECK(zero_rows(early.dq, 0, 30));
    CHECK(early.dq(0, 0, 30, 1) != 0);
    static const std::vector<std::int32_t> q_at{0, 20, 40}, k_at{0, 15, 30};
    const type rest = check(
        "keys of no sequence", {1, 2, 1, 40, 50, 6, 12}, heed::bottom_right,
        [](type& x) {
          for (index_t j = 30; j < 50; ++j) x.k(0, 0, j, 1) = x.v(0, 0, j, 3) = not_a_number;
        },
        heed::packed(q_at, k_at), 2);
    CHECK(zero_rows(rest.dk, 30, 50));
    CHECK(zero_rows(rest.dv, 30, 50));
  }
}

TEST_CASE("backward: packed sequences keep to themselves") {
  static const std::vector<std::int32_t> q_at{0, 20, 40, 41}, k_at{0, 15, 45, 50};
  for (const bool causal : {false, true}) {
    const auto make = [&] {
      const heed::mask mask = heed::packed(q_at, k_at);
      return type({1, 2, 1, 41, 50, 8, 12}, {.mask = causal ? heed::causal() & mask : mask, .chunk = 16}, {}, 3);
    };
    const auto of_keys = [](auto, auto, auto j, auto) { return j >= 15 && j < 45; };
    const auto of_state = [](auto s, auto, auto, auto) { return s == 1; };
    check_reach("all of the second", make,
                [](type& x) {
                  for (index_t i = 20; i < 40; ++i)
                    x.q(0, 0, i, 2) = x.dout(0, 1, i, 3) = x.dout(0, 0, i, 7) = not_a_number;
                  for (index_t i = 20; i < 40; ++i) x.q(0, 1, i, 2) = not_a_number;
                  for (index_t j = 15; j < 45; ++j) x.k(0, 0, j, 2) = not_a_number;
                },
                run,
                {[](auto, auto, auto i, auto) { return i >= 20 && i < 40; }, of_keys, of_keys, of_state, of_state});
  }
}
