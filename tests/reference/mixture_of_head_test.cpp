// SPDX-License-Identifier: BSD-3-Clause

// The reference of mixture-of-head attention on closed forms, and beside the reference of softmax: two readings of the
// same masks, places and score steps.

#include "heed/reference/mixture_of_head.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/reference/softmax.hpp"
#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

namespace reference = heed::reference::mixture_of_head;
using options = heed::mixture_of_head::options<double>;
using logits = heed::tensor_view<const double, 3>;
constexpr double inf = std::numeric_limits<double>::infinity(), nan_value = std::numeric_limits<double>::quiet_NaN();

// Heads in rows, one query and key each unless said
heed::tensor_view<double, 3> per_head(std::vector<double>& x, index_t heads, index_t tokens = 1) {
  return {x.data(), {1, heads, tokens}, {0, tokens, 1}};
}
logits per_head(const std::vector<double>& x, index_t heads, index_t tokens = 1) {
  return {x.data(), {1, heads, tokens}, {0, tokens, 1}};
}

buffer<double> randomized(const extents& n, std::uint32_t seed) {
  auto x = buffer<double>::input(n);
  random_numbers random(seed);
  x.randomize(random);
  return x;
}

}  // namespace

TEST_CASE("one key: gate times its value, the score as lse; gate 0: nothing") {
  const std::vector<double> q{2, 3, 5, nan_value}, k{7, 11}, v{13, 17}, gates{1, -0.5, 0.25, 0};
  std::vector<double> o(4, 77), lse(4, 77);
  const auto heads = [](auto* p, index_t count) { return heed::bhsd(p, 1, count, 1, 1); };
  options how{.scale = 0.5};
  how.lse = per_head(lse, 4);
  reference::forward(heads(q.data(), 4), heads(k.data(), 2), heads(v.data(), 2), per_head(gates, 4), heads(o.data(), 4),
                     how);
  CHECK(o == std::vector<double>{13, -6.5, 4.25, 0});  // heads 0, 1 on the first key/value head, 2, 3 on the second
  CHECK(lse == std::vector<double>{7, 10.5, 27.5, -inf});
}

TEST_CASE("a gate of either zero is off, NaN is on, and rows without a key are 0") {
  const std::vector<double> q{1, 1, 1, 1}, k{1, 1}, v{2, 4}, gates{0.0, -0.0, nan_value, 3};
  std::vector<double> o(4, 77), lse(4, 77);
  const auto rows = [](auto* p, index_t count) { return heed::bhsd(p, 1, 1, count, 1); };
  options how{.mask = heed::causal(), .lse = per_head(lse, 1, 4)};
  reference::forward(rows(q.data(), 4), rows(k.data(), 2), rows(v.data(), 2), per_head(gates, 1, 4), rows(o.data(), 4),
                     how);
  CHECK((o[0] == 0 && o[1] == 0 && std::isnan(o[2]) && o[3] == 9));
  CHECK((lse[0] == -inf && lse[1] == -inf && lse[2] == 1 && lse[3] == Approx(1 + std::log(2))));
  how.align = heed::top_left,
  how.mask = heed::causal() & heed::window(0) & heed::visible_if([](const auto& at) { return at.key == 7; });
  reference::forward(rows(q.data(), 4), rows(k.data(), 2), rows(v.data(), 2), per_head(gates, 1, 4), rows(o.data(), 4),
                     how);
  CHECK(o == std::vector<double>(4, 0.0));
  CHECK(lse == std::vector<double>(4, -inf));
}

TEST_CASE("every option and mask: gate times the reference of softmax") {
  packing sequences;
  sequences.add(7, 11), sequences.add(0, 3), sequences.add(4, 2), sequences.add(1, 9);
  for (const bool packed : {false, true}) {
    const shape s = packed ? shape{1, 4, 2, 12, 25, 5, 3} : shape{2, 4, 2, 9, 13, 5, 3};
    const option_parts<double> parts(s, packed ? &sequences : nullptr);
    const auto q = randomized({s.batch, s.heads, s.queries, s.dim}, 1),
               k = randomized({s.batch, s.kv_heads, s.keys, s.dim}, 2),
               v = randomized({s.batch, s.kv_heads, s.keys, s.value_dim}, 3),
               gates = randomized({s.batch, s.heads, s.queries, 1}, 4);
    random_numbers random(5);
    gates.each([&](double& g) { g = random.uniform() < 0.4 ? 0 : g; });
    const auto o = buffer<double>::output({s.batch, s.heads, s.queries, s.value_dim}),
               lse = buffer<double>::output({s.batch, s.heads, s.queries, 1}),
               expected = buffer<double>::output(o.size()), expected_lse = buffer<double>::output(lse.size());
    const auto compare = [&](options how) {
      how.mask = packed ? how.mask & heed::packed(sequences.queries, sequences.keys) : how.mask;
      how.lse = lse.view3();
      reference::forward(q.cview(), k.cview(), v.cview(), gates.view3(), o.view(), how);
      how.lse = expected_lse.view3();
      heed::reference::softmax::forward(q.cview(), k.cview(), v.cview(), expected.view(), how);
      double worst = 0;
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < s.heads; ++h)
          for (index_t i = 0; i < s.queries; ++i) {
            const double gate = gates(b, h, i), theirs = gate == 0 ? -inf : expected_lse(b, h, i);
            if (lse(b, h, i) != theirs) worst = std::max(worst, std::abs(lse(b, h, i) - theirs));
            for (index_t e = 0; e < s.value_dim; ++e)
              worst = std::max(worst, std::abs(o(b, h, i, e) - gate * expected(b, h, i, e)));
          }
      CHECK(worst <= 1e-13);
    };
    compare({});
    for (const auto& part : parts.all) {
      INFO(part.name);
      compare(parts.of({&part}, parts.whole()));
    }
    for (std::size_t i = 0; i + 2 < parts.all.size(); ++i) {  // three at a time, of different kinds where they are
      const auto *a = &parts.all[i], *b = &parts.all[(i * 5 + 3) % parts.all.size()],
                 *c = &parts.all[(i * 7 + 11) % parts.all.size()];
      if (a->kind == b->kind || b->kind == c->kind || a->kind == c->kind) continue;
      INFO(a->name << ", " << b->name << ", " << c->name);
      compare(parts.of({a, b, c}, parts.whole()));
    }
    for (const auto& part : parts.all) {
      if (part.kind != part_kind::key_lengths) continue;
      options how = parts.of({&part}, parts.whole());
      how.mask = how.mask & heed::causal(), how.align = heed::end_of_lengths;
      compare(how);
    }
  }
}

TEST_CASE("trained router by hand: two of three routed heads, one shared") {
  // P = (1, 2, 5) / 8; heads 1 and 2 kept: 2 * (2, 5) / 7; alpha = 2 * (1, 3) / 4
  const std::vector<double> routed{0, std::log(2), std::log(5)}, mix{0, std::log(3)};
  std::vector<double> gates(4, 77);
  const double loss = reference::route_trained(per_head(routed, 3), logits{}, per_head(mix, 2),
                                               {.shared = 1, .active = 2}, per_head(gates, 4));
  CHECK(gates[0] == Approx(0.5).epsilon(1e-15));
  CHECK(gates[1] == 0);
  CHECK(gates[2] == Approx(1.5 * 4 / 7).epsilon(1e-15));
  CHECK(gates[3] == Approx(1.5 * 10 / 7).epsilon(1e-15));
  CHECK(loss == Approx(3 * (2.0 / 8 + 5.0 / 8)).epsilon(1e-15));
}

TEST_CASE("trained router: equal logits give gates of 1, ties to the lower head, a balanced loss") {
  const std::vector<double> same(12, 0.3);
  std::vector<double> gates(10, 77);
  const double loss = reference::route_trained(per_head(same, 3, 2), per_head(same, 2, 2), per_head(same, 2, 2),
                                               {.shared = 2, .active = 2}, per_head(gates, 5, 2));
  CHECK(gates == std::vector<double>{1, 1, 1, 1, 1, 1, 1, 1, 0, 0});
  CHECK(loss == Approx(2).epsilon(1e-15));  // sum of P over the two that are always kept, times three
}

TEST_CASE("trained router without routed heads: softmax times the heads; without shared heads: no mix") {
  const std::vector<double> shared{0, std::log(3)}, routed{std::log(2), 0, std::log(7)};
  std::vector<double> two(2, 77), three(3, 77);
  CHECK(reference::route_trained(logits{}, per_head(shared, 2), logits{}, {.shared = 2, .active = 0},
                                 per_head(two, 2)) == 0);
  CHECK((two[0] == Approx(0.5) && two[1] == Approx(1.5)));
  const double loss =
      reference::route_trained(per_head(routed, 3), logits{}, logits{}, {.shared = 0, .active = 1}, per_head(three, 3));
  CHECK(three == std::vector<double>{0, 0, 1});
  CHECK(loss == Approx(3 * 0.7).epsilon(1e-15));
}

TEST_CASE("norm router by hand") {
  const std::vector<double> q{0, 0, 3, 4, -5, 0, 1, 1, nan_value, 0};  // heads of two: 0, 5, 5, sqrt 2, NaN
  const auto heads = heed::bhsd(q.data(), 1, 5, 1, 2);
  std::vector<double> gates(5, 77);
  reference::route_by_norm(heads, {.shared = 1, .active = 1}, per_head(gates, 5));
  CHECK(gates == std::vector<double>{1, 1, 0, 0, 0});
  reference::route_by_norm(heads, {.shared = 0, .active = 3}, per_head(gates, 5));
  CHECK(gates == std::vector<double>{0, 1, 1, 1, 0});
  reference::route_by_norm(heads, {.shared = 2, .active = 0}, per_head(gates, 5));
  CHECK(gates == std::vector<double>{1, 1, 0, 0, 0});
  reference::route_by_norm(heads, {.shared = 2, .active = 3}, per_head(gates, 5));
  CHECK(gates == std::vector<double>(5, 1.0));
}
