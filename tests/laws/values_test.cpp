// SPDX-License-Identifier: BSD-3-Clause

// Laws of values: every kernel is linear in v (and in its state), and its gradients are linear in dout.

#include <cmath>
#include <string>
#include <vector>

#include "support/law_cases.hpp"

using namespace heed_test;

namespace {

constexpr kernel averages[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head, kernel::local_linear};

law_results scaled(law_results all, double by, const std::string& names) {
  for (auto& [name, numbers] : all.each)
    if (names.find(" " + name + " ") != std::string::npos) numbers = numbers.mapped([&](double x) { return by * x; });
  return all;
}

}  // namespace

TEST_CASE("v times a power of two: o and the state times it, in every bit") {
  each_law_case(11, all_kernels, all_types, 8, [](const law_call& some, random_numbers& random) {
    law_call x = some;
    x.narrow_o = false;                              // a 16-bit o may be subnormal
    const double by = random.below(2) == 0 ? 4 : 2;  // below 0 it would turn the sign of a 0
    law_call y = x;
    y.v = x.v.mapped([&](double e) { return by * e; });
    y.s0 = x.s0.mapped([&](double e) { return by * e; });
    CHECK(other_bits(scaled(forward(x), by, " o s "), forward(y)) == "");
  });
}

TEST_CASE("v or dout times a power of two: gradients times it, in every bit") {
  each_law_case(12, all_kernels, all_types, 5, [](const law_call& some, random_numbers& random) {
    law_call x = some;
    x.narrow_o = is_recurrent(x.of) && x.narrow_o;
    if (x.narrow_o && x.type == number_type::f16) return;  // o and dout in f16 may be subnormal
    const double by = random.below(2) == 0 ? 4 : 2;        // below 0 it would turn the sign of a 0
    law_call y = x, z = x;
    const auto times = [&](double e) { return by * e; };
    y.dout = x.dout.mapped(times);
    const law_results gradients = backward(x);
    const char* const all = " dq dk dv dgates dslopes dbias dsinks dridge ds0 dz0 ";
    CHECK(other_bits(scaled(gradients, by, all), backward(y)) == "");
    z.v = x.v.mapped(times), z.s0 = x.s0.mapped(times);
    const char* const but_values = " dq dk dgates dslopes dbias dsinks dridge dz0 ";
    CHECK(other_bits(scaled(gradients, by, but_values), backward(z)) == "");
  });
}

TEST_CASE("the sum of two v: the sum of their outputs and states") {
  each_law_case(13, all_kernels, all_types, 6, [](const law_call& some, random_numbers& random) {
    law_call x = some, y, sum;
    x.narrow_o = false;
    const auto eighth = [](double e) { return std::nearbyint(8 * e) / 8; };  // sums are exact in every type
    x.v = x.v.mapped(eighth), x.s0 = x.s0.mapped(eighth);
    y = sum = x;
    y.v = x.v.mapped([&](double) { return eighth(random.normal()); });
    y.s0 = x.s0.mapped([&](double) { return eighth(random.normal()); });
    const auto add = [](const law_numbers& a, const law_numbers& b) {
      law_numbers c = a;
      for (std::size_t i = 0; i < c.all().size(); ++i) c.all()[i] += b.all()[i];
      return c;
    };
    sum.v = add(x.v, y.v), sum.s0 = add(x.s0, y.s0);
    const law_results a = forward(x), b = forward(y), c = forward(sum);
    for (const char* name : {"o", "s"}) {
      const double allowed = allowed_error(x, name, a.rounded_weights) + allowed_error(y, name, a.rounded_weights);
      CHECK(too_far(add(a[name], b[name]), c[name], allowed) == "");
    }
  });
}

TEST_CASE("a number added to v is added to o, since weights sum to 1") {
  each_law_case(14, averages, all_types, 9, [](const law_call& some, random_numbers& random) {
    law_call x = some, y;
    x.sinks.clear(), x.narrow_o = false;
    x.v = x.v.mapped([](double e) { return std::nearbyint(8 * e) / 8; });
    y = x;
    const double more = 1 + random.below(3);
    y.v = x.v.mapped([&](double e) { return e + more; });
    const law_results before = forward(x), after = forward(y);
    const bool gated = x.of == kernel::mixture_of_head;
    const law_numbers expected(before["o"].size(), [&](index_t b, index_t h, index_t i, index_t e) {
      const bool sees = std::isfinite(before["lse"](b, h, i));
      return before["o"](b, h, i, e) + (sees ? more * (gated ? x.gates(b, h, i) : 1) : 0);
    });
    CHECK(too_far(after["o"], expected, allowed_error(y, "o", after.rounded_weights)) == "");
  });
}
