// SPDX-License-Identifier: BSD-3-Clause

// Laws of heads and sequences: each is a call of its own, equal ones have equal results, and a group of query heads is
// the same heads with keys and values repeated.

#include <string>
#include <vector>

#include "support/law_cases.hpp"

using namespace heed_test;

namespace {

constexpr number_type exact[] = {number_type::f64};

bool by_sequence(const std::string& name) {
  return name != "dslopes" && name != "dsinks" && name != "dridge" && name != "dbias";
}
// Results (or gradients) of all parts of an axis, one after the other; sums over sequences are left out
law_results together(std::size_t axis, const law_results& a, const law_results& b) {
  law_results all;
  for (const auto& [name, numbers] : b.each)
    if (by_sequence(name)) all.add(name.c_str(), joined(axis, a[name], numbers));
  return all;
}
law_results only_by_sequence(law_results all) {
  std::erase_if(all.each, [](const auto& each) { return !by_sequence(each.first); });
  return all;
}

// Each key/value head as often as query heads read it, or each query head
law_call repeated(law_call x) {
  const index_t heads = x.out_heads();
  const auto repeat = [&](law_numbers& y) {
    std::vector<index_t> order;
    for (index_t h = 0; h < heads; ++h) order.push_back(h * y.extent(1) / heads);
    y = y.picked(1, order);
  };
  repeat(x.q), repeat(x.k), repeat(x.v);
  if (!x.s0.empty()) repeat(x.s0);
  if (!x.z0.empty()) repeat(x.z0);
  if (x.of == kernel::lightning && !x.gates.empty()) repeat(x.gates);
  std::vector<double> slopes;
  for (index_t h = 0; h < heads && !x.slopes.empty(); ++h)
    slopes.push_back(x.slopes[static_cast<std::size_t>(h * static_cast<index_t>(x.slopes.size()) / heads)]);
  x.slopes = slopes;
  return x;
}

}  // namespace

TEST_CASE("calls for each sequence: the bits of one call for all") {
  each_law_case(41, all_kernels, all_types, 5, [](const law_call& x, random_numbers&) {
    law_results outputs, gradients;
    for (index_t b = 0; b < x.batch(); ++b) {
      const law_call one = sequences_of(x, b, 1);
      outputs = together(0, outputs, forward(one)), gradients = together(0, gradients, backward(one));
    }
    CHECK(other_bits(forward(x), outputs) == "");
    CHECK(other_bits(only_by_sequence(backward(x)), gradients) == "");
  });
}

TEST_CASE("calls for some heads: the bits of one call for all") {
  each_law_case(42, all_kernels, all_types, 5, [](const law_call& x, random_numbers& random) {
    law_results outputs, gradients;
    for (index_t first = 0, n = 0; first < x.kv_heads(); first += n) {
      n = x.of == kernel::sparse_query ? x.kv_heads()
                                       : 1 + random.below(static_cast<std::int32_t>(x.kv_heads() - first));
      if (x.of == kernel::sparse_query && x.heads() % x.kv_heads() == 0) n = 1;
      const law_call some = heads_of(x, first, n);
      outputs = together(1, outputs, forward(some)), gradients = together(1, gradients, backward(some));
    }
    CHECK(other_bits(forward(x), outputs) == "");
    CHECK(other_bits(only_by_sequence(backward(x)), gradients) == "");
  });
}

TEST_CASE("equal sequences: equal bits") {
  each_law_case(43, all_kernels, all_types, 5, [](const law_call& some, random_numbers& random) {
    const std::vector<index_t> copies(static_cast<std::size_t>(2 + random.below(4)), 0);
    law_call x = sequences_of(some, 0, 1);
    const law_results one = forward(x), gradients = backward(x);
    for (law_numbers* each : {&x.q, &x.k, &x.v, &x.dout, &x.gates, &x.s0, &x.z0}) *each = each->picked(0, copies);
    const law_results all = forward(x), all_gradients = backward(x);
    for (const auto& [name, numbers] : one.each) CHECK(other_bits(all[name], numbers.picked(0, copies)) == "");
    for (const auto& [name, numbers] : only_by_sequence(gradients).each)
      CHECK(other_bits(all_gradients[name], numbers.picked(0, copies)) == "");
  });
}

TEST_CASE("a group of heads: the same heads with those they share repeated") {
  each_law_case(44, all_kernels, all_types, 6, [](const law_call& x, random_numbers&) {
    const law_call y = repeated(x);
    law_results group = forward(x), single = forward(y);
    // A state for each key/value head is a state for each of its query heads.
    for (auto& [name, numbers] : group.each)
      if (name == "s" || name == "z") {
        std::vector<index_t> order;
        for (index_t h = 0; h < x.out_heads(); ++h) order.push_back(h * numbers.extent(1) / x.out_heads());
        numbers = numbers.picked(1, order);
      }
    CHECK(too_far(x, group, single) == "");
  });
}

TEST_CASE("a group of heads: gradients are the sums over those that were repeated") {
  each_law_case(45, all_kernels, exact, 24, [](const law_call& x, random_numbers&) {
    const law_call y = repeated(x);
    const law_results group = backward(x);
    law_results single = backward(y);
    for (auto& [name, numbers] : single.each) {
      const std::size_t axis = numbers.size() == group[name].size() || name[1] != 's' || name == "ds0" ? 1 : 3;
      const index_t times = numbers.size()[axis] / group[name].size()[axis];
      numbers = summed(axis, numbers, times);
    }
    CHECK(too_far(x, group, single) == "");
  });
}
