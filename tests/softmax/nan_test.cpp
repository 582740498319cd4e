// SPDX-License-Identifier: BSD-3-Clause

// Hidden keys have no effect whatever they hold; visible ones reach the output whatever they hold.

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_masks.hpp"

using namespace heed_test;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr float huge = 1e18f;  // finite, and so are its scores

// Several rows in lanes, few rows with the head dim in lanes, keys over several tiles.
constexpr shape shapes[] = {{1, 2, 1, 37, 53, 20, 12},
                            {1, 1, 1, 150, 300, 8, 17},
                            {1, 1, 1, 2, 300, 16, 9},
                            {2, 3, 1, 1, 70, 8, 8},
                            {1, 7, 1, 1, 150, 24, 33}};

// The keys that some row sees, and the rows that see a key.
template <class F> void each_visible(const softmax_case<float>& x, F f) {  // f(batch, head, query, key)
  heed::reference::softmax::detail::each_row(x.q.cview(), x.k.cview(), x.v.cview(), x.options,
                                             [&](const auto& s, index_t h, index_t i, const auto& scores, const auto&) {
                                               for (index_t j = 0; j < scores.size(); ++j)
                                                 if (!(scores(j) == -HUGE_VAL)) f(s.batch, h, i, j);
                                             });
}

// Keys that no row of the case sees.
std::vector<std::vector<bool>> unseen(const softmax_case<float>& x) {
  std::vector<std::vector<bool>> keys(static_cast<std::size_t>(x.s.batch),
                                      std::vector<bool>(static_cast<std::size_t>(x.s.keys), true));
  each_visible(x, [&](index_t b, index_t, index_t, index_t j) {
    keys[static_cast<std::size_t>(b)][static_cast<std::size_t>(j)] = false;
  });
  return keys;
}

bool finite(const buffer<float>& x) {
  bool all = true;
  x.each([&](const float& element) { all = all && std::isfinite(element); });
  return all;
}

}  // namespace

TEST_CASE("keys that no row sees hold anything, without effect") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        INFO(to_string(s) << ", " << mask_name << ", " << place_name);
        softmax_case<float> clean(s, {.mask = mask, .align = align});
        clean.forward();
        const auto hidden = unseen(clean);
        for (const float bad : {not_a_number, inf, -inf, huge}) {
          softmax_case<float> x(s, {.mask = mask, .align = align});
          for (index_t b = 0; b < s.batch; ++b)
            for (index_t j = 0; j < s.keys; ++j) {
              if (!hidden[static_cast<std::size_t>(b)][static_cast<std::size_t>(j)]) continue;
              for (index_t h = 0; h < s.kv_heads; ++h) {
                for (index_t d = 0; d < s.dim; ++d) x.k(b, h, j, d) = bad;
                for (index_t e = 0; e < s.value_dim; ++e) x.v(b, h, j, e) = bad;
              }
            }
          x.forward();
          const bool same = same_bits(x.o, clean.o) && same_bits(x.lse, clean.lse);
          CHECK(same);
        }
      }
  }
}

// A key that some rows see and others do not: the others keep their result to the tolerance (a masked path may round
// differently), the seeing rows show it. One key at a time, in k or in v.
TEST_CASE("a bad key reaches exactly the rows that see it") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (std::size_t place = 0; place < 2; ++place) {
        const heed::softmax::options<float> options{.mask = mask, .align = set.alignments[place].align};
        for (const index_t key : {index_t{0}, s.keys / 2, s.keys - 2, s.keys - 1})
          for (int kind = 0; kind < 3; ++kind) {
            INFO(mask_name << ", " << set.alignments[place].name << ", key " << key
                           << (kind == 0   ? ": NaN in k"
                               : kind == 1 ? ": NaN in v"
                                           : ": inf in v"));
            softmax_case<float> x(s, options);
            if (kind == 0)
              x.k(0, 0, key, s.dim / 2) = not_a_number;
            else
              x.v(0, 0, key, s.value_dim / 2) = kind == 1 ? not_a_number : inf;
            check(x);
          }
      }
  }
}

TEST_CASE("many values that are not finite reach exactly the rows that see them") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const int one_of : {1, 3, 40}) {
        INFO(mask_name << ", one of " << one_of);
        softmax_case<float> x(s, {.mask = mask});
        random_numbers random(7);
        x.v.each([&](float& a) {
          if (random.below(one_of) > 0) return;
          const std::int32_t kind = random.below(9);
          a = kind == 0 ? not_a_number : kind < 5 ? inf : -inf;
        });
        check(x);
      }
  }
}

TEST_CASE("a NaN query makes its own row NaN and no other") {
  for (const shape& s : shapes) {
    softmax_case<float> x(s, {.mask = heed::causal()});
    x.q(0, 0, s.queries / 2, 0) = not_a_number;
    check(x);
    CHECK(std::isnan(x.o(0, 0, s.queries / 2, 0)));
    CHECK(std::isnan(x.lse(0, 0, s.queries / 2)));
  }
}

TEST_CASE("a visible score of +inf makes the row NaN, -inf hides the key") {
  for (const shape& s : shapes) {
    for (const bool positive : {true, false}) {
      softmax_case<float> x(s);
      const index_t key = s.keys / 2;
      x.q.each([](float& element) { element = std::abs(element) + 0.01f; });
      for (index_t h = 0; h < s.kv_heads; ++h) x.k(0, h, key, 1) = positive ? inf : -inf;
      check(x);
      CHECK(std::isnan(x.o(0, 0, 0, 0)) == positive);
    }
    softmax_case<float> none(s);  // every score -inf: no key is visible
    none.q.each([](float& element) { element = std::abs(element) + 0.01f; });
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.kv_heads; ++h)
        for (index_t j = 0; j < s.keys; ++j) none.k(b, h, j, 0) = -inf;
    check(none);
    CHECK(none.o(0, 0, 0, 0) == 0);
    CHECK(none.lse(0, 0, 0) == -inf);
  }
}

TEST_CASE("a hidden huge score does not underflow the visible ones") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks) {
      const heed::softmax::options<float> options{.mask = mask};
      for (const index_t key : {index_t{0}, s.keys / 3, s.keys / 2, s.keys - 1}) {
        INFO(mask_name << ", key " << key);
        softmax_case<float> x(s, options);
        x.q.each([](float& element) { element = std::abs(element) + 0.01f; });
        for (index_t h = 0; h < s.kv_heads; ++h)
          for (index_t d = 0; d < s.dim; ++d) x.k(0, h, key, d) = 3e4f;  // scores around 1e5
        check(x);
        CHECK(finite(x.o));
      }
    }
  }
}

TEST_CASE("large scores of either sign") {
  for (const shape& s : shapes)
    for (const double scale : {30.0, -30.0, 1e3, 1e6}) {
      INFO("scale " << scale);
      softmax_case<float> x(s, {.scale = scale});
      check(x);
      CHECK(finite(x.o));
    }
}

TEST_CASE("all scores of a row far below or above zero") {
  for (const shape& s : shapes)
    for (const float level : {-2e4f, 2e4f}) {
      softmax_case<float> x(s, {.scale = 1});
      for (index_t b = 0; b < s.batch; ++b) {
        for (index_t h = 0; h < s.heads; ++h)
          for (index_t i = 0; i < s.queries; ++i) x.q(b, h, i, 0) = 1;
        for (index_t h = 0; h < s.kv_heads; ++h)
          for (index_t j = 0; j < s.keys; ++j) x.k(b, h, j, 0) = level;
      }
      check(x);
    }
}
