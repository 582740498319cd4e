// SPDX-License-Identifier: BSD-3-Clause

// Properties without a reference: heads that change places, gates that grow, tokens without heads, prefixes of longer
// calls, packed sequences one by one.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/mixture_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{2, 4, 4, 90, 110, 12, 9}, {1, 6, 2, 70, 61, 8, 16}, {2, 4, 2, 3, 150, 20, 7}};

template <class T> heed::tensor_view<T, 4> rows(heed::tensor_view<T, 4> x, index_t first, index_t count) {
  return heed::slice(x, 2, first, count);
}

}  // namespace

// Heads that share no key/value head with another (group of 1): the same bits in another order.
TEST_CASE("heads that change places take their results along") {
  const shape& s = shapes[0];
  mixture_case<float> x(s, gating::random, {.mask = heed::causal()}), y(s, gating::random, {.mask = heed::causal()});
  const auto from = [&](index_t h) { return (h * 3 + 1) % s.heads; };
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.heads; ++h) {
      for (index_t i = 0; i < s.queries; ++i) {
        y.gates(b, h, i) = x.gates(b, from(h), i);
        for (index_t d = 0; d < s.dim; ++d) y.q(b, h, i, d) = x.q(b, from(h), i, d);
      }
      for (index_t j = 0; j < s.keys; ++j) {
        for (index_t d = 0; d < s.dim; ++d) y.k(b, h, j, d) = x.k(b, from(h), j, d);
        for (index_t e = 0; e < s.value_dim; ++e) y.v(b, h, j, e) = x.v(b, from(h), j, e);
      }
    }
  x.mix();
  y.mix();
  bool equal = true;
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        equal = equal && y.lse(b, h, i) == x.lse(b, from(h), i);
        for (index_t e = 0; e < s.value_dim; ++e) equal = equal && y.o(b, h, i, e) == x.o(b, from(h), i, e);
      }
  CHECK(equal);
}

TEST_CASE("gates times a power of two: o times it, the same lse") {
  for (const shape& s : shapes) {
    mixture_case<float> x(s), y(s);
    y.gates.each([](float& g) { g *= -4; });
    x.mix();
    y.mix();
    bool equal = same_bits(x.lse, y.lse);
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.heads; ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t e = 0; e < s.value_dim; ++e) equal = equal && y.o(b, h, i, e) == -4 * x.o(b, h, i, e);
    CHECK(equal);
  }
}

TEST_CASE("tokens without heads and heads without tokens are zeros, whatever o held") {
  for (const shape& s : shapes) {
    mixture_case<float> x(s, gating::all_ones);
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t h = 0; h < s.heads; ++h)
          if (i % 2 == 1 || h == 1) x.gates(b, h, i) = 0;
    check_mixture(x);
    bool zero = true;
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.heads; ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t e = 0; e < s.value_dim; ++e) zero = zero && ((x.o(b, h, i, e) == 0) == (i % 2 == 1 || h == 1));
    CHECK(zero);
  }
}

// A causal prefix does not depend on what follows it; tiles are others, so rounding may be.
TEST_CASE("the first rows of a longer causal call") {
  for (const shape& s : {shape{2, 4, 4, 90, 90, 12, 9}, shape{1, 6, 2, 70, 70, 8, 16}})
    for (const index_t n : {1, 20, 50}) {
      mixture_case<double> x(s, gating::random, {.mask = heed::causal()});
      x.mix();
      mixture_case<double> first({s.batch, s.heads, s.kv_heads, n, n, s.dim, s.value_dim});
      run_mixture<double>(
          rows(x.q.cview(), 0, n), rows(x.k.cview(), 0, n), rows(x.v.cview(), 0, n),
          heads_in<double>(x.gates.view3().data(), {s.batch, s.heads, n}, {s.heads * s.queries, s.queries, 1}),
          first.o.view(), {.mask = heed::causal(), .lse = first.lse.view3()}, {});
      double worst = 0;
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < s.heads; ++h)
          for (index_t i = 0; i < n; ++i)
            for (index_t e = 0; e < s.value_dim; ++e)
              worst = std::max(worst, std::abs(first.o(b, h, i, e) - x.o(b, h, i, e)));
      CHECK(worst <= 1e-13);
    }
}

// Gates that are on for a prefix of the tokens: softmax over that prefix of the queries.
TEST_CASE("gates that are on for some tokens: a call on those tokens alone, with their places") {
  const shape s{1, 2, 2, 100, 100, 12, 9};
  mixture_case<float> x(s, gating::none, {.mask = heed::causal()});
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 30; i < 70; ++i) x.gates(0, h, i) = 1;
  x.mix();
  const std::vector<std::int32_t> place{30};
  const auto o = buffer<float>::output({1, 2, 40, 9});
  run_forward<float>(rows(x.q.cview(), 30, 40), x.k.cview(), x.v.cview(), o.view(),
                     {.mask = heed::causal(), .align = heed::first_place(place)}, {});
  bool equal = true;
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 100; ++i)
      for (index_t e = 0; e < 9; ++e)
        equal = equal && x.o(0, h, i, e) == (i >= 30 && i < 70 ? o(0, h, i - 30, e) : 0.f);
  CHECK(equal);
}

TEST_CASE("packed: each sequence has the bits that it has as a call of its own") {
  packing p;
  p.add(0, 5), p.add(1, 1), p.add(3, 9), p.add(40, 40), p.add(2, 0), p.add(0, 0), p.add(70, 130), p.add(5, 3);
  for (const index_t kv_heads : {1, 2, 4}) {
    const shape s{1, 4, kv_heads, p.queries.back(), p.keys.back(), 12, 9};
    const option_parts<float> parts(s, &p);
    std::size_t turn = 0;
    for (const gating pattern : {gating::all_ones, gating::random, gating::sparse, gating::one_head})
      for (std::size_t part = 0; part <= parts.all.size(); ++part) {
        if (turn++ % thinning != 0) continue;
        const bool plain = part == parts.all.size();
        INFO(name_of(pattern) << ", " << (plain ? "no option" : parts.all[part].name));
        std::vector<const option_parts<float>::part*> chosen;
        if (!plain) chosen.push_back(&parts.all[part]);
        heed::softmax::options<float> how = parts.of(chosen, parts.whole());
        how.mask = how.mask & heed::packed(p.queries, p.keys);
        mixture_case<float> x(s, pattern, how);
        x.mix();
        const auto o = buffer<float>::output(x.o.size()), lse = buffer<float>::output(x.lse.size());
        for (index_t b = 0; b < p.count(); ++b) {
          const scope one = parts.alone(b);
          heed::softmax::options<float> alone = parts.of(chosen, one);
          alone.lse = {&lse(0, 0, 0) + one.first_query, {1, 4, one.queries}, {0, s.queries, 1}};
          run_mixture<float>(rows(x.q.cview(), one.first_query, one.queries),
                             rows(x.k.cview(), one.first_key, one.keys), rows(x.v.cview(), one.first_key, one.keys),
                             {&x.gates(0, 0, 0) + one.first_query, {1, 4, one.queries}, {0, s.queries, 1}},
                             rows(o.view(), one.first_query, one.queries), alone, {});
        }
        CHECK((same_bits(x.o, o) && same_bits(x.lse, lse)));
        if (turn % 4 != 0) continue;
        const verdict result = compare_mixture(x, x.options);
        INFO(result.where);
        CHECK(result.worst <= 1);
      }
  }
}
