// SPDX-License-Identifier: BSD-3-Clause

// The reference of backward: every mask and option under gates of every kind beside central differences of the
// reference of forward, and what must equal softmax.

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "heed/reference/mixture_of_head.hpp"
#include "support/catch.hpp"
#include "support/central_differences.hpp"
#include "support/differentiable_call.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_mixture.hpp"
#include "support/messages.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

namespace reference = heed::reference::mixture_of_head;
using head_options = heed::mixture_of_head::options<double>;
using gradients = heed::mixture_of_head::gradients<double>;
using part = option_parts<double>::part;
constexpr double inf = std::numeric_limits<double>::infinity(), nan_value = std::numeric_limits<double>::quiet_NaN();

constexpr shape shapes[] = {{2, 4, 2, 5, 7, 3, 4}, {1, 3, 3, 6, 4, 4, 2}};

struct call : differentiable_call<head_options> {
  numbers gates;

  // One of `off` rows is switched off, and in one of three such cases by -0; off 0: none
  call(const shape& size, const head_options& how, int off = 3) : differentiable_call(size, how) {
    random_numbers random(5);
    for (std::size_t i = 0; i < dlse.size(); ++i) {
      const double gate = 0.1 + std::abs(random.normal());
      const bool on = off == 0 || random.below(off) > 0;
      gates.push_back(on ? (random.below(4) == 0 ? -gate : gate) : random.below(3) == 0 ? -0.0 : 0.0);
    }
  }
  auto gate_view() const { return dense(gates.data(), row_extents()); }
};

struct results {
  numbers dq, dk, dv, dbias, dgates;

  explicit results(const call& x)
      : dq(not_written(x.q.size())),
        dk(not_written(x.k.size())),
        dv(not_written(x.v.size())),
        dbias(not_written(x.bias.size())),
        dgates(not_written(x.gates.size())) {}
  gradients views(const call& x) {
    gradients to{.dq = dense(dq.data(), x.queries().extents()),
                 .dk = dense(dk.data(), x.keys().extents()),
                 .dv = dense(dv.data(), x.values().extents()),
                 .dgates = dense(dgates.data(), x.row_extents())};
    if (!dbias.empty()) to.dbias = dense(dbias.data(), x.bias_extents);
    return to;
  }
};
void backward(const call& x, const gradients& to) {
  reference::backward(x.queries(), x.keys(), x.values(), x.gate_view(), x.cotangent(), x.cotangent(), to, x.options);
}
results differentiate(const call& x) {
  results r(x);
  backward(x, r.views(x));
  return r;
}

double loss(const call& x) {
  numbers o = not_written(x.dout.size());
  reference::forward(x.queries(), x.keys(), x.values(), x.gate_view(), dense(o.data(), x.out_extents()), x.options);
  return x.loss_of(o);
}
// Gates of 0 must stay 0: their gradient, which is 0 by definition, is tried along the other gates alone.
std::string wrong(const shape& s, const head_options& how, int off = 3) {
  call x(s, how, off);
  results r = differentiate(x);
  std::vector<claimed_gradient> all{{"dq", &x.q, &r.dq}, {"dk", &x.k, &r.dk}, {"dv", &x.v, &r.dv}};
  if (!x.bias.empty()) all.push_back({"dbias", &x.bias, &r.dbias});
  random_numbers random(8);
  std::string text = wrong_gradients(all, [&] { return loss(x); }, random, 1);
  numbers open, gradient_of_open;
  for (std::size_t i = 0; i < x.gates.size(); ++i) {
    if (x.gates[i] == 0 && r.dgates[i] != 0) text += "a closed gate has a gradient; ";
    if (x.gates[i] != 0) open.push_back(x.gates[i]), gradient_of_open.push_back(r.dgates[i]);
  }
  const auto loss_of_open = [&] {
    std::size_t at = 0;
    for (double& gate : x.gates) gate = gate != 0 ? open[at++] : gate;
    return loss(x);
  };
  return text + wrong_gradients({{"dgates", &open, &gradient_of_open}}, loss_of_open, random, 1);
}

}  // namespace

TEST_CASE("gradients of mixture of head under every mask and alignment: central differences") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(to_string(s) << ", " << mask_name << ", " << place_name);
        CHECK(wrong(s, {.mask = mask, .align = align}) == "");
      }
  }
}

TEST_CASE("gradients of mixture of head under every pair of options: central differences") {
  for (const shape& s : shapes) {
    const option_parts<double> parts(s);
    for (const part& first : parts.all)
      for (const part& second : parts.all) {
        if (!(first.kind < second.kind) && &first != &second) continue;
        INFO(to_string(s) << ", " << first.name << ", " << second.name);
        const std::vector<const part*> chosen = &first == &second ? std::vector{&first} : std::vector{&first, &second};
        CHECK(wrong(s, parts.of(chosen, parts.whole())) == "");
      }
  }
}

TEST_CASE("gradients of packed mixture of head: central differences") {
  packing p;
  p.add(3, 5), p.add(0, 2), p.add(4, 0), p.add(1, 6), p.add(5, 3);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 3, 2};
  const option_parts<double> parts(s, &p);
  for (const part& each : parts.all) {
    INFO(each.name);
    head_options how = parts.of({&each}, parts.whole());
    how.mask = heed::packed(p.queries, p.keys) & how.mask;
    CHECK(wrong(s, how) == "");
  }
}

TEST_CASE("gates of 1: softmax; any gates: softmax of dout times the gates") {
  for (const shape& s : shapes)
    for (const bool ones : {true, false}) {
      call x(s, {.mask = heed::causal(), .softcap = 2, .sink_logits = 0.3}, 3);
      if (ones) x.gates.assign(x.gates.size(), 1);
      const results r = differentiate(x);
      results y(x);
      numbers gated = x.dout;
      const auto e = static_cast<std::size_t>(s.value_dim);
      for (std::size_t i = 0; i < gated.size(); ++i) gated[i] *= x.gates[i / e];
      heed::reference::softmax::backward(x.queries(), x.keys(), x.values(), x.cotangent(),
                                         dense<const double>(gated.data(), x.out_extents()),
                                         {.dq = dense(y.dq.data(), x.queries().extents()),
                                          .dk = dense(y.dk.data(), x.keys().extents()),
                                          .dv = dense(y.dv.data(), x.values().extents())},
                                         x.options);
      for (const auto member : {&results::dq, &results::dk, &results::dv})
        for (std::size_t i = 0; i < (r.*member).size(); ++i) CHECK(std::abs((r.*member)[i] - (y.*member)[i]) < 1e-14);

      numbers o = not_written(x.dout.size());  // dgate is dout . o without the gate
      heed::reference::softmax::forward(x.queries(), x.keys(), x.values(), dense(o.data(), x.out_extents()), x.options);
      for (std::size_t i = 0; i < x.gates.size(); ++i) {
        double expected = 0;
        for (std::size_t c = 0; c < e; ++c) expected += x.dout[i * e + c] * o[i * e + c];
        CHECK(std::abs(r.dgates[i] - (x.gates[i] != 0 ? expected : 0)) < 1e-14);
      }
    }
}

TEST_CASE("closed gates: nothing of their rows is read; rows that see nothing have no gradient") {
  call x({1, 2, 1, 3, 4, 2, 2}, {}, 0);
  x.gates[1] = 0, x.gates[5] = -0.0;
  const results clean = differentiate(x);
  for (const std::size_t row : {std::size_t{1}, std::size_t{5}})
    for (std::size_t d = 0; d < 2; ++d) x.q[2 * row + d] = nan_value, x.dout[2 * row + d] = inf;
  const results r = differentiate(x);
  CHECK((r.dq == clean.dq && r.dk == clean.dk && r.dv == clean.dv && r.dgates == clean.dgates));
  for (const std::size_t row : {std::size_t{1}, std::size_t{5}})
    CHECK((r.dq[2 * row] == 0 && r.dq[2 * row + 1] == 0 && r.dgates[row] == 0));

  call all_closed({1, 2, 1, 3, 4, 2, 2}, {}, 0);
  all_closed.gates.assign(6, 0);
  const results none = differentiate(all_closed);
  for (const numbers* each : {&none.dq, &none.dk, &none.dv, &none.dgates})
    for (const double element : *each) CHECK(element == 0);

  call empty({1, 1, 1, 3, 2, 2, 2}, {.mask = heed::causal()}, 0);  // row 0 is at place -1
  empty.gates[0] = nan_value, empty.dout[0] = nan_value;
  const results y = differentiate(empty);
  CHECK((y.dq[0] == 0 && y.dq[1] == 0 && y.dgates[0] == 0));
  for (const numbers* each : {&y.dq, &y.dk, &y.dv, &y.dgates})
    for (const double element : *each) CHECK(std::isfinite(element));
}

TEST_CASE("a NaN gate is active: its row has no number in dq, and all that it sees none in dk and dv") {
  call x({1, 1, 1, 3, 2, 2, 2}, {.mask = heed::causal(), .align = heed::top_left}, 0);
  x.gates[1] = nan_value;
  const results r = differentiate(x);
  CHECK((std::isfinite(r.dq[0]) && std::isnan(r.dq[2]) && std::isfinite(r.dq[4])));
  CHECK((std::isnan(r.dk[0]) && std::isnan(r.dk[2]) && std::isnan(r.dv[0]) && std::isnan(r.dv[2])));
}

TEST_CASE("mixture of head: alone the same, gates in any strides, and errors") {
  const shape s = shapes[0];
  const option_parts<double> parts(s);
  REQUIRE(parts.all[3].name == "bias");
  call x(s, parts.of({&parts.all[3]}, parts.whole()));
  const results all = differentiate(x);
  const auto alone = [&](auto member) {
    results r(x);
    const gradients from = r.views(x);
    gradients to;
    to.*member = from.*member;
    backward(x, to);
    const numbers results::* const each[] = {&results::dq, &results::dk, &results::dv, &results::dbias,
                                             &results::dgates};
    int written = 0;
    for (const auto one : each) {
      if (std::isnan((r.*one)[0])) continue;
      ++written;
      CHECK(r.*one == all.*one);
    }
    CHECK(written == 1);
  };
  alone(&gradients::dq), alone(&gradients::dk), alone(&gradients::dv), alone(&gradients::dbias);
  alone(&gradients::dgates);

  numbers token_major(x.gates.size()), dgates = not_written(x.gates.size());  // (B, N, H)
  const std::array<index_t, 3> strides{s.queries * s.heads, 1, s.heads};
  for (std::size_t i = 0; i < token_major.size(); ++i) token_major[i / 20 * 20 + i % 5 * 4 + i / 5 % 4] = x.gates[i];
  reference::backward(x.queries(), x.keys(), x.values(),
                      heed::tensor_view<const double, 3>(token_major.data(), x.row_extents(), strides), x.cotangent(),
                      x.cotangent(), {.dgates = {dgates.data(), x.row_extents(), strides}}, x.options);
  for (std::size_t i = 0; i < dgates.size(); ++i) CHECK(dgates[i / 20 * 20 + i % 5 * 4 + i / 5 % 4] == all.dgates[i]);

  call bad(s, {.score = [](double y, const heed::position&) { return 2 * y; }});
  results r(bad);
  const std::string text = thrown_by([&] { backward(bad, r.views(bad)); });
  CHECK(text.find("derivative") != std::string::npos);
  CHECK((std::isnan(r.dq[0]) && std::isnan(r.dgates[0])));
}

TEST_CASE("the reference equals every golden gradient of mixture of head") {
  const golden_file file("mixture_of_head");
  int cases = 0, gradients_compared = 0;
  for (const std::string& name : file.cases()) {
    if (!has_call(file, name)) continue;
    INFO(name);
    golden_mixture<double> x(file, name);
    golden_gradients<double> d(file, name, {"dq", "dk", "dv", "dgates"});
    for (std::size_t i = 0; i < x.gates.data.size(); ++i)  // theirs is of every gate
      if (x.gates.data[i] == 0) d.expected("dgates").values.data[i] = 0;
    ++cases, gradients_compared += d.count();
    reference::backward(
        x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.gates.cview<3>(), x.o.cview<4>(), d.dout.cview<4>(),
        {.dq = d.view<4>("dq"), .dk = d.view<4>("dk"), .dv = d.view<4>("dv"), .dgates = d.view<3>("dgates")}, x.plain);
    CHECK(d.wrong() == "");
  }
  CHECK((cases == 14 && gradients_compared == 56));
}
