// SPDX-License-Identifier: BSD-3-Clause

// What plan_forward says of given gates: tiles, lanes, heads with few rows or none; and what is counted is what is run.

#include <algorithm>
#include <string>

#include "support/catch.hpp"
#include "support/mixture_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

std::string why(const mixture_case<float>& x) { return x.mix_plan().why.data(); }
std::string path(const mixture_case<float>& x) { return x.mix_plan().path; }
bool says(const std::string& text, const std::string& word) { return text.find(word) != std::string::npos; }
std::string number(index_t x) { return std::to_string(x); }

// The lanes of a tile and those of one vector; vectors are found by what a row more adds to the lanes.
index_t tile_lanes() { return mixture_case<float>({1, 1, 1, 300, 8, 8, 8}, gating::all_ones).mix_plan().query_tile; }
index_t few_rows() {  // from this many rows on, queries go in lanes
  index_t n = 1;
  while (says(path(mixture_case<float>({1, 1, 1, n, 8, 8, 8}, gating::all_ones)), "head dim")) ++n;
  return n;
}

// One head of 1000 tokens, the first `active` of them on; every third token beyond the last is not
mixture_case<float> with_active(index_t active) {
  mixture_case<float> x({1, 1, 1, 1000, 8, 8, 8}, gating::none);
  for (index_t i = 0; i < active; ++i) x.gates(0, 0, 999 - i) = 1;
  return x;
}

}  // namespace

TEST_CASE("all gates on: the tiles of softmax") {
  for (const shape& s : {shape{2, 4, 2, 90, 30, 8, 8}, shape{1, 3, 3, 500, 30, 8, 8}, shape{2, 8, 2, 2, 30, 8, 8}}) {
    const mixture_case<float> x(s, gating::all_ones);
    const heed::plan mine = x.mix_plan(), theirs = x.plan();
    INFO(mine.path << ": " << mine.why.data());
    CHECK(mine.tasks == theirs.tasks);
    CHECK(mine.key_tile == theirs.key_tile);
    CHECK(std::string(mine.isa) == theirs.isa);
    CHECK(says(mine.why.data(), number(s.batch * s.heads * s.queries) + " of " + number(s.batch * s.heads * s.queries) +
                                    " rows active"));
  }
}

TEST_CASE("tiles and lanes follow the active rows, the last tile has as many vectors as it needs") {
  const index_t lanes = tile_lanes(), few = few_rows();
  index_t vector = 0;  // lanes of one
  for (index_t active = few; active <= 3 * lanes + 1; ++active) {
    const mixture_case<float> x = with_active(active);
    const heed::plan plan = x.mix_plan();
    INFO(plan.why.data());
    CHECK(plan.tasks == (active + lanes - 1) / lanes);
    CHECK(says(plan.why.data(), number(active) + " of 1000 rows active"));
    const std::string text = plan.why.data(), before = " of ", after = " lanes filled";
    const auto end = text.find(after), begin = text.rfind(before, end) + before.size();
    const index_t filled = std::stol(text.substr(begin, end - begin));
    CHECK((filled >= active && filled - active < lanes));
    if (active == lanes + 1) vector = filled - lanes;
    if (active > lanes) CHECK(filled == (active + vector - 1) / vector * vector);
  }
  CHECK((vector >= 2 && lanes % vector == 0));
}

TEST_CASE("few rows, none, and heads of each kind") {
  const index_t few = few_rows();
  CHECK(says(path(with_active(few)), "active queries in lanes"));
  CHECK(path(with_active(few - 1)) == "mixture_of_head: head dim in lanes");
  CHECK(path(with_active(1)) == "mixture_of_head: head dim in lanes");
  CHECK(path(with_active(0)) == "mixture_of_head: nothing active");
  CHECK(with_active(1).mix_plan().tasks == 1);
  CHECK(with_active(0).mix_plan().tasks == 1);  // which clears the rows
  CHECK(says(why(with_active(0)), "0 of 1000 rows active; none in 1"));

  mixture_case<float> x({1, 4, 4, 200, 8, 8, 8}, gating::none);
  for (index_t i = 0; i < 200; ++i) x.gates(0, 0, i) = 1;
  x.gates(0, 1, 77) = 1, x.gates(0, 3, 5) = -1, x.gates(0, 3, 6) = 1;
  INFO(why(x));
  CHECK(says(path(x), "active queries in lanes, head dim in lanes where they are few"));
  CHECK(says(why(x), "203 of 800 rows active"));
  CHECK(says(why(x), "few in 2 key/value heads"));
  CHECK(says(why(x), "none in 1"));
  CHECK(x.mix_plan().tasks == (200 + tile_lanes() - 1) / tile_lanes() + 3);
}

TEST_CASE("heads of a group share tiles") {
  const index_t lanes = tile_lanes();
  mixture_case<float> together({1, 8, 1, lanes, 8, 8, 8}, gating::none), apart({1, 8, 8, lanes, 8, 8, 8}, gating::none);
  for (index_t h = 0; h < 8; ++h)
    for (index_t i = h % 2; i < lanes; i += 2) together.gates(0, h, i) = apart.gates(0, h, i) = 1;  // half of each
  CHECK(together.mix_plan().tasks == 4);
  CHECK(apart.mix_plan().tasks == 8);
  check_mixture(together);
}

TEST_CASE("a gate of -0 is off, of NaN is on") {
  mixture_case<float> x({1, 1, 1, 100, 8, 8, 8}, gating::all_ones);
  x.gates(0, 0, 3) = -0.f, x.gates(0, 0, 4) = 0.f, x.gates(0, 0, 5) = std::numeric_limits<float>::quiet_NaN();
  CHECK(says(why(x), "98 of 100 rows active"));
}

TEST_CASE("why names the options, even where everything is asked for") {
  const shape s{1, 4, 2, 90, 60, 8, 8};
  const option_parts<float> parts(s);
  std::vector<const option_parts<float>::part*> chosen;
  for (const auto& part : parts.all)
    if (chosen.empty() || chosen.back()->kind != part.kind) chosen.push_back(&part);
  const mixture_case<float> x(s, gating::random, parts.of(chosen, parts.whole()));
  INFO(why(x));
  for (const char* word : {"rows active", "tiles", "softcap", "alibi_slopes", "bias", "score", "causal", "window",
                           "key_lengths", "prefix_lm", "segments", "keep", "visible_if", "sink_logits"})
    CHECK(says(why(x), word));
}
