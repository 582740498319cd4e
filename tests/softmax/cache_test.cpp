// SPDX-License-Identifier: BSD-3-Clause

// Caches with room for more keys than they hold: end_of_lengths beside the reference, beside slices of the cache, in
// packed sequences; what plan_forward says of places.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_errors.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;

// Both drivers, groups, more key/value heads. Of two sequences one has fewer tokens than queries, or none.
constexpr shape shapes[] = {{2, 4, 2, 40, 90, 12, 9}, {2, 2, 6, 4, 150, 8, 8}, {2, 1, 1, 70, 300, 8, 8},
                            {2, 8, 1, 1, 70, 16, 16}, {2, 2, 2, 33, 33, 8, 8}};
numbers lengths_of(const shape& s, std::size_t turn) {
  const auto n = static_cast<std::int32_t>(s.queries), m = static_cast<std::int32_t>(s.keys);
  const numbers all[] = {{m, n / 2}, {m - 1, 0}, {(n + m) / 2, n}};
  return all[turn % std::size(all)];
}

// All that reads a place
template <class T> std::vector<heed::softmax::options<T>> calls(const heed::mask& lengths, const numbers& prefix) {
  const auto near = heed::visible_if([](const heed::position& at) { return (at.place - at.key) % 3 != 1; });
  const auto pull = [](T s, const heed::position& at) { return s + static_cast<T>((at.place + 100) % 7) / 4; };
  return {{.mask = lengths & heed::causal()},
          {.mask = heed::window(9, 2) & lengths},
          {.mask = lengths & heed::causal() & heed::window(5, -1, 3)},
          {.mask = lengths & heed::prefix_lm(prefix)},
          {.mask = lengths & near & heed::causal()},
          {.mask = lengths, .alibi_slopes = 0.25},
          {.mask = lengths & heed::causal(), .score = pull, .sink_logits = 0.5},
          {.mask = lengths}};
}

template <class T> void beside_the_reference() {
  for (const shape& s : shapes)
    for (std::size_t turn = 0; turn < 3; ++turn) {
      const numbers held = lengths_of(s, turn), prefix{held[0] / 2, held[1]};
      for (auto how : calls<T>(heed::key_lengths(held), prefix)) {
        how.align = heed::end_of_lengths;
        check<T>(s, how);
      }
    }
}

// The largest difference of sequence b of x from the same call on the tokens that its cache holds
double apart(const softmax_case<double>& x, index_t b, index_t held, heed::softmax::options<double> how) {
  const auto o = buffer<double>::output({1, x.s.out_heads(), x.s.queries, x.s.value_dim}),
             lse = buffer<double>::output({1, x.s.out_heads(), x.s.queries, 1});
  const auto cache = [&](const buffer<double>& all) {
    return heed::slice(heed::slice(all.cview(), 0, b, 1), 2, 0, held);
  };
  how.lse = lse.view3();
  run_forward<double>(heed::slice(x.q.cview(), 0, b, 1), cache(x.k), cache(x.v), o.view(), how, {});
  double most = 0;
  const auto see = [&](double a, double c) { most = std::max(most, a == c ? 0 : std::abs(a - c)); };
  for (index_t h = 0; h < x.s.out_heads(); ++h)
    for (index_t i = 0; i < x.s.queries; ++i) {
      see(x.lse(b, h, i), lse(0, h, i));
      for (index_t e = 0; e < x.s.value_dim; ++e) see(x.o(b, h, i, e), o(0, h, i, e));
    }
  return most;
}

std::string why(const shape& s, const heed::softmax::options<float>& how) {
  return softmax_case<float>(s, how).plan().why.data();
}
bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("end_of_lengths beside the reference, float") { beside_the_reference<float>(); }
TEST_CASE("end_of_lengths beside the reference, double") { beside_the_reference<double>(); }

TEST_CASE("end_of_lengths: a cache with room is the same call on the tokens that it holds") {
  for (const shape& s : shapes)
    for (std::size_t turn = 0; turn < 3; ++turn) {
      const numbers held = lengths_of(s, turn), none{0}, zeros{0, 0};
      const auto whole = calls<double>(heed::key_lengths(held), zeros), alone = calls<double>({}, none);
      for (std::size_t c = 0; c < whole.size(); ++c) {
        INFO(to_string(s) << ", call " << c << ", lengths " << held[0] << " and " << held[1]);
        auto how = whole[c];
        how.align = heed::end_of_lengths;
        const softmax_case<double> x = ran(s, how);
        for (index_t b = 0; b < 2; ++b) CHECK(apart(x, b, held[static_cast<std::size_t>(b)], alone[c]) < 1e-12);
      }
    }
}

TEST_CASE("several queries on a padded cache: lengths alone put them in the wrong place, end_of_lengths does not") {
  const shape s{2, 4, 2, 4, 64, 16, 16};
  const numbers held{20, 37}, before{16, 33};
  const auto x = [&](const heed::alignment& align) {
    return ran(s, {.mask = heed::causal() & heed::key_lengths(held), .align = align});
  };
  const auto ends = x(heed::end_of_lengths);
  CHECK(same(ends, x(heed::first_place(before)), 0));
  CHECK_FALSE(same(ends, x(heed::bottom_right), 0.1));
  CHECK((apart(ends, 0, 20, {.mask = heed::causal()}) < 1e-13 && apart(ends, 1, 37, {.mask = heed::causal()}) < 1e-13));
}

TEST_CASE("end_of_lengths in packed sequences follows the length within each") {
  const numbers q{0, 5, 5, 40, 43}, k{0, 30, 40, 90, 100}, held{12, 10, 20, 10}, first{7, 10, -15, 7};
  const shape s{1, 4, 2, 43, 100, 12, 9};
  heed::softmax::options<float> how{
      .mask = heed::packed(q, k) & heed::key_lengths(held) & heed::causal(), .align = heed::end_of_lengths};
  softmax_case<float> ends(s, how);
  check(ends);
  how.align = heed::first_place(first);
  softmax_case<float> placed(s, how);
  check(placed);
  CHECK((same_bits(ends.o, placed.o) && same_bits(ends.lse, placed.lse)));
}

TEST_CASE("end_of_lengths without key_lengths is an error that names both") {
  const shape good{2, 4, 2, 5, 7, 8, 6};
  refused(good, "no mask", {"align", "end_of_lengths", "key_lengths"},
          [](call& c) { c.options.align = heed::end_of_lengths; });
  refused(good, "other masks", {"align", "end_of_lengths", "key_lengths"}, [](call& c) {
    c.options.mask = heed::causal() & heed::window(3), c.options.align = heed::end_of_lengths;
  });
  accepted(good, "with lengths", [](call& c) {
    static const numbers held{7, 0};
    c.options.mask = heed::key_lengths(held), c.options.align = heed::end_of_lengths;
  });
}

TEST_CASE("why names the place of query 0 where a place counts") {
  const numbers held{20, 37}, same_held{16, 16}, before{-3, 12};
  const shape s{2, 4, 2, 4, 64, 8, 8};
  CHECK(holds(why(s, {.mask = heed::causal()}), "query 0 at place 60"));
  CHECK(holds(why(s, {.mask = heed::causal(), .align = heed::top_left}), "query 0 at place 0"));
  CHECK(holds(why(s, {.mask = heed::window(3) & heed::key_lengths(held), .align = heed::end_of_lengths}),
              "query 0 at place 16 to 33, by sequence"));
  const std::string one =
      why(s, {.mask = heed::causal() & heed::key_lengths(same_held), .align = heed::end_of_lengths});
  CHECK((holds(one, "query 0 at place 12") && !holds(one, "12 to")));
  CHECK(holds(why(s, {.align = heed::first_place(before), .alibi_slopes = 0.5}), "query 0 at place -3 to 12"));
  CHECK(holds(why(s, {.mask = heed::prefix_lm(held)}), "query 0 at place 60"));
  CHECK(holds(why(s, {.mask = heed::visible_if([](const heed::position&) { return true; })}), "query 0 at place 60"));
  CHECK_FALSE(holds(why(s, {.mask = heed::key_lengths(held)}), "place"));
  CHECK_FALSE(holds(why(s, {.softcap = 3}), "place"));
}
