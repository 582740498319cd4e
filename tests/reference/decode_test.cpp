// SPDX-License-Identifier: BSD-3-Clause

// The references of decode: beside forward on tokens that the test has put in order itself, and in closed form.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/reference/local_linear.hpp"
#include "heed/reference/mixture_of_head.hpp"
#include "heed/reference/sparse_query.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/comparison.hpp"

using namespace heed_test;
namespace reference = heed::reference;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
using numbers = std::vector<std::int32_t>;

buffer<double> random_buffer(const extents& n, std::uint32_t seed) {
  auto x = buffer<double>::input(n);
  random_numbers random(seed);
  x.randomize(random);
  return x;
}

// Tensors whose rows are those of `of` in a list's order; -1: NaN
buffer<double> reordered(const buffer<double>& of, const std::vector<index_t>& rows) {
  auto x = buffer<double>::input({of.size()[0], of.size()[1], static_cast<index_t>(rows.size()), of.size()[3]});
  for (index_t b = 0; b < of.size()[0]; ++b)
    for (index_t h = 0; h < of.size()[1]; ++h)
      for (std::size_t r = 0; r < rows.size(); ++r)
        for (index_t d = 0; d < of.size()[3]; ++d)
          x(b, h, static_cast<index_t>(r), d) = rows[r] < 0 ? not_a_number : of(b, h, rows[r], d);
  return x;
}

// Two sequences of 11 tokens, 2 key/value heads, 4 query heads, 3 new tokens
struct tokens {
  buffer<double> q = random_buffer({2, 4, 3, 5}, 1), k = random_buffer({2, 2, 11, 5}, 2),
                 v = random_buffer({2, 2, 11, 4}, 3), o = buffer<double>::output({2, 4, 3, 4}),
                 expected = buffer<double>::output({2, 4, 3, 4}), lse = buffer<double>::output({2, 4, 3, 1}),
                 expected_lse = buffer<double>::output({2, 4, 3, 1});

  // o and lse of decode are those of forward with all tokens under `also`, decode's mask being `mask`
  template <class Cache> double off(const Cache& cache, const heed::mask& mask, const heed::mask& also) const {
    const heed::softmax::options<double> how{.mask = mask, .alibi_slopes = 0.3, .lse = lse.view3()};
    reference::softmax::decode(q.cview(), cache, o.view(), how);
    const heed::softmax::options<double> all{.mask = mask & also, .alibi_slopes = 0.3, .lse = expected_lse.view3()};
    reference::softmax::forward(q.cview(), k.cview(), v.cview(), expected.view(), all);
    return largest_difference(o, expected) + largest_difference(lse, expected_lse);
  }
};

}  // namespace

TEST_CASE("reference decode: a full contiguous cache is forward, rows behind the length are not looked at") {
  const tokens x;
  for (const heed::mask& mask :
       {heed::mask{}, heed::causal(), heed::window(3), heed::causal() & heed::window(2, 0, 1)}) {
    CHECK(x.off(heed::contiguous_cache(x.k.cview(), x.v.cview(), {11, 11}), mask, {}) == 0);
    const std::vector<index_t> rows{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, -1};
    const auto k = reordered(x.k, rows), v = reordered(x.v, rows);
    CHECK(x.off(heed::contiguous_cache(k.cview(), v.cview(), {11, 11}), mask, {}) == 0);
  }
}

TEST_CASE("reference decode: a ring against a list written by hand") {
  const tokens x;
  // capacity 6, 2 kept: tokens 0, 1, then 2 .. 10 round four rows: 7, 8, 9, 10 are left, token 10 in row 2 + 8 % 4
  const std::vector<index_t> rows{0, 1, 10, 7, 8, 9};
  const auto k = reordered(x.k, rows), v = reordered(x.v, rows);
  const auto left = heed::visible_if([](const heed::position& at) { return at.key < 2 || at.key >= 7; });
  for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(2), heed::window(2, 0, 5)})
    CHECK(x.off(heed::ring_cache(k.cview(), v.cview(), {11, 11}, 2), mask, left) == 0);

  // not wrapped: 11 tokens in 13 rows; truncated from 14: tokens 1 .. 4 of a ring of 10 rows with 1 kept are gone
  const std::vector<index_t> short_rows{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, -1};
  const auto k2 = reordered(x.k, short_rows), v2 = reordered(x.v, short_rows);
  CHECK(x.off(heed::ring_cache(k2.cview(), v2.cview(), {11, 11}, 3), heed::causal(), {}) == 0);
  const std::vector<index_t> truncated{0, 10, -1, -1, -1, 5, 6, 7, 8, 9};
  const auto k3 = reordered(x.k, truncated), v3 = reordered(x.v, truncated);
  auto cache = heed::ring_cache(k3.cview(), v3.cview(), {11, 11}, 1);
  const numbers oldest{5, 5};
  cache.oldest = oldest;
  const auto kept = heed::visible_if([](const heed::position& at) { return at.key < 1 || at.key >= 5; });
  CHECK(x.off(cache, heed::causal(), kept) == 0);
}

TEST_CASE("reference decode: pages in any order, shared, of one token") {
  const tokens x;
  for (const index_t page : {1, 3, 20}) {
    const index_t blocks = (11 + page - 1) / page, pages = 2 * blocks + 1;
    auto k = buffer<double>::input({pages, 2, page, 5}), v = buffer<double>::input({pages, 2, page, 4});
    k.poison(), v.poison();
    numbers table(static_cast<std::size_t>(2 * (blocks + 1)), -7);  // entries that are not used
    for (index_t b = 0; b < 2; ++b)
      for (index_t t = 0; t < 11; ++t) {
        const index_t number = t / page, at = pages - 1 - (2 * number + b);
        table[static_cast<std::size_t>(b * (blocks + 1) + number)] = static_cast<std::int32_t>(at);
        for (index_t h = 0; h < 2; ++h) {
          for (index_t d = 0; d < 5; ++d) k(at, h, t % page, d) = x.k(b, h, t, d);
          for (index_t e = 0; e < 4; ++e) v(at, h, t % page, e) = x.v(b, h, t, e);
        }
      }
    const heed::tensor_view<const std::int32_t, 2> view(table.data(), {2, blocks + 1}, {blocks + 1, 1});
    CHECK(x.off(heed::paged_cache(k.cview(), v.cview(), view, {11, 11}), heed::causal(), {}) == 0);
  }
}

TEST_CASE("reference decode: a shared prefix is the first tokens of all sequences") {
  const tokens x;
  for (index_t t = 0; t < 4; ++t)  // in sequence 1 as in 0
    for (index_t h = 0; h < 2; ++h) {
      for (index_t d = 0; d < 5; ++d) x.k(1, h, t, d) = x.k(0, h, t, d);
      for (index_t e = 0; e < 4; ++e) x.v(1, h, t, e) = x.v(0, h, t, e);
    }
  const auto first = [](const auto& view) { return heed::slice(heed::slice(view, 0, 0, 1), 2, 0, 4); };
  const auto prefix = heed::contiguous_cache(first(x.k.cview()), first(x.v.cview()), {4});
  const auto rest = [](const auto& view) { return heed::slice(view, 2, 4, 7); };
  const auto own = heed::contiguous_cache(rest(x.k.cview()), rest(x.v.cview()), {7, 7});
  for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(8), heed::window(2, 0, 3)})
    CHECK(x.off(heed::shared_prefix(prefix, own), mask, {}) == 0);
  // own tokens 4 .. 10 in a ring of 5 with 1 kept: token 4, then 7 .. 10
  const std::vector<index_t> rows{4, 9, 10, 7, 8};
  const auto k = reordered(x.k, rows), v = reordered(x.v, rows);
  const auto left = heed::visible_if([](const heed::position& at) { return at.key < 5 || at.key >= 7; });
  const auto ring = heed::ring_cache(k.cview(), v.cview(), {7, 7}, 1);
  CHECK(x.off(heed::shared_prefix(prefix, ring), heed::causal(), left) == 0);
}

TEST_CASE("reference decode: lengths per sequence and per head, shorter than the new tokens, none") {
  const tokens x;
  const numbers each{11, 2, 0, 1};
  const heed::tensor_view<const std::int32_t, 2> lengths(each.data(), {2, 2}, {2, 1});
  reference::softmax::decode(x.q.cview(), heed::contiguous_cache(x.k.cview(), x.v.cview(), lengths), x.o.view(),
                             {.mask = heed::causal(), .lse = x.lse.view3()});
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 4; ++h) {
      const index_t n = each[static_cast<std::size_t>(2 * b + h / 2)];
      auto o = buffer<double>::output({1, 1, 3, 4});
      const auto head = [&](const auto& view, index_t at, index_t count) {
        return heed::slice(heed::slice(heed::slice(view, 0, b, 1), 1, at, 1), 2, 0, count);
      };
      reference::softmax::forward(head(x.q.cview(), h, 3), head(x.k.cview(), h / 2, n), head(x.v.cview(), h / 2, n),
                                  o.view(), {.mask = heed::causal()});
      for (index_t i = 0; i < 3; ++i) {
        for (index_t e = 0; e < 4; ++e) CHECK(x.o(b, h, i, e) == o(0, 0, i, e));
        if (i < 3 - n) CHECK((x.o(b, h, i, 1) == 0 && x.lse(b, h, i) == -HUGE_VAL));       // places below 0
        if (i == 3 - n) CHECK(x.o(b, h, i, 2) == Approx(x.v(b, h / 2, 0, 2)).epsilon(1e-15));  // one visible key
      }
    }
}

TEST_CASE("reference decode: more key/value heads than query heads") {
  const auto q = random_buffer({1, 2, 2, 3}, 4), k = random_buffer({1, 4, 6, 3}, 5), v = random_buffer({1, 4, 6, 2}, 6);
  const auto o = buffer<double>::output({1, 4, 2, 2}), expected = buffer<double>::output({1, 4, 2, 2});
  reference::sparse_query::decode(q.cview(), heed::contiguous_cache(k.cview(), v.cview(), {6}), o.view());
  reference::softmax::forward(q.cview(), k.cview(), v.cview(), expected.view());
  CHECK(largest_difference(o, expected) == 0);
}

TEST_CASE("reference decode: numbers of std::int8_t times their scales") {
  auto k8 = buffer<std::int8_t>::input({1, 2, 7, 5}), v8 = buffer<std::int8_t>::input({1, 2, 7, 4});
  auto scale = buffer<float>::input({1, 2, 7, 1}), v_scale = buffer<float>::input({1, 2, 7, 1});
  auto k = buffer<double>::input({1, 2, 7, 5}), v = buffer<double>::input({1, 2, 7, 4});
  random_numbers random(3);
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < 7; ++t) {
      scale(0, h, t) = static_cast<float>(random.uniform()), v_scale(0, h, t) = static_cast<float>(random.uniform());
      for (index_t d = 0; d < 5; ++d) {
        k8(0, h, t, d) = static_cast<std::int8_t>(random.below(256) - 128);
        k(0, h, t, d) = static_cast<double>(k8(0, h, t, d)) * static_cast<double>(scale(0, h, t));
      }
      for (index_t e = 0; e < 4; ++e) {
        v8(0, h, t, e) = static_cast<std::int8_t>(random.below(256) - 128);
        v(0, h, t, e) = static_cast<double>(v8(0, h, t, e)) * static_cast<double>(v_scale(0, h, t));
      }
    }
  auto q = buffer<float>::input({1, 4, 1, 5});
  q.randomize(random);
  const auto o = buffer<double>::output({1, 4, 1, 4}), expected = buffer<double>::output({1, 4, 1, 4});
  const auto cache = heed::contiguous_cache(k8.cview(), v8.cview(), scale.view3(), v_scale.view3(), {7});
  reference::softmax::decode(q.cview(), cache, o.view());
  reference::softmax::forward(q.cview(), k.cview(), v.cview(), expected.view());
  CHECK(largest_difference(o, expected) == 0);
}

TEST_CASE("reference decode: mixture of head and local linear are their forward on the tokens") {
  const tokens x;
  const std::vector<index_t> rows{0, 1, 10, 7, 8, 9};
  const auto k = reordered(x.k, rows), v = reordered(x.v, rows);
  const auto cache = heed::ring_cache(k.cview(), v.cview(), {11, 11}, 2);
  const auto left = heed::visible_if([](const heed::position& at) { return at.key < 2 || at.key >= 7; });
  auto gates = random_buffer({2, 4, 3, 1}, 7);
  gates(0, 1, 1) = 0, gates(1, 3, 2) = -0.0;
  reference::mixture_of_head::decode(x.q.cview(), cache, gates.view3(), x.o.view(), {.mask = heed::causal()});
  reference::mixture_of_head::forward(x.q.cview(), x.k.cview(), x.v.cview(), gates.view3(), x.expected.view(),
                                      {.mask = heed::causal() & left});
  CHECK(largest_difference(x.o, x.expected) == 0);
  const std::vector<double> ridge{0.1, 1, 10, std::numeric_limits<double>::infinity()};
  heed::local_linear::report said, expected;
  reference::local_linear::decode(x.q.cview(), cache, ridge, x.o.view(), {.mask = heed::causal(), .report = &said});
  reference::local_linear::forward(x.q.cview(), x.k.cview(), x.v.cview(), ridge, x.expected.view(),
                                   {.mask = heed::causal() & left, .report = &expected});
  CHECK(largest_difference(x.o, x.expected) == 0);
  CHECK(said.direct_rows == expected.direct_rows);
  CHECK(said.direct_rows == 18);
}
