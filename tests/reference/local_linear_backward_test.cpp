// SPDX-License-Identifier: BSD-3-Clause

// The reference of backward: every mask, alignment and option beside central differences of the reference of forward,
// and closed forms.

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "heed/reference/softmax.hpp"
#include "support/catch.hpp"
#include "support/central_differences.hpp"
#include "support/differentiable_call.hpp"
#include "support/messages.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

namespace reference = heed::reference::local_linear;
using linear_fit = heed::local_linear::options<double>;
using gradients = heed::local_linear::gradients<double>;
using parts_of_call = option_parts<double, linear_fit>;
using part = parts_of_call::part;
constexpr double inf = std::numeric_limits<double>::infinity(), nan_value = std::numeric_limits<double>::quiet_NaN();

constexpr shape shapes[] = {{2, 4, 2, 5, 7, 3, 4}, {2, 1, 3, 6, 4, 4, 2}};

struct call : differentiable_call<linear_fit> {
  numbers ridge;  // one per head

  call(const shape& size, const linear_fit& how, double first_ridge = 0.5) : differentiable_call(size, how) {
    for (index_t h = 0; h < s.out_heads(); ++h) ridge.push_back(first_ridge * static_cast<double>(h + 1));
  }
};

struct results {
  numbers dq, dk, dv, dbias, dridge;

  explicit results(const call& x)
      : dq(not_written(x.q.size())),
        dk(not_written(x.k.size())),
        dv(not_written(x.v.size())),
        dbias(not_written(x.bias.size())),
        dridge(not_written(x.ridge.size())) {}
  gradients views(const call& x) {
    gradients to{.dq = dense(dq.data(), x.queries().extents()),
                 .dk = dense(dk.data(), x.keys().extents()),
                 .dv = dense(dv.data(), x.values().extents()),
                 .dridge = dridge};
    if (!dbias.empty()) to.dbias = dense(dbias.data(), x.bias_extents);
    return to;
  }
};
void backward(const call& x, const heed::per_head& ridge, const gradients& to) {
  reference::backward(x.queries(), x.keys(), x.values(), ridge, x.cotangent(), to, x.options);
}
results differentiate(const call& x) {
  results r(x);
  backward(x, x.ridge, r.views(x));
  return r;
}

double loss(const call& x) {
  numbers o = not_written(x.dout.size());
  reference::forward(x.queries(), x.keys(), x.values(), x.ridge, dense(o.data(), x.out_extents()), x.options);
  return x.loss_of(o);
}
std::string wrong(call& x, int directions = 1) {
  results r = differentiate(x);
  std::vector<claimed_gradient> all{
      {"dq", &x.q, &r.dq}, {"dk", &x.k, &r.dk}, {"dv", &x.v, &r.dv}, {"dridge", &x.ridge, &r.dridge}};
  if (!x.bias.empty()) all.push_back({"dbias", &x.bias, &r.dbias});
  random_numbers random(8);
  return wrong_gradients(all, [&] { return loss(x); }, random, directions);
}
std::string wrong(const shape& s, const linear_fit& how, double ridge = 0.5, int directions = 1) {
  call x(s, how, ridge);
  return wrong(x, directions);
}
heed::score_function<double> curved() {
  return {[](double x, const heed::position& p) {
            return x > -inf ? x + (1 + p.head + p.key % 3) * std::sin(x + p.place) / 4 : x;
          },
          [](double x, const heed::position& p) { return 1 + (1 + p.head + p.key % 3) * std::cos(x + p.place) / 4; }};
}
std::vector<const part*> both(const part& first, const part& second) {
  if (&first == &second) return {&first};
  return {&first, &second};
}

double largest(const numbers& x) {
  double most = 0;
  for (const double each : x) most = std::max(most, std::abs(each));
  return most;
}
double apart(const numbers& a, const numbers& b) {
  double most = a.size() == b.size() ? 0 : inf;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

}  // namespace

TEST_CASE("gradients of local linear attention under every mask and alignment: central differences") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(to_string(s) << ", " << mask_name << ", " << place_name);
        CHECK(wrong(s, {.mask = mask, .align = align}) == "");
      }
  }
}

TEST_CASE("gradients of local linear attention under every pair of options: central differences") {
  for (const shape& s : shapes) {
    const parts_of_call parts(s);
    for (const part& first : parts.all)
      for (const part& second : parts.all) {
        if (!(first.kind < second.kind) && &first != &second) continue;
        INFO(to_string(s) << ", " << first.name << ", " << second.name);
        linear_fit how = parts.of(both(first, second), parts.whole());
        CHECK(wrong(s, how) == "");
        if (first.kind == part_kind::score || second.kind == part_kind::score) continue;
        how.score = curved();
        if (&first == &second) CHECK(wrong(s, how) == "");
      }
  }
}

TEST_CASE("gradients of local linear attention with everything at once: central differences") {
  for (const shape& s : shapes) {
    const parts_of_call parts(s);
    std::vector<const part*> all;
    for (const part& each : parts.all)
      if (each.name == "softcap" || each.name == "alibi" || each.name == "bias" || each.name == "causal" ||
          each.name == "first_place")
        all.push_back(&each);
    REQUIRE(all.size() == 5);
    linear_fit how = parts.of(all, parts.whole());
    how.score = curved();
    for (const double scale : {0.0, -0.8, 0.3, 1.5})
      for (const double ridge : {0.1, 1.0, 30.0}) {
        how.scale = scale;
        CHECK(wrong(s, how, ridge, 10) == "");
      }
  }
}

TEST_CASE("gradients of packed local linear attention: central differences") {
  packing p;
  p.add(3, 5), p.add(0, 2), p.add(4, 0), p.add(1, 6), p.add(5, 3);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 3, 2};
  const parts_of_call parts(s, &p);
  for (const part& each : parts.all) {
    INFO(each.name);
    linear_fit how = parts.of({&each}, parts.whole());
    how.mask = heed::packed(p.queries, p.keys) & how.mask;
    CHECK(wrong(s, how) == "");
  }
}

TEST_CASE("every element of local linear attention by itself: central differences") {
  call x(shapes[0], {.mask = heed::causal(), .softcap = 3, .score = curved()});
  results r = differentiate(x);
  for (const auto& [numbers_of, gradient] :
       {std::pair(&x.q, &r.dq), std::pair(&x.k, &r.dk), std::pair(&x.v, &r.dv), std::pair(&x.ridge, &r.dridge)})
    for (std::size_t i = 0; i < numbers_of->size(); ++i) {
      double& number = (*numbers_of)[i];
      const double before = number;
      const double measured = slope_of([&](double t) { return number = before + t, loss(x); }, 1e-3);
      number = before;
      CHECK(std::abs(measured - (*gradient)[i]) < 1e-8);
    }
}

TEST_CASE("an infinite ridge: the gradients of softmax, and none of the ridge") {
  for (const shape& s : shapes) {
    const linear_fit how{.mask = heed::causal(), .softcap = 2, .alibi_slopes = 0.1};
    call x(s, how, inf);
    results r = differentiate(x), y(x);
    heed::reference::softmax::backward(x.queries(), x.keys(), x.values(), x.cotangent(), x.cotangent(),
                                       {.dq = dense(y.dq.data(), x.queries().extents()),
                                        .dk = dense(y.dk.data(), x.keys().extents()),
                                        .dv = dense(y.dv.data(), x.values().extents())},
                                       {.mask = how.mask, .softcap = 2, .alibi_slopes = 0.1});
    CHECK(apart(r.dq, y.dq) < 1e-14);
    CHECK(apart(r.dk, y.dk) < 1e-14);
    CHECK(apart(r.dv, y.dv) < 1e-14);
    CHECK(largest(r.dridge) == 0);

    call large(s, how, 1e9);  // and it is the limit
    const results z = differentiate(large);
    CHECK(apart(z.dq, y.dq) < 1e-7);
    CHECK(apart(z.dk, y.dk) < 1e-7);
    CHECK(apart(z.dv, y.dv) < 1e-7);
  }
}

TEST_CASE("one key, or equal keys: o is v, or its mean; only v has a gradient") {
  for (const index_t keys : {1, 4}) {
    call x({1, 1, 1, 3, keys, 2, 2}, {});
    for (std::size_t i = 0; i < x.k.size(); ++i) x.k[i] = i % 2 == 0 ? 0.5 : -0.25;
    const results r = differentiate(x);
    for (std::size_t i = 0; i < x.v.size(); ++i)
      CHECK(r.dv[i] == Approx((x.dout[i % 2] + x.dout[2 + i % 2] + x.dout[4 + i % 2]) / static_cast<double>(keys)));
    if (keys > 1) continue;
    CHECK(largest(r.dq) < 1e-16);
    CHECK(largest(r.dk) < 1e-16);
    CHECK(largest(r.dridge) < 1e-16);
  }
}

TEST_CASE("values that are linear in the keys: o approaches A q + b, so dq approaches A^T dout, dk zero") {
  call x({1, 1, 1, 2, 12, 2, 3}, {}, 1e-7);
  const double a[] = {0.5, -1, 2, 0.25, 1.5, -0.5};  // (E, D)
  for (std::size_t j = 0; j < 12; ++j)
    for (std::size_t e = 0; e < 3; ++e)
      x.v[3 * j + e] = a[2 * e] * x.k[2 * j] + a[2 * e + 1] * x.k[2 * j + 1] + static_cast<double>(e);
  const results r = differentiate(x);
  for (std::size_t i = 0; i < 2; ++i)
    for (std::size_t d = 0; d < 2; ++d) {
      double expected = 0;
      for (std::size_t e = 0; e < 3; ++e) expected += a[2 * e + d] * x.dout[3 * i + e];
      CHECK(r.dq[2 * i + d] == Approx(expected).epsilon(1e-5));
    }
}

TEST_CASE("equal values stay equal whatever the weights: no gradient but that of v, whose sum is that of dout") {
  for (const shape& s : shapes) {
    call x(s, {.mask = heed::window(3, 2)});
    const auto e = static_cast<std::size_t>(s.value_dim);
    for (std::size_t i = 0; i < x.v.size(); ++i) x.v[i] = 0.5 + static_cast<double>(i % e);
    const results r = differentiate(x);
    for (const numbers* each : {&r.dq, &r.dk, &r.dridge}) CHECK(largest(*each) < 1e-13);
  }
  call x({1, 2, 1, 4, 6, 3, 2}, {});
  const results r = differentiate(x);
  double of_v = 0, of_dout = 0;
  for (const double each : r.dv) of_v += each;
  for (const double each : x.dout) of_dout += each;
  CHECK(of_v == Approx(of_dout).epsilon(1e-13));
}

TEST_CASE("keys and queries moved alike move nothing: their gradients add up to zero, at scale 0") {
  const call x({1, 1, 1, 4, 6, 3, 2}, {.scale = 0});
  const results r = differentiate(x);
  for (std::size_t d = 0; d < 3; ++d) {
    double sum = 0;
    for (std::size_t i = d; i < r.dq.size(); i += 3) sum += r.dq[i];
    for (std::size_t j = d; j < r.dk.size(); j += 3) sum += r.dk[j];
    CHECK(std::abs(sum) < 1e-13);
  }
}

TEST_CASE("local linear: rows that see nothing and hidden keys have zero gradients, whatever they hold") {
  call x({1, 1, 1, 5, 2, 3, 2}, {.mask = heed::causal()});  // rows 0 to 2 see nothing
  for (std::size_t i = 0; i < 6; ++i) x.dout[i] = i % 2 == 0 ? nan_value : inf;
  const results r = differentiate(x);
  for (std::size_t i = 0; i < 9; ++i) CHECK(r.dq[i] == 0);
  for (const numbers* each : {&r.dq, &r.dk, &r.dv, &r.dridge})
    for (const double element : *each) CHECK(std::isfinite(element));

  const std::vector<std::int32_t> three{3};
  const call clean({1, 2, 1, 4, 5, 3, 2}, {.mask = heed::key_lengths(three)});
  const results y = differentiate(clean);
  for (const double bad : {nan_value, inf, -inf}) {
    call worse({1, 2, 1, 4, 5, 3, 2}, {.mask = heed::key_lengths(three)});
    for (std::size_t i = 9; i < 15; ++i) worse.k[i] = bad;
    for (std::size_t i = 6; i < 10; ++i) worse.v[i] = bad;
    const results z = differentiate(worse);
    CHECK((z.dq == y.dq && z.dk == y.dk && z.dv == y.dv && z.dridge == y.dridge));
    for (std::size_t i = 9; i < 15; ++i) CHECK(z.dk[i] == 0);
    for (std::size_t i = 6; i < 10; ++i) CHECK(z.dv[i] == 0);
  }
  const call no_keys({2, 2, 2, 3, 0, 4, 4}, {});
  const results z = differentiate(no_keys);
  CHECK((largest(z.dq) == 0 && largest(z.dridge) == 0));
}

TEST_CASE("local linear: a NaN that is seen arrives, in its own rows alone") {
  for (int kind = 0; kind < 4; ++kind) {  // row 0 sees key 0 alone, rows 1 and 2 see key 1 too
    call x({1, 1, 1, 3, 2, 2, 2}, {.mask = heed::causal(), .align = heed::top_left});
    (kind == 0 ? x.k : kind == 1 ? x.v : kind == 2 ? x.q : x.dout)[2] = nan_value;  // key 1, or row 1
    const results r = differentiate(x);
    CHECK((std::isfinite(r.dq[0]) && std::isnan(r.dq[2]) && std::isnan(r.dq[3])));
    CHECK((std::isnan(r.dk[0]) && std::isnan(r.dk[2]) && std::isnan(r.dridge[0])));
    CHECK(std::isfinite(r.dq[4]) == (kind > 1));
    CHECK(std::isnan(r.dv[2]) == (kind != 1));
  }
}

TEST_CASE("local linear: groups add up what repeated heads have, in both directions") {
  for (const auto& [heads, kv_heads] : {std::pair<index_t, index_t>{6, 2}, {2, 6}}) {
    const call x({1, heads, kv_heads, 4, 5, 3, 2}, {.mask = heed::causal()});
    const results r = differentiate(x);
    call each({1, 6, 6, 4, 5, 3, 2}, {.mask = heed::causal()});
    each.dout = x.dout;
    const auto repeat = [](const numbers& from, numbers& to) {
      const std::size_t per_head = to.size() / 6, group = to.size() / from.size();
      for (std::size_t i = 0; i < to.size(); ++i) to[i] = from[i / per_head / group * per_head + i % per_head];
    };
    repeat(x.q, each.q), repeat(x.k, each.k), repeat(x.v, each.v);
    const results y = differentiate(each);
    const auto sums = [](const numbers& of_all, const numbers& like) {
      numbers sum(like.size(), 0);
      const std::size_t per_head = of_all.size() / 6, group = of_all.size() / like.size();
      for (std::size_t i = 0; i < of_all.size(); ++i) sum[i / per_head / group * per_head + i % per_head] += of_all[i];
      return sum;
    };
    CHECK(apart(sums(y.dq, r.dq), r.dq) < 1e-13);
    CHECK(apart(sums(y.dk, r.dk), r.dk) < 1e-13);
    CHECK(apart(sums(y.dv, r.dv), r.dv) < 1e-13);
    CHECK(apart(y.dridge, r.dridge) < 1e-13);
  }
}

TEST_CASE("local linear: alone the same, one ridge for all heads, strides, and errors") {
  const shape s = shapes[0];
  const numbers bias(static_cast<std::size_t>(s.keys), 0.5);
  call x(s, {.bias = dense(bias.data(), std::array<index_t, 4>{1, 1, 1, s.keys})});
  x.ridge.assign(4, 0.5);
  const results all = differentiate(x);
  const auto alone = [&](auto member) {
    results r(x);
    const gradients from = r.views(x);
    gradients to;
    to.*member = from.*member;
    backward(x, 0.5, to);
    const numbers results::* const each[] = {&results::dq, &results::dk, &results::dv, &results::dbias,
                                             &results::dridge};
    int written = 0;
    for (const auto one : each) {
      if (std::isnan((r.*one)[0])) continue;
      ++written;
      CHECK(r.*one == all.*one);
    }
    CHECK(written == 1);
  };
  alone(&gradients::dq), alone(&gradients::dk), alone(&gradients::dv), alone(&gradients::dbias);
  alone(&gradients::dridge);

  numbers token_major = not_written(all.dk.size());  // (B, M, Hk, D)
  const heed::tensor_view<double, 4> dk(token_major.data(), {2, 2, 7, 3}, {42, 3, 6, 1});
  backward(x, 0.5, {.dk = dk});
  bool same = true;
  for (index_t i = 0; i < 84; ++i)
    same = same && dk(i / 42, i / 21 % 2, i / 3 % 7, i % 3) == all.dk[static_cast<std::size_t>(i)];
  CHECK(same);

  call bad(s, {.score = [](double y, const heed::position&) { return 2 * y; }});
  results r(bad);
  const std::string text = thrown_by([&] { backward(bad, bad.ridge, r.views(bad)); });
  CHECK(text.find("derivative") != std::string::npos);
  CHECK(std::isnan(r.dq[0]));
}
