// SPDX-License-Identifier: BSD-3-Clause

// Options and masks two by two, masks three by three, and everything at once, beside the reference. Both drivers.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

// Queries in lanes: with a group, over two key tiles, with more key/value heads. Few rows: with a group, one alone.
constexpr shape grouped{2, 4, 2, 19, 67, 12, 9}, tall{1, 1, 1, 70, 270, 8, 8}, wide{2, 2, 4, 20, 40, 7, 8};
constexpr shape few{2, 4, 2, 3, 140, 12, 9}, alone{1, 1, 1, 1, 300, 8, 8};
constexpr shape shapes[] = {grouped, tall, wide, few, alone};

template <class T> void check_parts(const shape& s, const heed::softmax::options<T>& how) {
  softmax_case<T> x(s, how);
  const heed::plan plan = x.plan();
  INFO(plan.problem.data());
  REQUIRE(plan.ok());
  check(x);
}

// Every pair of different kinds whose number is turn modulo `every`
template <class T> void check_pairs(const shape& s, std::size_t every = 1) {
  const option_parts<T> parts(s);
  std::size_t turn = 0;
  for (std::size_t a = 0; a < parts.all.size(); ++a)
    for (std::size_t b = a + 1; b < parts.all.size(); ++b) {
      const auto &first = parts.all[a], &second = parts.all[b];
      if (first.kind == second.kind || turn++ % (every * thinning) != 0) continue;
      INFO(first.name << " and " << second.name);
      check_parts<T>(s, parts.of({&first, &second}, parts.whole()));
    }
}

}  // namespace

TEST_CASE("every part alone, in float and double") {
  for (const shape& s : shapes) {
    const option_parts<float> floats(s);
    const option_parts<double> doubles(s);
    for (std::size_t i = 0; i < floats.all.size(); ++i) {
      INFO(floats.all[i].name);
      check_parts<float>(s, floats.of({&floats.all[i]}, floats.whole()));
      check_parts<double>(s, doubles.of({&doubles.all[i]}, doubles.whole()));
    }
  }
}

TEST_CASE("every pair, queries in lanes") { check_pairs<float>(grouped); }
TEST_CASE("every pair, queries in lanes, long") { check_pairs<float>(tall, 3); }
TEST_CASE("every pair, head dim in lanes") { check_pairs<float>(few); }
TEST_CASE("every pair, one row") { check_pairs<float>(alone); }
TEST_CASE("every pair, more key/value heads") { check_pairs<float>(wide, 2); }
TEST_CASE("pairs in double") {
  check_pairs<double>(grouped, 5);
  check_pairs<double>(few, 5);
}

TEST_CASE("masks three by three") {
  for (const shape& s : {shape{1, 2, 1, 21, 50, 8, 8}, shape{1, 2, 1, 2, 50, 8, 8}}) {
    const option_parts<float> parts(s);
    std::size_t turn = 0;
    for (std::size_t a = 0; a < parts.all.size(); ++a)
      for (std::size_t b = a + 1; b < parts.all.size(); ++b)
        for (std::size_t c = b + 1; c < parts.all.size(); ++c) {
          const auto &x = parts.all[a], &y = parts.all[b], &z = parts.all[c];
          if (!x.masks() || x.kind == y.kind || y.kind == z.kind || turn++ % thinning != 0) continue;
          INFO(x.name << ", " << y.name << " and " << z.name);
          check_parts<float>(s, parts.of({&x, &y, &z}, parts.whole()));
        }
  }
}

TEST_CASE("one part of every kind at once, each part once") {
  for (const shape& s : shapes) {
    const option_parts<float> parts(s);
    for (std::size_t turn = 0; turn < parts.all.size(); ++turn) {
      std::vector<const option_parts<float>::part*> chosen;
      std::vector<part_kind> have;
      for (std::size_t i = 0; i < parts.all.size(); ++i) {
        const auto& part = parts.all[(turn + i) % parts.all.size()];
        if (std::find(have.begin(), have.end(), part.kind) != have.end()) continue;
        have.push_back(part.kind), chosen.push_back(&part);
      }
      REQUIRE(chosen.size() == 13);
      INFO("from " << parts.all[turn].name);
      check_parts<float>(s, parts.of(chosen, parts.whole()));
    }
  }
}

TEST_CASE("every option under every mask of a list with places") {
  const shape s{1, 2, 1, 40, 90, 8, 8};
  const option_parts<float> parts(s);
  for (const auto& place : parts.all)
    for (const auto& term : parts.all) {
      if (place.kind != part_kind::align || term.masks() || term.kind == part_kind::align) continue;
      for (const heed::mask& mask : {heed::causal(), heed::window(11, 4, 6), heed::causal() & heed::window(30)}) {
        INFO(place.name << " and " << term.name);
        heed::softmax::options<float> how = parts.of({&place, &term}, parts.whole());
        how.mask = mask;
        check_parts<float>(s, how);
      }
    }
}

// Parts of one kind that are equal count once: the same bits as one of them.
TEST_CASE("equal parts of one kind join") {
  for (const shape& s : {shape{2, 4, 2, 30, 60, 12, 9}, shape{2, 4, 2, 2, 60, 12, 9}}) {
    const option_parts<float> parts(s);
    for (const auto& part : parts.all) {
      if (!part.masks() || part.kind == part_kind::user) continue;
      INFO(part.name);
      softmax_case<float> once(s, parts.of({&part}, parts.whole())), twice(s, parts.of({&part, &part}, parts.whole()));
      once.forward(), twice.forward();
      CHECK((same_bits(once.o, twice.o) && same_bits(once.lse, twice.lse)));
    }
    softmax_case<float> both(
        s, {.mask = heed::window(20, -1) & heed::causal() & heed::window(-1, 7) & heed::window(9, 3)}),
        one(s, {.mask = heed::window(9, 0)});
    both.forward(), one.forward();
    CHECK((same_bits(both.o, one.o) && same_bits(both.lse, one.lse)));
  }
}

TEST_CASE("equal numbers in other memory join: lengths, prefixes, offsets") {
  const std::vector<std::int32_t> a{20, 11}, b = a, q{0, 20, 30}, q2 = q, k{0, 40, 60}, k2 = k;
  const shape batch{2, 2, 1, 30, 60, 8, 8}, flat{1, 2, 1, 30, 60, 8, 8};
  check<float>(batch, {.mask = heed::key_lengths(a) & heed::causal() & heed::key_lengths(b)});
  check<float>(batch, {.mask = heed::prefix_lm(a) & heed::prefix_lm(b)});
  check<float>(flat, {.mask = heed::packed(q, k) & heed::causal() & heed::packed(q2, k2)});
}

// Rules that say the same in other words.
TEST_CASE("conjunctions that are another mask") {
  for (const shape& s : {shape{1, 2, 1, 30, 60, 8, 8}, shape{1, 2, 1, 3, 60, 8, 8}}) {
    const std::vector<std::int32_t> zero{0}, all{60}, some{41};
    const auto same = [&](const heed::mask& x, const heed::mask& y) {
      softmax_case<float> a(s, {.mask = x}), b(s, {.mask = y});
      a.forward(), b.forward();
      return same_bits(a.o, b.o) && same_bits(a.lse, b.lse);
    };
    CHECK(same(heed::causal() & heed::prefix_lm(some), heed::causal()));
    CHECK(same(heed::prefix_lm(zero), heed::causal()));
    CHECK(same(heed::prefix_lm(all), {}));
    CHECK(same(heed::key_lengths(all), {}));
    CHECK(same(heed::window(3, 2, 1000), heed::window(-1, 2)));
    CHECK(same(heed::window(-1, -1, 5) & heed::causal(), heed::causal()));
    CHECK(same(heed::window(7, -1) & heed::causal(), heed::window(7, 0)));
  }
}
