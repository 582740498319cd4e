// SPDX-License-Identifier: BSD-3-Clause

// The reference of softmax's backward beside central differences of the reference of forward: every mask, alignment and
// option.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/reference/softmax.hpp"
#include "support/catch.hpp"
#include "support/central_differences.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"
#include "support/softmax_reference_backward.hpp"

using namespace heed_test;
using namespace heed_test::softmax_reference;

namespace {

double loss(const call& x) {
  numbers o = not_written(x.dout.size()), lse = not_written(x.dlse.size());
  options how = x.options;
  how.lse = dense(lse.data(), x.row_extents());
  heed::reference::softmax::forward(x.queries(), x.keys(), x.values(), dense(o.data(), x.out_extents()), how);
  return x.loss_of(o, lse);
}
std::string wrong(const shape& s, const options& how, int directions = 2) {
  call x(s, how);
  results r = differentiate(x);
  std::vector<claimed_gradient> all{{"dq", &x.q, &r.dq}, {"dk", &x.k, &r.dk}, {"dv", &x.v, &r.dv}};
  if (!x.bias.empty()) all.push_back({"dbias", &x.bias, &r.dbias});
  if (!x.sinks.empty()) all.push_back({"dsink_logits", &x.sinks, &r.dsinks});
  if (!x.slopes.empty()) all.push_back({"dalibi_slopes", &x.slopes, &r.dslopes});
  random_numbers random(8);
  return wrong_gradients(all, [&] { return loss(x); }, random, directions);
}
// A score function that bends, whose derivative depends on the score and on all of the position
heed::score_function<double> curved() {
  return {[](double x, const heed::position& p) {
            return x > -inf ? x + (1 + p.head + p.key % 3) * std::sin(x + p.place) / 4 : x;
          },
          [](double x, const heed::position& p) { return 1 + (1 + p.head + p.key % 3) * std::cos(x + p.place) / 4; }};
}

using part = option_parts<double>::part;
std::vector<const part*> both(const part& first, const part& second) {
  if (&first == &second) return {&first};
  return {&first, &second};
}

}  // namespace

TEST_CASE("gradients under every mask and alignment: central differences") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(to_string(s) << ", " << mask_name << ", " << place_name);
        CHECK(wrong(s, {.mask = mask, .align = align}) == "");
        CHECK(wrong(s, {.mask = mask, .align = align, .softcap = 2, .alibi_slopes = 0.2, .sink_logits = 0.3}, 1) == "");
      }
  }
}

TEST_CASE("gradients under every option and every pair of options: central differences") {
  for (const shape& s : shapes) {
    const option_parts<double> parts(s);
    for (const auto& first : parts.all)
      for (const auto& second : parts.all) {
        if (!(first.kind < second.kind) && &first != &second) continue;
        INFO(to_string(s) << ", " << first.name << ", " << second.name);
        options how = parts.of(both(first, second), parts.whole());
        CHECK(wrong(s, how, 1) == "");
        if (first.kind == part_kind::score || second.kind == part_kind::score) continue;
        how.score = curved();
        CHECK(wrong(s, how, 1) == "");
      }
  }
}

TEST_CASE("gradients with everything at once, and scales of any sign: central differences") {
  for (const shape& s : shapes) {
    const option_parts<double> parts(s);
    std::vector<const part*> all;
    for (const part& each : parts.all)
      if (each.name == "softcap" || each.name == "alibi" || each.name == "bias" || each.name == "sinks" ||
          each.name == "causal" || each.name == "first_place")
        all.push_back(&each);
    REQUIRE(all.size() == 6);
    options how = parts.of(all, parts.whole());
    how.score = curved();
    for (const double scale : {0.0, -0.8, 0.3, 1.5}) {
      how.scale = scale;
      CHECK(wrong(s, how, 20) == "");
    }
  }
}

TEST_CASE("gradients of packed sequences: central differences") {
  packing p;
  p.add(3, 5), p.add(0, 2), p.add(4, 0), p.add(1, 6), p.add(5, 3);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 3, 2};
  const option_parts<double> parts(s, &p);
  for (const auto& first : parts.all)
    for (const auto& second : parts.all) {
      if (!(first.kind < second.kind) && &first != &second) continue;
      INFO(first.name << " and " << second.name);
      options how = parts.of(both(first, second), parts.whole());
      how.mask = heed::packed(p.queries, p.keys) & how.mask;
      CHECK(wrong(s, how, 1) == "");
    }
}

TEST_CASE("every element by itself: central differences") {
  call x(shapes[0], {.mask = heed::causal(), .softcap = 3, .score = curved(), .sink_logits = 0.5});
  results r = differentiate(x);
  for (const auto& [numbers_of, gradient] :
       {std::pair(&x.q, &r.dq), std::pair(&x.k, &r.dk), std::pair(&x.v, &r.dv), std::pair(&x.sinks, &r.dsinks)})
    for (std::size_t i = 0; i < numbers_of->size(); ++i) {
      double& number = (*numbers_of)[i];
      const double before = number;
      const double measured = slope_of([&](double t) { return number = before + t, loss(x); }, 1e-3);
      number = before;
      CHECK(std::abs(measured - (*gradient)[i]) < 1e-9);
    }
}
