// SPDX-License-Identifier: BSD-3-Clause

// Laws between kernels: where an option leaves the range in which it does something, a kernel is another one.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/law_cases.hpp"

using namespace heed_test;

namespace {

constexpr kernel lightning[] = {kernel::lightning}, mixture[] = {kernel::mixture_of_head},
                 local_linear[] = {kernel::local_linear};
constexpr number_type exact[] = {number_type::f64};

// What linear attention has to be to be lightning attention that forgets nothing
law_call as_linear(law_call x) {
  x.of = kernel::linear, x.mask = heed::causal(), x.feature = heed::feature::identity, x.normalize = false;
  x.narrow_o = x.type == number_type::bf16 || x.type == number_type::f16;
  x.slopes.clear(), x.gates = {};
  // A state for each key/value head, as linear attention has it
  if (!x.s0.empty() && x.s0.extent(1) != x.kv_heads()) x.s0 = {};
  return x;
}

// Without the results that only one of two kernels has
law_results only(law_results all, const std::vector<std::string>& names) {
  std::erase_if(all.each, [&](const auto& each) { return std::count(names.begin(), names.end(), each.first) == 0; });
  return all;
}

}  // namespace

TEST_CASE("lightning that forgets nothing, by slopes or gates: linear attention") {
  each_law_case(31, lightning, all_types, 24, [](const law_call& some, random_numbers& random) {
    const law_call x = as_linear(some);
    law_call y = x;
    y.of = kernel::lightning, y.mask = {};
    const double slope = x.type == number_type::f64 && random.below(2) == 0 ? 1e-16 : 0;
    if (random.below(2) == 0)
      y.slopes.assign(static_cast<std::size_t>(x.kv_heads()), slope);
    else
      y.gates = law_numbers({x.batch(), x.kv_heads(), x.keys(), 1}).mapped([&](double) { return -slope; });
    CHECK(too_far(x, forward(y), forward(x)) == "");
    if (x.type == number_type::f64) CHECK(too_far(x, only(backward(y), {"dq", "dk", "dv", "ds0"}), backward(x)) == "");
  });
}

TEST_CASE("gates that are one number for each head are slopes, and their gradients add up to those of the slopes") {
  each_law_case(32, lightning, all_types, 24, [](const law_call& some, random_numbers& random) {
    law_call x = some, y;
    const bool per_query_head = x.state_heads() == x.heads() && x.heads() != x.kv_heads();
    x.gates = {}, x.slopes.clear();
    for (index_t h = 0; h < (per_query_head ? x.heads() : x.kv_heads()); ++h)
      x.slopes.push_back(rounded(number_type::f32, 0.3 * random.uniform()));
    y = x;
    y.slopes.clear();
    y.gates = law_numbers({x.batch(), x.state_heads(), x.keys(), 1},
                          [&](index_t, index_t h, index_t, index_t) { return -x.slopes[static_cast<std::size_t>(h)]; });
    // exp of a sum of gates for a power: the sum is off by as much as its length allows
    const double sums = (x.type == number_type::f64 ? 0x1p-52 : 0x1p-23) * static_cast<double>(x.keys());
    const law_results a = forward(x), b = forward(y);
    for (const auto& [name, numbers] : a.each) {
      double allowed = allowed_error(x, name);
      allowed += allowed * 0.3 * sums / (x.type == number_type::f64 ? 0x1p-52 : 0x1p-23);
      if (x.narrow_o && name == "o")
        allowed += 2 * rounding_of(x.type == number_type::bf16 ? stored::bf16 : stored::f16).at(numbers.largest());
      CHECK(too_far(numbers, b[name], allowed) == "");
    }
    if (x.type != number_type::f64) return;
    const law_results of_slopes = backward(x), of_gates = backward(y);
    const double allowed = allowed_error(x, "dslopes") * static_cast<double>(x.keys());
    for (const char* name : {"dq", "dk", "dv", "ds0"}) CHECK(too_far(of_slopes[name], of_gates[name], allowed) == "");
    law_numbers sum(of_slopes["dslopes"].size());
    for (index_t h = 0; h < y.gates.extent(1); ++h)
      for (index_t b0 = 0; b0 < x.batch(); ++b0)
        for (index_t t = 0; t < x.keys(); ++t) sum(0, 0, 0, h) -= of_gates["dgates"](b0, h, t);
    CHECK(too_far(of_slopes["dslopes"], sum, allowed) == "");
  });
}

TEST_CASE("all gates 1: softmax, in every bit") {
  each_law_case(33, mixture, all_types, 16, [](const law_call& some, random_numbers&) {
    law_call x = some, y;
    x.gates = x.gates.mapped([](double) { return 1.0; });
    y = x;
    y.of = kernel::softmax, y.gates = {};
    CHECK(other_bits(forward(x), forward(y)) == "");
    CHECK(too_far(y, only(forward(x), {"o", "lse"}), forward(y)) == "");
    if (x.type == number_type::f64)
      CHECK(too_far(y, backward(x), only(backward(y), {"dq", "dk", "dv", "dbias"})) == "");
  });
}

// The mean of equal heads, gates 1 / H: their sum is one head.
TEST_CASE("equal heads with gates that sum to 1: softmax") {
  each_law_case(34, mixture, all_types, 24, [](const law_call& some, random_numbers& random) {
    law_call x = some, one;
    const std::vector<index_t> first_q(static_cast<std::size_t>(x.heads()), 0),
        first_k(static_cast<std::size_t>(x.kv_heads()), 0);
    x.narrow_o = false, x.sinks.clear();
    one = heads_of(x, 0, 1);
    one.of = kernel::softmax, one.gates = {};
    one.q = one.q.part(1, 0, 1), one.bias = one.bias.part(1, 0, 1), one.dout = one.dout.part(1, 0, 1);
    x.q = one.q.picked(1, first_q), x.k = one.k.picked(1, first_k), x.v = one.v.picked(1, first_k);
    x.bias = one.bias;
    for (index_t b = 0; b < x.batch(); ++b)
      for (index_t i = 0; i < x.queries(); ++i) {
        double left = 1;
        for (index_t h = 0; h + 1 < x.heads(); ++h)
          left -= x.gates(b, h, i) = random.below(3) == 0 ? 0 : random.below(17) / 16.0 - 0.5;
        x.gates(b, x.heads() - 1, i) = left;
      }
    const law_results heads = forward(x), whole = forward(one);
    const double allowed =
        allowed_error(x, "o", heads.rounded_weights || whole.rounded_weights) * static_cast<double>(x.heads());
    CHECK(too_far(summed(1, heads["o"], x.heads()), whole["o"], allowed) == "");
  });
}

TEST_CASE("an endless ridge: the locally constant estimate, softmax") {
  each_law_case(35, local_linear, exact, 36, [](const law_call& some, random_numbers& random) {
    law_call x = some, constant;
    constexpr heed::local_linear::solver solvers[] = {heed::local_linear::solver::automatic,
                                                      heed::local_linear::solver::conjugate_gradient,
                                                      heed::local_linear::solver::direct};
    x.solver = solvers[random.below(3)];
    constant = x;
    constant.of = kernel::softmax, constant.ridge.clear();
    const law_results expected = forward(constant);
    x.ridge.assign(x.ridge.size(), std::numeric_limits<double>::infinity());
    CHECK(too_far(constant, only(forward(x), {"o", "lse"}), expected) == "");
    CHECK(too_far(constant, only(backward(x), {"dq", "dk", "dv", "dbias"}), backward(constant)) == "");
    // Sum p |kappa| |y| |v|, |y| <= |q - mean key| / ridge
    const double spread = 2 * x.k.longest_row(), distance = x.q.longest_row() + x.k.longest_row();
    for (const double ridge : {1e3, 1e6, 1e9}) {
      x.ridge.assign(x.ridge.size(), ridge);
      const double gap = spread * distance / ridge * x.v.largest();
      CHECK(too_far(forward(x)["o"], expected["o"], gap + allowed_error(constant, "o")) == "");
    }
  });
}

TEST_CASE("an endless ridge in float and 16 bits: softmax") {
  const number_type narrow[] = {number_type::f32, number_type::bf16, number_type::f16};
  each_law_case(36, local_linear, narrow, 12, [](const law_call& some, random_numbers&) {
    law_call x = some, constant = some;
    constant.of = kernel::softmax, constant.ridge.clear();
    x.ridge.assign(x.ridge.size(), std::numeric_limits<double>::infinity());
    CHECK(too_far(constant, only(forward(x), {"o", "lse"}), forward(constant)) == "");
  });
}
