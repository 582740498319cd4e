// SPDX-License-Identifier: BSD-3-Clause

// Laws of keys: their order does not matter, any split of them joins to the whole, and only differences of the scores
// of a row count.

#include <cmath>
#include <string>
#include <vector>

#include "support/law_cases.hpp"

using namespace heed_test;

namespace {

constexpr kernel without_order[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head, kernel::linear,
                                    kernel::local_linear};
constexpr kernel with_scores[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head, kernel::local_linear};
constexpr number_type exact[] = {number_type::f64};

// Without what looks at the number of a key
law_call without_places(law_call x) {
  x.mask = {}, x.alibi = 0;
  return x;
}
law_call in_order(law_call x, const std::vector<index_t>& order) {
  x.k = x.k.picked(2, order), x.v = x.v.picked(2, order), x.bias = x.bias.picked(3, order);
  return x;
}
// Eighths, so that sums of two are exact in every type
double eighths(double x) { return std::nearbyint(8 * x) / 8; }

}  // namespace

TEST_CASE("keys in another order: the same results") {
  each_law_case(1, without_order, all_types, 8, [](const law_call& some, random_numbers& random) {
    const law_call x = without_places(some), y = in_order(x, shuffled(x.keys(), random));
    CHECK(too_far(x, forward(x), forward(y)) == "");
  });
}

TEST_CASE("keys in another order: their gradients in that order, the same gradients of all else") {
  each_law_case(2, without_order, exact, 12, [](const law_call& some, random_numbers& random) {
    const law_call x = without_places(some);
    const std::vector<index_t> order = shuffled(x.keys(), random);
    law_results expected = backward(x);
    for (auto& [name, numbers] : expected.each) {
      if (name == "dk" || name == "dv") numbers = numbers.picked(2, order);
      if (name == "dbias") numbers = numbers.picked(3, order);
    }
    CHECK(too_far(x, backward(in_order(x, order)), expected) == "");
  });
}

TEST_CASE("keys cut anywhere, parts joined in any order: the whole") {
  each_law_case(3, softmax_kernels, all_types, 12, [](const law_call& some, random_numbers& random) {
    law_call x = without_places(some);
    x.narrow_o = false;
    const law_results whole = forward(x);
    std::vector<law_results> parts;
    const index_t most = 1 + random.below(5);
    for (index_t first = 0, n = 0; first < x.keys(); first += n) {
      n = static_cast<index_t>(random.below(static_cast<std::int32_t>(x.keys() - first + 1)));  // 0 is a part, too
      if (static_cast<index_t>(parts.size()) >= most) n = x.keys() - first;
      law_call part = keys_of(x, first, n);
      if (!parts.empty()) part.sinks.clear();
      parts.push_back(forward(part));
    }
    const std::vector<index_t> order = shuffled(static_cast<index_t>(parts.size()), random);
    law_results all = parts[static_cast<std::size_t>(order[0])];
    for (std::size_t i = 1; i < order.size(); ++i) all = merged(all, parts[static_cast<std::size_t>(order[i])], x.type);
    // A part and each merge round as a call does.
    for (const auto& [name, numbers] : whole.each) {
      const double allowed = allowed_error(x, name, whole.rounded_weights || all.rounded_weights);
      CHECK(too_far(all[name], numbers, allowed * static_cast<double>(parts.size() + 1)) == "");
    }
  });
}

TEST_CASE("keys cut anywhere, the state of each part handed on: the whole") {
  const kernel linear[] = {kernel::linear};
  each_law_case(4, linear, all_types, 24, [](const law_call& some, random_numbers& random) {
    const law_call x = without_places(some);
    const law_results whole = forward(x);
    law_call part = x;
    law_results last;
    for (index_t first = 0, n = 0; first < x.keys(); first += n) {
      n = 1 + static_cast<index_t>(random.below(static_cast<std::int32_t>(x.keys() - first)));
      part.k = x.k.part(2, first, n), part.v = x.v.part(2, first, n);
      last = forward(part);
      part.s0 = last["s"], part.z0 = last["z"];
    }
    CHECK(too_far(x, last, whole) == "");
  });
}

// q . (k + c) = q . k + q . c: a number for each row
TEST_CASE("a vector added to all keys: the same output and gradients, lse moves by its score") {
  each_law_case(5, softmax_kernels, all_types, 10, [](const law_call& some, random_numbers& random) {
    law_call x = some, y;
    x.softcap = 0, x.sinks.clear();
    x.k = x.k.mapped(eighths);
    const law_numbers add({1, 1, 1, x.q.extent(3)},
                          [&](index_t, index_t, index_t, index_t) { return eighths(random.normal()); });
    y = x;
    y.k = law_numbers(x.k.size(),
                      [&](index_t b, index_t h, index_t j, index_t d) { return x.k(b, h, j, d) + add(0, 0, 0, d); });
    law_results moved = forward(x);
    const double scale = x.scale.value_or(1 / std::sqrt(static_cast<double>(x.q.extent(3))));
    for (auto& [name, numbers] : moved.each)
      if (name == "lse")
        numbers = law_numbers(numbers.size(), [&, lse = numbers](index_t b, index_t h, index_t i, index_t) {
          double score = 0;
          for (index_t d = 0; d < x.q.extent(3); ++d)
            score += x.q(b, h * x.heads() / x.out_heads(), i, d) * add(0, 0, 0, d);
          return lse(b, h, i) + scale * score;
        });
    CHECK(too_far(y, forward(y), moved) == "");
    if (x.type == number_type::f64) CHECK(too_far(y, backward(y), backward(x)) == "");
  });
}

TEST_CASE("a number added to all scores of a row: the same output and gradients, lse moves by it") {
  each_law_case(6, with_scores, all_types, 8, [](const law_call& some, random_numbers& random) {
    law_call x = some;
    x.sinks.clear();
    if (x.bias.empty()) x.bias = law_numbers({1, 1, x.queries(), x.keys()});
    law_call y = x;
    const law_numbers add({1, 1, x.queries(), 1},
                          [&](index_t, index_t, index_t, index_t) { return eighths(3 * random.normal()); });
    y.bias = law_numbers(x.bias.size(), [&](index_t b, index_t h, index_t i, index_t j) {
      const double sum = x.bias(b, h, i, j) + add(0, 0, i);
      return x.type == number_type::f64 ? sum : rounded(number_type::f32, sum);
    });
    law_results moved = forward(x);
    for (auto& [name, numbers] : moved.each)
      if (name == "lse")
        numbers = law_numbers(numbers.size(), [&, lse = numbers](index_t b, index_t h, index_t i, index_t) {
          return lse(b, h, i) + add(0, 0, i);
        });
    CHECK(too_far(y, forward(y), moved) == "");
    if (x.type == number_type::f64) CHECK(too_far(y, backward(y), backward(x)) == "");
  });
}

// With scale 0 all weights are equal, and the estimate is a regression in q and k.
TEST_CASE("local linear, equal weights: a vector added to q and k changes nothing") {
  const kernel local[] = {kernel::local_linear};
  each_law_case(7, local, exact, 36, [](const law_call& some, random_numbers& random) {
    law_call x = some;
    x.scale = 0;
    const law_numbers add({1, 1, 1, x.q.extent(3)},
                          [&](index_t, index_t, index_t, index_t) { return random.normal(); });
    law_call y = x;
    for (law_numbers* each : {&y.q, &y.k})
      *each = law_numbers(each->size(), [&, old = *each](index_t b, index_t h, index_t i, index_t d) {
        return old(b, h, i, d) + add(0, 0, 0, d);
      });
    const law_results a = forward(x), b = forward(y);
    CHECK(too_far(a["o"], b["o"], allowed_error(y, "o")) == "");
    CHECK(too_far(a["slope"], b["slope"], allowed_error(y, "slope")) == "");
  });
}
