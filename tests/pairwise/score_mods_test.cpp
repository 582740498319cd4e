// SPDX-License-Identifier: BSD-3-Clause

// Score mods over regions of a tile, in both arrangements of lanes, beside one pair after the other in double.

#include "heed/pairwise/score_mods.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heed/softmax/options.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace pairwise = heed::pairwise;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
constexpr double inf = std::numeric_limits<double>::infinity();

// 3 heads, 40 queries, 70 keys of a sequence that starts at query 2, key 5 of tensors with 50 queries and 90 keys.
constexpr index_t heads = 3, queries = 50, keys = 90;
constexpr heed::detail::sequence origin{4, 0, 2, 5};

template <class T> struct terms {
  heed::softmax::options<T> options;
  std::vector<T> bias, slopes{T(0), T(0.25), T(1.5)};
};
enum : unsigned { cap = 1, alibi = 2, bias = 4, function = 8, all_terms = 16 };
constexpr index_t arrangements = 8;

template <class T> terms<T> make_terms(unsigned which, index_t arrangement) {
  terms<T> t;
  heed_test::random_numbers random(3);
  for (index_t i = 0; i < heads * queries * keys; ++i) t.bias.push_back(static_cast<T>(random.normal()));
  for (std::size_t i = 7; i < t.bias.size(); i += 11) t.bias[i] = static_cast<T>(-inf);
  if ((which & cap) != 0) t.options.softcap = 1.5;
  if ((which & alibi) != 0) t.options.alibi_slopes = t.slopes;
  if ((which & function) != 0)
    t.options.score = [](T s, const heed::position& p) {
      return s * T(0.5) + static_cast<T>(p.key % 5 + p.head + p.batch);
    };
  if ((which & bias) == 0) return t;
  const T* const x = t.bias.data();
  const index_t pairs = queries * keys;
  const heed::tensor_view<const T, 4> views[arrangements] = {
      {x, {1, heads, queries, keys}, {0, pairs, keys, 1}},
      {x, {1, 1, 1, keys}, {0, 0, 0, 1}},
      {x, {1, heads, queries, 1}, {0, queries, 1, 0}},
      {x, {1, heads, queries, keys}, {0, pairs, 1, queries}},
      {x + queries, {1, 1, queries, keys}, {0, 0, -1, 1}},
      {x + keys, {1, 1, queries, keys}, {0, 0, 1, -1}},
      {x + heads * pairs - 1, {1, heads, queries, keys}, {0, -pairs, -keys, -1}},
      {x, {1, 1, 1, 1}, {0, 0, 0, 0}}};
  t.options.bias = views[arrangement];
  return t;
}

struct lane {
  index_t head, query, place;
};

// The score, in units of log 2, of one pair whose product with scale is x
template <class T> double expected(const terms<T>& t, const lane& l, index_t key, double x) {
  if (t.options.softcap > 0) x = t.options.softcap * std::tanh(x / t.options.softcap);
  if (t.options.alibi_slopes.set())
    x -= t.options.alibi_slopes.at(l.head) * static_cast<double>(std::abs(l.place - key));
  if (const auto& b = t.options.bias; b.data() != nullptr) {
    const auto part = [&](int axis, index_t i) { return b.extent(axis) == 1 ? 0 : i * b.stride(axis); };
    const double term = static_cast<double>(
        b.data()[part(1, l.head) + part(2, origin.first_query + l.query) + part(3, origin.first_key + key)]);
    x = term == -inf ? term : x + term;
  }
  if (heed::detail::parts(t.options.score).map_value != nullptr)
    x = x * 0.5 + static_cast<double>(key % 5 + l.head + origin.number);
  return x / std::log(2.0);
}

// step 1: lanes are queries, vectors [from, to) of them; else lane i is row i % (w / step) at key i / (w / step)
template <class T>
void check_region(unsigned which, index_t arrangement, index_t step, index_t count, index_t first, index_t from) {
  constexpr index_t w = heed::simd::width<T>;
  const terms<T> t = make_terms<T>(which, arrangement);
  const auto rules = pairwise::make_score_mod_rules<T>(t.options, 16);
  CHECK(rules.any() == (which != 0));
  const index_t rows = step == 1 ? 2 * w + 1 : w / step,
                to = step == 1 ? 3 : from + 1;  // the third vector has one lane
  pairwise::score_mods<T> mods;
  std::vector<lane> lanes;
  for (index_t r = 0; r < rows; ++r) lanes.push_back({r % heads, r / heads, 30 + r / heads});
  pairwise::row_tile tile;
  tile.take(0, heads, 0, rows);
  const bool called = (which & function) != 0;
  if (step == 1)
    mods.begin(rules, origin, tile, 30, called, rows, pairwise::lane_per_row{});
  else
    mods.begin(rules, origin, tile, 30, called, (from + 1) * w,
               [&](index_t l) { return pairwise::lane_place{l % w % rows, l % w / rows}; });
  const index_t row = step == 1 ? 3 * w : w, lines = (count + step - 1) / step;
  std::vector<T> scores(at(lines * row) + 64 / sizeof(T), T(7));
  T* const aligned = scores.data() + (64 - reinterpret_cast<std::uintptr_t>(scores.data()) % 64) % 64 / sizeof(T);
  heed_test::random_numbers random(8);
  std::vector<double> x(at(lines * row));
  const double to_score = 1 / (t.options.softcap > 0 ? t.options.softcap : rules.has_function() ? 1 : std::log(2.0));
  for (index_t i = 0; i < lines * row; ++i) {
    const double score = 2 * random.normal();
    aligned[i] = static_cast<T>(score * to_score);  // as the packed queries scale it
    x[at(i)] = static_cast<double>(aligned[i]) / to_score;
  }
  const pairwise::score_region<T> region{aligned + (step == 1 ? from * w : 0), row, first, count, from, to, step};
  if (rules.any()) mods.apply(rules, region);
  double worst = 0;
  for (index_t j = 0; j < lines; ++j)
    for (index_t i = step == 1 ? from * w : 0; i < (step == 1 ? rows : w); ++i) {
      const index_t key = j * step + (step == 1 ? 0 : i / rows);
      if (key >= count) continue;
      const double got = static_cast<double>(aligned[j * row + i]);
      const double right = expected(t, lanes[at(step == 1 ? i : i % rows)], first + key, x[at(j * row + i)]);
      if (got == right) continue;
      worst = std::max(worst, std::isfinite(got) ? std::abs(got - right) / (1 + std::abs(right)) : inf);
    }
  INFO("terms " << which << ", arrangement " << arrangement << ", step " << step << ", " << count << " keys from "
                << first << ", vectors from " << from);
  CHECK(worst <= 32 * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

template <class T> void check_all() {
  for (unsigned which = 0; which < all_terms; ++which)
    for (index_t arrangement = 0; arrangement < ((which & bias) != 0 ? arrangements : 1); ++arrangement)
      for (const index_t first : {0, 3, 17})
        for (const index_t count : {1, 5, 16, 33, 48}) {
          for (const index_t from : {0, 1, 2}) check_region<T>(which, arrangement, 1, count, first, from);
          for (index_t step = 2; step <= heed::simd::width<T>; step *= 2)
            check_region<T>(which, arrangement, step, count, first, 0);
          check_region<T>(which, arrangement, heed::simd::width<T>, count, first, 1);
        }
}

}  // namespace

TEST_CASE("score mods, float: every set of terms over every arrangement of the bias", "[score_mods]") {
  check_all<float>();
}
TEST_CASE("score mods, double: every set of terms over every arrangement of the bias", "[score_mods]") {
  check_all<double>();
}

TEST_CASE("rules: units, limits of the soft-cap, scale", "[score_mods]") {
  using options = heed::softmax::options<float>;
  const auto rules = [](const options& o) { return pairwise::make_score_mod_rules<float>(o, 16); };
  CHECK(rules({}).query_factor == Approx(0.25 / std::log(2.0)));
  CHECK(rules({.scale = 0}).query_factor == 0);
  CHECK(rules({.score = [](float s, const heed::position&) { return s; }}).query_factor == 0.25f);
  CHECK(rules({.softcap = 2}).query_factor == 0.125f);
  CHECK(rules({.softcap = 2}).cap == Approx(2 / std::log(2.0)));
  CHECK(rules({.softcap = 2, .score = [](float s, const heed::position&) { return s; }}).cap == 2);
  CHECK(rules({.softcap = inf}).cap == 0);
  CHECK_FALSE(rules({.softcap = inf}).any());
  for (const double scale : {1e300, -1e300}) CHECK(std::isfinite(rules({.scale = scale}).query_factor));
  for (const double tiny : {1e-30, 1e-60, 1e-300}) {
    CHECK(rules({.softcap = tiny}).cap > 0);
    CHECK(std::isfinite(rules({.softcap = tiny}).query_factor));
  }
}

TEST_CASE("a bias of -inf hides a NaN score, a NaN bias reaches the score", "[score_mods]") {
  constexpr index_t w = heed::simd::width<float>;
  constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
  const float terms[] = {static_cast<float>(-inf), 0, nan_value, 1};
  const heed::softmax::options<float> o{.bias = {terms, {1, 1, 1, 4}, {0, 0, 0, 1}}};
  const auto rules = pairwise::make_score_mod_rules<float>(o, 16);
  pairwise::row_tile tile;
  tile.take(0, 1, 0, 1);
  pairwise::score_mods<float> mods;
  mods.begin(rules, {}, tile, 0, false, 1, pairwise::lane_per_row{});
  alignas(64) float scores[4 * w];
  std::fill_n(scores, 4 * w, nan_value);
  scores[3 * w] = 2;
  mods.apply(rules, {scores, w, 0, 4, 0, 1});
  CHECK(scores[0] == -HUGE_VALF);
  CHECK((std::isnan(scores[w]) && std::isnan(scores[2 * w])));
  CHECK(scores[3 * w] == Approx(2 + 1 / std::log(2.0)));
}
