// SPDX-License-Identifier: BSD-3-Clause

// What score terms, masks and sinks must do without any reference. The list of all properties: properties_test.cpp.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using options = heed::softmax::options<double>;
using parts_of_call = option_parts<double>;
constexpr double infinity = std::numeric_limits<double>::infinity();

// Queries in lanes, few rows, more key/value heads.
constexpr shape shapes[] = {{1, 4, 2, 40, 61, 12, 9}, {1, 2, 1, 3, 150, 20, 7}, {1, 1, 3, 30, 33, 8, 16}};

double apart(double a, double b) { return a == b ? 0 : std::abs(a - b); }
bool same(const softmax_case<double>& a, const softmax_case<double>& b) { return heed_test::same(a, b, 1e-12); }

struct table {  // numbers for all pairs of all heads
  explicit table(const shape& of, std::uint32_t seed = 2) : s(of) {
    random_numbers random(seed);
    for (index_t i = 0; i < s.out_heads() * s.queries * s.keys; ++i) numbers.push_back(random.normal());
  }
  heed::tensor_view<const double, 4> view() const {
    return {numbers.data(), {1, s.out_heads(), s.queries, s.keys}, {0, s.queries * s.keys, s.keys, 1}};
  }
  double& operator()(index_t h, index_t i, index_t j) {
    return numbers[static_cast<std::size_t>((h * s.queries + i) * s.keys + j)];
  }
  shape s;
  std::vector<double> numbers;
};

}  // namespace

TEST_CASE("P1: keys in another order, with the columns of bias and keep") {
  for (const shape& s : shapes) {
    table bias(s), moved(s);
    const auto keep = std::make_unique<bool[]>(bias.numbers.size()),
               moved_keep = std::make_unique<bool[]>(bias.numbers.size());
    const auto from = [&](index_t j) { return (j * 7 + 3) % s.keys; };
    for (index_t h = 0; h < s.out_heads(); ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j) {
          const auto at = static_cast<std::size_t>((h * s.queries + i) * s.keys + j);
          keep[at] = bias(h, i, j) > -0.5;
          moved_keep[at] = bias(h, i, from(j)) > -0.5;
          moved(h, i, j) = bias(h, i, from(j));
        }
    const auto kept = [&](const bool* p) {
      return heed::keep({p, {1, s.out_heads(), s.queries, s.keys}, {0, s.queries * s.keys, s.keys, 1}});
    };
    const auto x = ran(s, {.mask = kept(keep.get()), .softcap = 3, .bias = bias.view(), .sink_logits = 0.3});
    softmax_case<double> y(s, {.mask = kept(moved_keep.get()), .softcap = 3, .bias = moved.view(), .sink_logits = 0.3});
    for (index_t h = 0; h < s.kv_heads; ++h)
      for (index_t j = 0; j < s.keys; ++j) {
        for (index_t d = 0; d < s.dim; ++d) y.k(0, h, j, d) = x.k(0, h, from(j), d);
        for (index_t e = 0; e < s.value_dim; ++e) y.v(0, h, j, e) = x.v(0, h, from(j), e);
      }
    y.forward();
    CHECK(same(x, y));
  }
}

TEST_CASE("P2, P3: equal values come out as they are under every option; a sink takes its share") {
  for (const shape& s : shapes) {
    const parts_of_call parts(s);
    for (const auto& part : parts.all) {
      if (part.kind == part_kind::sink) continue;
      INFO(part.name);
      softmax_case<double> x(s, parts.of({&part}, parts.whole())), y(s, x.options);
      y.options.sink_logits = 0.4;
      x.v.fill(-2.5), y.v.fill(-2.5);
      x.forward(), y.forward();
      double worst = 0;
      for (index_t h = 0; h < s.out_heads(); ++h)
        for (index_t i = 0; i < s.queries; ++i) {
          const bool sees = x.lse(0, h, i) != -infinity;
          const double share = sees ? 1 / (1 + std::exp(0.4 - x.lse(0, h, i))) : 0;
          worst = std::max({worst, apart(x.o(0, h, i, 0), sees ? -2.5 : 0), apart(y.o(0, h, i, 3), -2.5 * share)});
          worst =
              std::max(worst, apart(y.lse(0, h, i), sees ? std::log(std::exp(x.lse(0, h, i)) + std::exp(0.4)) : 0.4));
        }
      CHECK(worst <= 1e-12);
    }
  }
}

TEST_CASE("P5: a number per row added to the bias moves lse by it and nothing else") {
  for (const shape& s : shapes)
    for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(9, 2)}) {
      table bias(s), moved(s);
      for (index_t h = 0; h < s.out_heads(); ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t j = 0; j < s.keys; ++j) moved(h, i, j) += static_cast<double>(3 * h - i) / 4;
      const auto x = ran(s, {.mask = mask, .bias = bias.view()}), y = ran(s, {.mask = mask, .bias = moved.view()});
      for (index_t h = 0; h < s.out_heads(); ++h)
        for (index_t i = 0; i < s.queries; ++i) x.lse(0, h, i) += static_cast<double>(3 * h - i) / 4;
      CHECK(same(x, y));
    }
}

// The keys in two or three calls, each with its part of what is per key; ALiBi by the absolute place; one sink.
TEST_CASE("P9: any split of the keys under soft-cap, ALiBi, bias and one sink") {
  for (const shape& s : shapes) {
    table bias(s);
    options how{.softcap = 2, .alibi_slopes = 0.1, .bias = bias.view()};
    options whole_options = how;
    whole_options.sink_logits = 0.7;
    const auto whole = ran(s, whole_options);
    const auto attend = [&](index_t first, index_t last, bool sink, const buffer<double>& o,
                            const buffer<double>& lse) {
      const std::vector<std::int32_t> place{static_cast<std::int32_t>(s.keys - s.queries - first)};
      options part = how;
      part.bias = heed::slice(bias.view(), 3, first, last - first);
      part.align = heed::first_place(place);
      part.lse = lse.view3();
      if (sink) part.sink_logits = 0.7;
      run_forward<double>(whole.q.cview(), heed::slice(whole.k.cview(), 2, first, last - first),
                          heed::slice(whole.v.cview(), 2, first, last - first), o.view(), part, {});
    };
    for (const index_t cut : {index_t{0}, index_t{1}, s.keys / 2, s.keys - 1, s.keys})
      for (const bool sink_first : {true, false}) {
        const auto o = buffer<double>::output(whole.o.size()), lse = buffer<double>::output(whole.lse.size());
        const auto o2 = buffer<double>::output(whole.o.size()), lse2 = buffer<double>::output(whole.lse.size());
        attend(0, cut, sink_first, o, lse);
        attend(cut, s.keys, !sink_first, o2, lse2);
        run_merge<double>(o.view(), lse.view3(), o2.cview(), lse2.view3(), 0);
        CHECK((largest_difference(o, whole.o) <= 1e-12 && largest_difference(lse, whole.lse) <= 1e-12));
      }
  }
}

TEST_CASE("P10: queries in chunks, with places and their rows of every option") {
  const shape s{1, 4, 2, 50, 70, 12, 9};
  table bias(s);
  const options how{.mask = heed::causal() & heed::window(30, 0, 3),
                    .softcap = 2,
                    .alibi_slopes = 0.1,
                    .bias = bias.view(),
                    .sink_logits = 0.2};
  const auto whole = ran(s, how);
  for (const index_t chunk : {1, 3, 7, 20, 49}) {
    const auto o = buffer<double>::output(whole.o.size()), lse = buffer<double>::output(whole.lse.size());
    for (index_t first = 0; first < s.queries; first += chunk) {
      const index_t n = std::min(chunk, s.queries - first);
      const std::vector<std::int32_t> place{static_cast<std::int32_t>(s.keys - s.queries + first)};
      options part = how;
      part.align = heed::first_place(place);
      part.bias = heed::slice(bias.view(), 2, first, n);
      part.lse = {&lse(0, 0, first), {1, s.out_heads(), n}, {0, s.queries, 1}};
      run_forward<double>(heed::slice(whole.q.cview(), 2, first, n), whole.k.cview(), whole.v.cview(),
                          heed::slice(o.view(), 2, first, n), part, {});
    }
    CHECK((largest_difference(o, whole.o) <= 1e-12 && largest_difference(lse, whole.lse) <= 1e-12));
  }
}

TEST_CASE("P15: keep, visible_if, a bias of 0 and -inf, and a score function say the same") {
  for (const shape& s : shapes) {
    const auto keep = std::make_unique<bool[]>(static_cast<std::size_t>(s.queries * s.keys));
    std::vector<double> bias(static_cast<std::size_t>(s.queries * s.keys));
    const auto sees = [](const heed::position& at) { return (at.key * 5 + at.query * 3) % 7 < 4 && at.query != 2; };
    for (index_t i = 0; i < s.queries; ++i)
      for (index_t j = 0; j < s.keys; ++j) {
        const auto at = static_cast<std::size_t>(i * s.keys + j);
        keep[at] = sees({0, 0, static_cast<std::int32_t>(i), static_cast<std::int32_t>(j), 0});
        bias[at] = keep[at] ? 0 : -infinity;
      }
    const auto x = ran(s, {.mask = heed::keep({keep.get(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}})});
    CHECK(same(x, ran(s, {.mask = heed::visible_if(sees)})));
    CHECK(same(x, ran(s, {.bias = {bias.data(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}}})));
    CHECK(same(x, ran(s, {.score = [sees](double y, const heed::position& at) { return sees(at) ? y : -infinity; }})));
    CHECK(x.lse(0, 0, 2) == -infinity);
  }
}

TEST_CASE("masks that pictures draw are the masks that rules name") {
  for (const shape& s : shapes) {
    const auto picture = [&](const heed::mask& named, const auto& rule) {
      return same(ran(s, {.mask = named}), ran(s, {.mask = heed::visible_if(rule)}));
    };
    const std::vector<std::int32_t> some{17};
    using heed::position;
    CHECK(picture(heed::causal(), [](const position& p) { return p.key <= p.place; }));
    CHECK(picture(heed::window(6, 2, 3),
                  [](const position& p) { return (p.place - 6 <= p.key || p.key < 3) && p.key <= p.place + 2; }));
    CHECK(picture(heed::key_lengths(some), [](const position& p) { return p.key < 17; }));
    CHECK(picture(heed::prefix_lm(some), [](const position& p) { return p.key <= p.place || p.key < 17; }));
    CHECK(picture(heed::prefix_lm(some) & heed::window(4, 9), [](const position& p) {
      return (p.key <= p.place || p.key < 17) && p.place - 4 <= p.key && p.key <= p.place + 9;
    }));
  }
}

TEST_CASE("P16: a soft-cap far above the scores is none; P17: a sink of -inf is none, one far below too") {
  for (const shape& s : shapes) {
    const auto plain = ran(s, {.mask = heed::causal()});
    CHECK(same(plain, ran(s, {.mask = heed::causal(), .softcap = 1e9})));
    CHECK(same(plain, ran(s, {.mask = heed::causal(), .softcap = infinity}), 0));
    CHECK_FALSE(same(plain, ran(s, {.mask = heed::causal(), .softcap = 1})));
    CHECK(same(plain, ran(s, {.mask = heed::causal(), .sink_logits = -infinity}), 0));
    CHECK_FALSE(same(plain, ran(s, {.mask = heed::causal(), .sink_logits = 0})));
    const auto far_below = ran(s, {.sink_logits = -1e5}), none = ran(s);
    CHECK(same(far_below, none));
  }
}

TEST_CASE("ALiBi is the bias that it is short for, and so is a score function") {
  for (const shape& s : shapes) {
    table bias(s);
    std::vector<double> slopes;
    for (index_t h = 0; h < s.out_heads(); ++h) slopes.push_back(0.1 * static_cast<double>(h + 1));
    for (index_t h = 0; h < s.out_heads(); ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j)
          bias(h, i, j) =
              -slopes[static_cast<std::size_t>(h)] * static_cast<double>(std::abs(i + s.keys - s.queries - j));
    const auto x = ran(s, {.softcap = 2, .alibi_slopes = slopes});
    CHECK(same(x, ran(s, {.softcap = 2, .bias = bias.view()})));
    CHECK(same(x, ran(s, {.softcap = 2, .score = [&slopes](double y, const heed::position& at) {
                            return y - slopes[static_cast<std::size_t>(at.head)] * std::abs(at.place - at.key);
                          }})));
  }
}
