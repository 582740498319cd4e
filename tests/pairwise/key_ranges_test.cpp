// SPDX-License-Identifier: BSD-3-Clause

// Spans and runs against the rule itself, pair by pair.

#include "heed/pairwise/key_ranges.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace pairwise = heed::pairwise;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

// The mask as its definition says, key by key
bool sees(const pairwise::key_rule& rule, index_t place, index_t j) {
  if (j >= rule.keys) return false;
  if (rule.right >= 0 && j > place + rule.right) return false;
  if (rule.prefix >= 0 && j > place && j >= rule.prefix) return false;
  return rule.left < 0 || j >= place - rule.left || j < rule.keep_first;
}

pairwise::lane_ranges at_places(const pairwise::key_rule& rule, const std::vector<index_t>& places, index_t width) {
  pairwise::lane_ranges p;
  p.lanes = static_cast<index_t>(places.size());
  p.keep_first = rule.keep_first;
  for (index_t l = 0; l < p.lanes; ++l) p.lane[l] = rule.at(places[at(l)]);
  p.complete(width);
  return p;
}

pairwise::key_runs runs_of(const pairwise::lane_ranges& p, index_t first, index_t keys, index_t vectors, index_t step) {
  pairwise::key_runs runs;
  const auto classify = [&](index_t a, index_t b, index_t) {
    return [&p, a, b](index_t vector) { return p.classify(vector, a, b); };
  };
  pairwise::make_runs(first, keys, vectors, step, classify, runs);
  return runs;
}

struct pairs {  // which lanes see which keys
  const pairwise::key_rule& rule;
  const std::vector<index_t>& places;
  index_t seen_by(index_t first, index_t end, index_t j) const {  // how many of the lanes [first, end)
    index_t n = 0;
    for (index_t l = first; l < std::min(end, static_cast<index_t>(places.size())); ++l)
      n += sees(rule, places[at(l)], j);
    return n;
  }
};

// Everything that must hold of one tile; the keys that spans hold without need are counted.
index_t check_tile(const pairwise::key_rule& rule, const std::vector<index_t>& places, index_t m, index_t width) {
  const pairwise::lane_ranges p = at_places(rule, places, width);
  const index_t lanes = p.lanes, vectors = (lanes + width - 1) / width;
  const pairs seen{rule, places};
  const pairwise::key_spans spans = pairwise::make_spans(p);
  std::vector<int> in_span(at(m), 0);
  index_t last_end = 0, needless = 0;
  bool ordered = true, full_is_full = true, rule_is_definition = true;
  for (index_t l = 0; l < lanes; ++l)
    for (index_t j = 0; j < m; ++j) {
      const pairwise::visible v = p.lane[l];
      rule_is_definition =
          rule_is_definition && ((v.lo <= j || j < p.keep_first) && j < v.hi) == sees(rule, places[at(l)], j);
    }
  for (index_t s = 0; s < spans.count; ++s) {
    const pairwise::key_span span = spans.span[s];
    ordered = ordered && last_end <= span.first && span.first < span.end && span.end <= m;
    if (!ordered) break;
    last_end = span.end;
    index_t visible = 0;
    for (index_t j = span.first; j < span.end; ++j) {
      in_span[at(j)] = 1;
      const index_t n = seen.seen_by(0, lanes, j);
      visible += n, needless += n == 0;
      full_is_full = full_is_full && (span.partial || n == lanes);
    }
    CHECK(visible > 0);  // a span that nobody sees is never visited
  }
  CHECK(rule_is_definition);
  CHECK(ordered);
  CHECK(full_is_full);
  bool all_in_spans = true;
  for (index_t j = 0; j < m; ++j) all_in_spans = all_in_spans && (in_span[at(j)] || seen.seen_by(0, lanes, j) == 0);
  CHECK(all_in_spans);

  bool covered = true, inside = true, tight = true, whole = true, ranges = true;
  for (index_t s = 0; s < spans.count; ++s) {
    const pairwise::key_span span = spans.span[s];
    if (!span.partial) continue;
    for (const index_t step : {index_t(1), index_t(4), index_t(16)})
      for (index_t first = span.first; first < span.end; first += 48) {
        const index_t keys = std::min<index_t>(48, span.end - first);
        const pairwise::key_runs runs = runs_of(p, first, keys, vectors, step);
        inside = inside && runs.count <= pairwise::key_runs::capacity;
        index_t end = 0;
        for (index_t r = 0; r < runs.count; ++r) {
          const pairwise::key_run run = runs.run[r];
          inside = inside && end <= run.first && 0 < run.keys && run.first + run.keys <= keys && 0 <= run.from &&
                   run.from < run.to && run.to <= vectors;
          whole = whole && run.first % step == 0 && (run.keys % step == 0 || run.first + run.keys == keys);
          end = run.first + run.keys;
        }
        for (index_t v = 0; v < vectors; ++v) {
          index_t first_seen = keys, end_seen = 0, first_run = keys, end_run = 0;
          for (index_t j = 0; j < keys; ++j) {
            bool in_run = false;
            for (index_t r = 0; r < runs.count; ++r) {
              const pairwise::key_run run = runs.run[r];
              in_run = in_run || (run.first <= j && j < run.first + run.keys && run.from <= v && v < run.to);
            }
            if (in_run) first_run = std::min(first_run, j), end_run = j + 1;
            if (seen.seen_by(v * width, (v + 1) * width, first + j) == 0) continue;
            covered = covered && in_run;
            first_seen = std::min(first_seen, j), end_seen = j + 1;
          }
          ranges = ranges && runs.first_key[v] == first_run && runs.end_key[v] == end_run;
          covered =
              covered && (end_seen == 0 || (runs.first_key[v] <= first_seen && end_seen <= runs.end_key[v]));
        }
        // the outermost vectors of a step see something of it
        for (index_t r = 0; r < runs.count; ++r) {
          const pairwise::key_run run = runs.run[r];
          for (const index_t v : {run.from, run.to - 1}) {
            index_t n = 0;
            for (index_t j = run.first; j < run.first + run.keys; ++j)
              n += seen.seen_by(v * width, (v + 1) * width, first + j);
            tight = tight && n > 0;
          }
        }
      }
  }
  CHECK(covered);
  CHECK(inside);
  CHECK(whole);
  CHECK(ranges);
  CHECK(tight);
  return needless;
}

std::vector<index_t> in_a_row(index_t first, index_t lanes) {
  std::vector<index_t> places(at(lanes));
  for (index_t l = 0; l < lanes; ++l) places[at(l)] = first + l;
  return places;
}

}  // namespace

TEST_CASE("spans and runs hold every visible pair: random masks", "[key_ranges]") {
  heed_test::random_numbers random(5);
  for (int trial = 0; trial < 3000; ++trial) {
    const index_t m = 1 + random.below(200), width = index_t(1) << random.below(5);
    const index_t most = std::min(pairwise::lane_capacity, width * pairwise::vector_capacity);
    const index_t lanes = 1 + random.below(static_cast<std::int32_t>(most));
    pairwise::key_rule rule{.keys = m};
    if (random.below(2)) rule.keys = random.below(static_cast<std::int32_t>(m) + 1);
    if (random.below(2)) rule.left = random.below(2) ? random.below(12) : random.below(150);
    if (random.below(2)) rule.right = random.below(2) ? random.below(3) : random.below(150);
    if (rule.left >= 0 && random.below(2)) rule.keep_first = random.below(20);
    if (random.below(3) == 0) rule.prefix = random.below(static_cast<std::int32_t>(m) + 1);
    const index_t first = random.below(300) - 80;  // some lanes see nothing
    std::vector<index_t> places = in_a_row(first, lanes);
    const bool gathered = random.below(3) == 0;
    if (gathered)  // as mixture-of-head does: ascending with gaps
      for (index_t l = 1; l < lanes; ++l) places[at(l)] = places[at(l - 1)] + 1 + random.below(5);
    INFO("trial " << trial << ": keys " << rule.keys << " of " << m << ", left " << rule.left << ", right "
                  << rule.right << ", keep_first " << rule.keep_first << ", prefix " << rule.prefix << ", first place "
                  << places[0] << ", lanes " << lanes << ", width " << width);
    const index_t needless = check_tile(rule, places, m, width);
    if (!gathered && rule.keep_first == 0 && rule.left < 0) CHECK(needless == 0);
  }
}

TEST_CASE("lanes with equal places, as heads of a group have them", "[key_ranges]") {
  std::vector<index_t> places;
  for (int head = 0; head < 4; ++head)
    for (index_t i = 0; i < 8; ++i) places.push_back(40 + i);
  CHECK(check_tile({.keys = 64, .right = 0}, places, 64, 8) == 0);
  CHECK(check_tile({.keys = 44, .left = 5, .right = 0}, places, 64, 16) == 0);
}

TEST_CASE("no mask is one full span, no key is none", "[key_ranges]") {
  const pairwise::lane_ranges p = at_places({.keys = 100}, in_a_row(7, 20), 16);
  const pairwise::key_spans spans = pairwise::make_spans(p);
  REQUIRE(spans.count == 1);
  CHECK(spans.span[0].first == 0);
  CHECK(spans.span[0].end == 100);
  CHECK_FALSE(spans.span[0].partial);
  CHECK(pairwise::make_spans(at_places({.keys = 0}, in_a_row(0, 20), 16)).count == 0);
  CHECK(pairwise::make_spans(at_places({.keys = 100, .right = 0}, in_a_row(-30, 20), 16)).count == 0);
}

TEST_CASE("window with keep_first leaves the gap out", "[key_ranges]") {
  const pairwise::key_spans spans =
      pairwise::make_spans(at_places({.keys = 1000, .left = 10, .right = 0, .keep_first = 4}, in_a_row(500, 32), 16));
  REQUIRE(spans.count >= 2);
  CHECK(spans.span[0].first == 0);
  CHECK(spans.span[0].end == 4);
  CHECK_FALSE(spans.span[0].partial);
  CHECK(spans.span[1].first == 490);
  CHECK(spans.span[spans.count - 1].end == 532);
}

TEST_CASE("a prefix is one full span, then the diagonal", "[key_ranges]") {
  const pairwise::key_spans spans =
      pairwise::make_spans(at_places({.keys = 1000, .prefix = 300}, in_a_row(290, 32), 16));
  REQUIRE(spans.count >= 2);
  CHECK(spans.span[0].first == 0);
  CHECK(spans.span[0].end >= 299);
  CHECK_FALSE(spans.span[0].partial);
  CHECK(spans.span[spans.count - 1].end == 322);
  const pairwise::key_spans inside =
      pairwise::make_spans(at_places({.keys = 1000, .prefix = 300}, in_a_row(100, 32), 16));
  REQUIRE(inside.count == 1);  // nobody is beyond it
  CHECK(inside.span[0].end == 300);
  CHECK_FALSE(inside.span[0].partial);
  CHECK(pairwise::make_spans(at_places({.keys = 50, .prefix = 0}, in_a_row(-40, 20), 16)).count == 0);
}

TEST_CASE("places and rules at the ends of their ranges", "[key_ranges]") {
  constexpr index_t least = std::numeric_limits<std::int32_t>::min(), most = std::numeric_limits<std::int32_t>::max();
  const std::int32_t lengths[] = {7};
  const heed::mask far = heed::window(std::numeric_limits<index_t>::max(), std::numeric_limits<index_t>::max(),
                                      std::numeric_limits<index_t>::max());
  for (const heed::mask& mask : {far, heed::causal(), far & heed::causal(), heed::window(3, 1, 5), heed::window(-1, -1),
                                 heed::prefix_lm(lengths), heed::key_lengths(lengths) & heed::window(2)}) {
    const pairwise::key_rule rule = pairwise::make_rule(heed::detail::parts(mask), 0, 20);
    for (const index_t first : {least, least + 1, index_t(-5), index_t(0), index_t(19), most - 40, most})
      for (index_t i = 0; i < 3; ++i) {
        const pairwise::visible v = rule.at(first + i);
        bool right = true;
        for (index_t j = 0; j < 20; ++j)
          right = right && ((v.lo <= j || j < rule.keep_first) && j < v.hi) == sees(rule, first + i, j);
        CHECK(right);
      }
  }
}

TEST_CASE("the diagonal of a causal square is a staircase", "[key_ranges]") {
  constexpr index_t width = 16, lanes = 64, first = 128;
  const pairwise::lane_ranges p = at_places({.keys = 1000, .right = 0}, in_a_row(first, lanes), width);
  const pairwise::key_spans spans = pairwise::make_spans(p);
  REQUIRE(spans.count == 2);
  CHECK(spans.span[0].first == 0);
  CHECK(spans.span[0].end == first);  // the key at the first place is the first of the partial span
  CHECK_FALSE(spans.span[0].partial);
  CHECK(spans.span[1].first == first);
  CHECK(spans.span[1].end == first + lanes);
  CHECK(spans.span[1].partial);
  const pairwise::key_runs runs = runs_of(p, first, lanes, lanes / width, width);
  REQUIRE(runs.count == lanes / width);
  for (index_t r = 0; r < runs.count; ++r) {
    CHECK(runs.run[r].first == r * width);
    CHECK(runs.run[r].keys == width);
    CHECK(runs.run[r].from == r);
    CHECK(runs.run[r].to == lanes / width);
    CHECK(runs.first_key[r] == 0);
    CHECK(runs.end_key[r] == (r + 1) * width);
  }
}

TEST_CASE("complete repeats the last lane to the end of its vector", "[key_ranges]") {
  const pairwise::lane_ranges p = at_places({.keys = 50, .left = 3, .right = 0}, in_a_row(10, 5), 8);
  for (index_t l = 5; l < 8; ++l) {
    CHECK(p.lane[l].lo == p.lane[4].lo);
    CHECK(p.lane[l].hi == p.lane[4].hi);
  }
  CHECK(p.vector[0].min_hi == 11);
  CHECK(p.vector[0].max_hi == 15);
  CHECK(p.all.min_lo == 7);
  CHECK(p.all.max_lo == 11);
}

TEST_CASE("keys that queries in a row do not see", "[key_ranges]") {
  heed_test::random_numbers random(6);
  index_t hidden = 0, passed = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    const index_t m = 1 + random.below(100);
    pairwise::key_rule rule{.keys = m};
    if (random.below(2)) rule.left = random.below(40), rule.keep_first = random.below(2) * random.below(9);
    if (random.below(2)) rule.right = random.below(2) * random.below(40);
    if (random.below(3) == 0) rule.prefix = random.below(static_cast<std::int32_t>(m) + 1);
    const index_t first = random.below(200) - 50, last = first + random.below(70);
    const index_t a = random.below(static_cast<std::int32_t>(m));
    const index_t b = a + 1 + random.below(static_cast<std::int32_t>(m - a));
    bool seen = false;
    for (index_t place = first; place <= last; ++place)
      for (index_t j = a; j < b; ++j) seen = seen || sees(rule, place, j);
    INFO("trial " << trial << ": keys " << m << ", left " << rule.left << ", right " << rule.right << ", prefix "
                  << rule.prefix << ", places " << first << " to " << last << ", keys " << a << " to " << b);
    const bool hides = pairwise::hides_keys(rule, first, last, a, b);
    CHECK_FALSE((hides && seen));
    hidden += seen ? 0 : 1, passed += hides ? 1 : 0;
  }
  CHECK((hidden > 300 && passed > hidden * 9 / 10));
}
