// SPDX-License-Identifier: BSD-3-Clause

// The reference of softmax's backward: closed forms, what is hidden, what is asked for, errors.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/reference/softmax.hpp"
#include "heed/reference/sparse_query.hpp"
#include "support/catch.hpp"
#include "support/messages.hpp"
#include "support/softmax_options.hpp"
#include "support/softmax_reference_backward.hpp"

using namespace heed_test;
using namespace heed_test::softmax_reference;

namespace {

bool all_zero(const numbers& x) {
  bool zero = true;
  for (const double each : x) zero = zero && each == 0;
  return zero;
}

}  // namespace

TEST_CASE("one key: dv is the sum of dout, q and k have no gradient but that of lse") {
  call x({1, 1, 1, 4, 1, 3, 2}, {.scale = 0.7});
  results r = differentiate(x);
  numbers dq(12, 0), dk(3, 0), dv(2, 0);
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t e = 0; e < 2; ++e) dv[e] += x.dout[2 * i + e];
    for (std::size_t d = 0; d < 3; ++d)
      dq[3 * i + d] = 0.7 * x.dlse[i] * x.k[d], dk[d] += 0.7 * x.dlse[i] * x.q[3 * i + d];
  }
  for (std::size_t i = 0; i < 12; ++i) CHECK(std::abs(r.dq[i] - dq[i]) < 1e-15);
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(r.dk[i] - dk[i]) < 1e-15);
  CHECK((r.dv[0] == Approx(dv[0]).epsilon(1e-15) && r.dv[1] == Approx(dv[1]).epsilon(1e-15)));
  x.dlse.assign(4, 0);
  r = differentiate(x);
  CHECK((all_zero(r.dq) && all_zero(r.dk)));
}

TEST_CASE("equal keys: every key has the same weight in dv") {
  call x({1, 1, 1, 3, 4, 2, 2}, {});
  for (std::size_t i = 0; i < x.k.size(); ++i) x.k[i] = i % 2 == 0 ? 0.5 : -0.25;
  const results r = differentiate(x);
  for (std::size_t j = 0; j < 4; ++j)
    for (std::size_t e = 0; e < 2; ++e)
      CHECK(r.dv[2 * j + e] == Approx((x.dout[e] + x.dout[2 + e] + x.dout[4 + e]) / 4).epsilon(1e-14));
}

TEST_CASE("two keys by hand, through function, bias, ALiBi, soft-cap and scale in this order") {
  call x({1, 1, 1, 1, 2, 1, 1}, {.scale = 0.5,
                                 .softcap = 4,
                                 .alibi_slopes = 0.1,
                                 .score = {[](double y, const heed::position&) { return 2 * y; },
                                           [](double, const heed::position&) { return 2.0; }},
                                 .sink_logits = 0.25});
  x.q = {2}, x.k = {3, -1}, x.v = {1, 4}, x.dout = {10}, x.dlse = {7};  // place 1
  const double t0 = std::tanh(3.0 / 4), t1 = std::tanh(-1.0 / 4);
  const double e0 = std::exp(2 * (4 * t0 - 0.1)), e1 = std::exp(2 * 4 * t1), e2 = std::exp(0.25), sum = e0 + e1 + e2;
  const double delta = 10 * (e0 * 1 + e1 * 4) / sum - 7;
  const double dx0 = 2 * e0 / sum * (10 - delta), dx1 = 2 * e1 / sum * (40 - delta);
  const double dy0 = dx0 * (1 - t0 * t0), dy1 = dx1 * (1 - t1 * t1);
  const results r = differentiate(x);
  CHECK(r.dv[0] == Approx(10 * e0 / sum).epsilon(1e-14));
  CHECK(r.dv[1] == Approx(10 * e1 / sum).epsilon(1e-14));
  CHECK(r.dq[0] == Approx(0.5 * (3 * dy0 - dy1)).epsilon(1e-13));
  CHECK(r.dk[0] == Approx(0.5 * 2 * dy0).epsilon(1e-13));
  CHECK(r.dk[1] == Approx(0.5 * 2 * dy1).epsilon(1e-13));
  CHECK(r.dslopes[0] == Approx(-dx0).epsilon(1e-13));
  CHECK(r.dsinks[0] == Approx(-e2 / sum * delta).epsilon(1e-13));
}

TEST_CASE("a row's gradients by its scores add up to dlse, with the sink's") {
  for (const shape& s : shapes) {
    const numbers zeros(static_cast<std::size_t>(s.batch * s.out_heads() * s.queries * s.keys), 0);
    const std::array<index_t, 4> full{s.batch, s.out_heads(), s.queries, s.keys};
    const call x(s, {.bias = dense(zeros.data(), full)});
    const results r = differentiate(x);
    for (std::size_t row = 0; row < x.dlse.size(); ++row) {
      double sum = 0;
      for (index_t j = 0; j < s.keys; ++j)
        sum += r.dbias[row * static_cast<std::size_t>(s.keys) + static_cast<std::size_t>(j)];
      CHECK(std::abs(sum - x.dlse[row]) < 1e-13);
    }
    const call with_sink(s, {.bias = dense(zeros.data(), full), .sink_logits = 0.4});
    const results y = differentiate(with_sink);
    double of_scores = 0, of_sinks = 0, of_lse = 0;
    for (const double each : y.dbias) of_scores += each;
    for (const double each : y.dsinks) of_sinks += each;
    for (const double each : with_sink.dlse) of_lse += each;
    CHECK(std::abs(of_scores + of_sinks - of_lse) < 1e-12);
  }
}

TEST_CASE("equal values: nothing to gain by other weights") {
  call x(shapes[0], {.mask = heed::window(3, 1)});
  for (std::size_t i = 0; i < x.v.size(); ++i) x.v[i] = 0.5 + static_cast<double>(i % 4);
  x.dlse.assign(x.dlse.size(), 0);
  const results r = differentiate(x);
  for (const double each : r.dq) CHECK(std::abs(each) < 1e-13);
  for (const double each : r.dk) CHECK(std::abs(each) < 1e-13);
}

TEST_CASE("rows that see nothing: zero gradients whatever dout holds, and dlse to the sink") {
  // places -3 .. 1 of 2 keys: rows 0 to 2 see nothing
  for (const bool sink : {false, true}) {
    call x({1, 1, 1, 5, 2, 3, 2}, {.mask = heed::causal()});
    if (sink) x.options.sink_logits = 0.5;
    for (std::size_t i = 0; i < 6; ++i) x.dout[i] = i % 2 == 0 ? nan_value : inf;
    if (!sink) x.dlse[0] = nan_value;
    const results r = differentiate(x);
    for (std::size_t i = 0; i < 9; ++i) CHECK(r.dq[i] == 0);
    for (const numbers* each : {&r.dq, &r.dk, &r.dv, &r.dsinks})
      for (const double element : *each) CHECK(std::isfinite(element));
    call seen({1, 1, 1, 2, 2, 3, 2}, {.mask = heed::causal()});  // the two rows alone
    if (sink) seen.options.sink_logits = 0.5;
    seen.q.assign(x.q.begin() + 9, x.q.end()), seen.k = x.k, seen.v = x.v;
    seen.dout.assign(x.dout.begin() + 6, x.dout.end()), seen.dlse.assign(x.dlse.begin() + 3, x.dlse.end());
    const results y = differentiate(seen);
    CHECK((r.dk == y.dk && r.dv == y.dv));
    if (sink) CHECK(r.dsinks[0] == Approx(y.dsinks[0] + x.dlse[0] + x.dlse[1] + x.dlse[2]).epsilon(1e-14));
    if (!sink) CHECK(r.dsinks[0] == 0);
  }
  const call no_keys({2, 2, 2, 3, 0, 4, 4}, {});
  const results r = differentiate(no_keys);
  CHECK((all_zero(r.dq) && r.dk.empty() && all_zero(r.dsinks)));
  const call no_queries({2, 2, 2, 0, 3, 4, 4}, {});
  const results y = differentiate(no_queries);
  CHECK((all_zero(y.dk) && all_zero(y.dv) && y.dk.size() == 48));
}

TEST_CASE("hidden keys: no effect whatever they hold, and a zero gradient; visible ones arrive") {
  const std::vector<std::int32_t> three{3};
  const call clean({1, 2, 1, 4, 5, 3, 2}, {.mask = heed::key_lengths(three)});
  const results y = differentiate(clean);
  for (const double bad : {nan_value, inf, -inf}) {
    call x({1, 2, 1, 4, 5, 3, 2}, {.mask = heed::key_lengths(three)});
    for (std::size_t i = 9; i < 15; ++i) x.k[i] = bad;
    for (std::size_t i = 6; i < 10; ++i) x.v[i] = bad;
    const results r = differentiate(x);
    CHECK((r.dq == y.dq && r.dk == y.dk && r.dv == y.dv));
    for (std::size_t i = 9; i < 15; ++i) CHECK(r.dk[i] == 0);
    for (std::size_t i = 6; i < 10; ++i) CHECK(r.dv[i] == 0);
  }
  for (int kind = 0; kind < 5; ++kind) {  // row 0 sees key 0 alone, rows 1 and 2 see key 1 too
    call x({1, 1, 1, 3, 2, 2, 2}, {.mask = heed::causal(), .align = heed::top_left});
    numbers& bad = kind == 0 ? x.k : kind == 1 ? x.v : kind == 2 ? x.q : kind == 3 ? x.dout : x.dlse;
    bad[kind == 4 ? 1 : 2] = nan_value;  // key 1, or row 1
    const results r = differentiate(x);
    CHECK((std::isfinite(r.dq[0]) && std::isnan(r.dq[2]) && std::isnan(r.dq[3])));
    CHECK((std::isnan(r.dk[0]) && std::isnan(r.dk[2])));
    CHECK(std::isfinite(r.dq[4]) == (kind > 1));
    CHECK(std::isnan(r.dv[2]) == (kind == 0 || kind == 2 || kind == 3));
  }
}

TEST_CASE("-inf of a bias or a score function hides: zero gradients, no matter what else") {
  const numbers hides{0, -inf, 0};
  for (const bool by_bias : {true, false}) {
    options how;
    if (by_bias) how.bias = dense(hides.data(), std::array<index_t, 4>{1, 1, 1, 3});
    if (!by_bias)
      how.score = {[](double y, const heed::position& p) { return p.key == 1 ? -inf : y; },
                   [](double, const heed::position& p) { return p.key == 1 ? nan_value : 1.0; }};
    call x({1, 1, 1, 2, 3, 2, 2}, how);
    x.k[2] = nan_value, x.v[3] = nan_value;
    const results r = differentiate(x);
    for (const numbers* each : {&r.dq, &r.dk, &r.dv, &r.dbias})
      for (const double element : *each) CHECK(std::isfinite(element));
    CHECK((r.dk[2] == 0 && r.dk[3] == 0 && r.dv[2] == 0 && r.dv[3] == 0));
    if (by_bias) CHECK(r.dbias[1] == 0);
  }
}

TEST_CASE("groups add up what repeated heads have, in both directions") {
  for (const auto& [heads, kv_heads] : {std::pair<index_t, index_t>{6, 2}, {2, 6}}) {
    const shape s{2, heads, kv_heads, 4, 5, 3, 2};
    const call x(s, {.mask = heed::causal(), .alibi_slopes = 0.1});
    const results r = differentiate(x);
    call each({2, 6, 6, 4, 5, 3, 2}, {.mask = heed::causal(), .alibi_slopes = 0.1});
    each.dout = x.dout, each.dlse = x.dlse;
    const auto repeat = [](const numbers& from, index_t of_heads, numbers& to) {
      const std::size_t per_head = to.size() / 12, group = 6 / static_cast<std::size_t>(of_heads);
      for (std::size_t i = 0; i < to.size(); ++i)
        to[i] = from[i / per_head / group * per_head + i % per_head];  // heads of both batch entries end to end
    };
    repeat(x.q, heads, each.q), repeat(x.k, kv_heads, each.k), repeat(x.v, kv_heads, each.v);
    const results y = differentiate(each);
    const auto sums = [](const numbers& of_all, const numbers& like) {
      numbers sum(like.size(), 0);
      const std::size_t per_head = of_all.size() / 12, group = of_all.size() / like.size();
      for (std::size_t i = 0; i < of_all.size(); ++i) sum[i / per_head / group * per_head + i % per_head] += of_all[i];
      double worst = 0;
      for (std::size_t i = 0; i < sum.size(); ++i) worst = std::max(worst, std::abs(sum[i] - like[i]));
      return worst;
    };
    CHECK(sums(y.dq, r.dq) < 1e-14);
    CHECK(sums(y.dk, r.dk) < 1e-14);
    CHECK(sums(y.dv, r.dv) < 1e-14);
    for (std::size_t h = 0; h < 6; ++h) CHECK(std::abs(y.dslopes[h] - r.dslopes[h]) < 1e-13);
  }
}

TEST_CASE("what is asked for alone is the same, what is not asked for is not written, in any strides") {
  const shape s = shapes[0];
  const option_parts<double> parts(s);
  options how = parts.of({&parts.all[4]}, parts.whole());
  REQUIRE(parts.all[4].name == "bias per row");
  how.sink_logits = 0.5, how.alibi_slopes = 0.1;
  const call x(s, how);
  const results all = differentiate(x);
  const auto alone = [&](auto member, const char* name) {
    INFO(name);
    results r(x);
    const gradients from = r.views(x);
    gradients to{.dlse = from.dlse};
    to.*member = from.*member;
    backward(x, to);
    const numbers results::*const each[] = {&results::dq,    &results::dk,     &results::dv,
                                            &results::dbias, &results::dsinks, &results::dslopes};
    int written = 0;
    for (const auto one : each) {
      if (std::isnan((r.*one)[0])) continue;
      ++written;
      CHECK(r.*one == all.*one);
    }
    CHECK(written == 1);
  };
  alone(&gradients::dq, "dq"), alone(&gradients::dk, "dk"), alone(&gradients::dv, "dv");
  alone(&gradients::dbias, "dbias");
  alone(&gradients::dsink_logits, "dsink_logits"), alone(&gradients::dalibi_slopes, "dalibi_slopes");

  numbers token_major = not_written(all.dq.size() + 1);  // (B, N, H, D)
  const heed::tensor_view<double, 4> dq(token_major.data(), {2, 4, 5, 3}, {60, 3, 12, 1});
  backward(x, {.dq = dq, .dlse = x.lse_cotangent()});
  bool same = std::isnan(token_major.back());
  for (index_t i = 0; i < 120; ++i)
    same = same && dq(i / 60, i / 15 % 4, i / 3 % 5, i % 3) == all.dq[static_cast<std::size_t>(i)];
  CHECK(same);
}

TEST_CASE("no dlse is a dlse of zeros; o and options.lse are not read") {
  call x(shapes[1], {.mask = heed::causal()});
  x.dlse.assign(x.dlse.size(), 0);
  const results with = differentiate(x);
  results without(x);
  gradients to = without.views(x);
  to.dlse = {};
  numbers lse = not_written(x.dlse.size());
  x.options.lse = dense(lse.data(), x.row_extents());
  const numbers o = not_written(x.dout.size());
  heed::reference::sparse_query::backward(x.queries(), x.keys(), x.values(), dense(o.data(), x.out_extents()),
                                          x.cotangent(), to, x.options);
  CHECK((with.dq == without.dq && with.dk == without.dk && with.dv == without.dv));
  CHECK(std::isnan(lse[0]));
}

TEST_CASE("gradients of float and bf16 inputs are computed in double") {
  const call x({1, 1, 1, 3, 5, 4, 2}, {});
  std::vector<heed::bf16_t> half;
  for (const numbers* each : {&x.q, &x.k, &x.v, &x.dout})
    for (const double number : *each) half.push_back(heed::bf16_t(static_cast<float>(number)));
  call rounded({1, 1, 1, 3, 5, 4, 2}, {});
  std::size_t at = 0;
  for (numbers* each : {&rounded.q, &rounded.k, &rounded.v, &rounded.dout})
    for (double& number : *each) number = static_cast<double>(static_cast<float>(half[at++]));
  rounded.dlse.assign(3, 0);
  const results y = differentiate(rounded);
  const auto rows = [&](std::ptrdiff_t first, index_t n, index_t d) {
    return dense<const heed::bf16_t>(half.data() + first, std::array<index_t, 4>{1, 1, n, d});
  };
  std::vector<float> dq(12), dk(20), dv(10);
  heed::reference::softmax::backward(rows(0, 3, 4), rows(12, 5, 4), rows(32, 5, 2), rows(42, 3, 2), rows(42, 3, 2),
                                     {.dq = dense(dq.data(), std::array<index_t, 4>{1, 1, 3, 4}),
                                      .dk = dense(dk.data(), std::array<index_t, 4>{1, 1, 5, 4}),
                                      .dv = dense(dv.data(), std::array<index_t, 4>{1, 1, 5, 2})});
  bool same = true;
  for (std::size_t i = 0; i < 12; ++i) same = same && dq[i] == static_cast<float>(y.dq[i]);
  for (std::size_t i = 0; i < 20; ++i) same = same && dk[i] == static_cast<float>(y.dk[i]);
  for (std::size_t i = 0; i < 10; ++i) same = same && dv[i] == static_cast<float>(y.dv[i]);
  CHECK(same);
}

TEST_CASE("a score function without a derivative, and masks that do not join, are errors before anything is written") {
  const std::vector<std::int32_t> two{2}, three{3};
  const options no_derivative{.score = [](double y, const heed::position&) { return 2 * y; }};
  const options two_lengths{.mask = heed::key_lengths(two) & heed::key_lengths(three)};
  for (const options* how : {&no_derivative, &two_lengths}) {
    const call x({1, 1, 1, 3, 4, 2, 2}, *how);
    results r(x);
    const std::string text = thrown_by([&] { backward(x, r.views(x)); });
    INFO(text);
    CHECK(text.find(how == &no_derivative ? "derivative" : "key_lengths") != std::string::npos);
    CHECK((std::isnan(r.dq[0]) && std::isnan(r.dv[0])));
  }
}
