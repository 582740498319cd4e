// SPDX-License-Identifier: BSD-3-Clause

// Options and masks one by one, two by two, and everything at once, beside the reference; every solver.

#include <algorithm>
#include <iterator>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

template <class T> using parts_of = option_parts<T, heed::local_linear::options<T>>;

// With a group, over two key tiles, with more key/value heads, few rows
constexpr shape grouped{2, 4, 2, 9, 37, 8, 5}, tall{1, 1, 1, 70, 270, 4, 4}, wide{1, 2, 4, 20, 40, 7, 8},
    few{1, 2, 1, 3, 140, 12, 9};
constexpr shape shapes[] = {grouped, tall, wide, few};

// Every pair of different kinds whose number is 0 modulo `every`; one solver after the other
template <class T> void check_pairs(const shape& s, std::size_t every) {
  const parts_of<T> parts(s);
  std::size_t turn = 0, checked = 0;
  for (std::size_t a = 0; a < parts.all.size(); ++a)
    for (std::size_t b = a + 1; b < parts.all.size(); ++b) {
      const auto &first = parts.all[a], &second = parts.all[b];
      if (first.kind == second.kind || turn++ % (every * thinning) != 0) continue;
      INFO(first.name << " and " << second.name);
      local_linear_case<T> x(s, 0.5, parts.of({&first, &second}, parts.whole()));
      x.options.solver = solvers[checked++ % std::size(solvers)];
      check(x, fitted(x, x.ridge, x.options));
    }
}

}  // namespace

TEST_CASE("every part alone, in float and double") {
  std::size_t turn = 0;
  for (const shape& s : shapes) {
    const parts_of<float> floats(s);
    const parts_of<double> doubles(s);
    for (std::size_t i = 0; i < floats.all.size(); ++i) {
      if (turn++ % thinning != 0) continue;
      INFO(floats.all[i].name);
      CHECK(floats.all[i].kind != part_kind::sink);
      check_solvers<float>(s, 0.5, floats.of({&floats.all[i]}, floats.whole()));
      check_solvers<double>(s, 0.5, doubles.of({&doubles.all[i]}, doubles.whole()));
    }
  }
}

TEST_CASE("pairs, a group of heads") { check_pairs<float>(grouped, 1); }
TEST_CASE("pairs, long") { check_pairs<float>(tall, 9); }
TEST_CASE("pairs, more key/value heads") { check_pairs<float>(wide, 3); }
TEST_CASE("pairs, few rows") { check_pairs<float>(few, 1); }
TEST_CASE("pairs in double") { check_pairs<double>(grouped, 5); }

TEST_CASE("one part of every kind at once, each part once") {
  for (const shape& s : shapes) {
    const parts_of<float> parts(s);
    for (std::size_t turn = 0; turn < parts.all.size(); turn += thinning) {
      std::vector<const parts_of<float>::part*> chosen;
      std::vector<part_kind> have;
      for (std::size_t i = 0; i < parts.all.size(); ++i) {
        const auto& part = parts.all[(turn + i) % parts.all.size()];
        if (std::find(have.begin(), have.end(), part.kind) != have.end()) continue;
        have.push_back(part.kind), chosen.push_back(&part);
      }
      REQUIRE(chosen.size() == 12);
      INFO("from " << parts.all[turn].name);
      local_linear_case<float> x(s, 0.5, parts.of(chosen, parts.whole()));
      x.options.solver = solvers[turn % std::size(solvers)];
      check(x, fitted(x, x.ridge, x.options));
    }
  }
}
