// SPDX-License-Identifier: BSD-3-Clause

// Masks and alignments as data: what each factory stores, what `&` joins and refuses, and visible_if over a tile.

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "support/catch.hpp"

namespace {

using heed::index_t;
using heed::mask;
using heed::position;
using heed::detail::mask_parts;

static_assert(std::is_trivially_copyable_v<mask> && std::is_nothrow_default_constructible_v<mask>);
static_assert(!std::is_convertible_v<mask_parts, mask>);
static_assert(!std::is_constructible_v<mask, bool> && !std::is_constructible_v<mask, mask (*)()> &&
              !std::is_constructible_v<mask, bool (*)(const position&)> && !std::is_constructible_v<mask, float[3]>);
static_assert(alignof(heed::detail::function_bytes) == 16 && sizeof(heed::detail::function_bytes) == 32);

struct big {
  std::array<int, 9> captured;
  bool operator()(const position&) const { return true; }
};
struct owning {
  std::shared_ptr<int> captured;
  bool operator()(const position&) const { return true; }
};
struct changing {
  int count;
  bool operator()(const position&) { return ++count > 2; }
};
struct fits {
  std::array<int, 8> captured;
  bool operator()(const position&) const { return true; }
};
template <class F> constexpr bool accepted = requires(F f) { heed::visible_if(f); };
static_assert(accepted<fits> && accepted<bool (*)(const position&)> && accepted<bool (&)(const position&)>);
template <class F> constexpr bool stored = heed::detail::predicate<F>;  // else visible_if says what it takes
static_assert(!stored<big> && !stored<owning> && !stored<changing> && !stored<int> && stored<fits>);

const mask_parts& parts(const mask& m) { return heed::detail::parts(m); }
std::string conflict(const mask& m) { return parts(m).conflict == nullptr ? "" : parts(m).conflict; }

struct window_values {
  index_t left, right, keep_first;
  bool operator==(const window_values&) const = default;
};
window_values window_of(const mask& m) { return {parts(m).left, parts(m).right, parts(m).keep_first}; }

TEST_CASE("each mask is its own kind with its own numbers") {
  std::vector<std::int32_t> a{1, 2, 3}, b{4, 5};
  CHECK(parts(mask()).present == 0);
  CHECK(parts(heed::causal()).present == mask_parts::causal);
  CHECK(parts(heed::window(3)).present == mask_parts::window);
  CHECK(window_of(heed::window(3)) == window_values{3, 0, 0});
  CHECK(window_of(heed::window(-1, 7, 2)) == window_values{-1, 7, 2});
  CHECK(window_of(heed::window(-5, -9)) == window_values{-5, -9, 0});  // the call refuses them, not the mask
  CHECK(parts(heed::key_lengths(a)).present == mask_parts::key_lengths);
  CHECK(parts(heed::key_lengths(a)).lengths.data() == a.data());
  CHECK(parts(heed::packed(a, b)).present == mask_parts::packed);
  CHECK(parts(heed::packed(a, b)).query_offsets.data() == a.data());
  CHECK(parts(heed::packed(a, b)).key_offsets.size() == 2);
  CHECK(parts(heed::prefix_lm(b)).present == mask_parts::prefix_lm);
  CHECK(parts(heed::prefix_lm(b)).prefix.data() == b.data());
  CHECK(parts(heed::segments(a, b)).present == mask_parts::segments);
  CHECK(parts(heed::segments(a, b)).query_ids.extent(1) == 3);
  CHECK(parts(heed::segments(a, b)).key_ids.extent(1) == 2);
  const Eigen::Matrix<bool, -1, -1, Eigen::RowMajor> visible = Eigen::Matrix<bool, -1, -1>::Constant(3, 4, true);
  CHECK(parts(heed::keep(visible)).present == mask_parts::keep);
  CHECK(parts(heed::keep(visible)).keep_tensor.data() == visible.data());
  CHECK(parts(heed::keep(visible)).keep_tensor.extent(2) == 3);
  CHECK(parts(heed::visible_if(fits{})).present == mask_parts::visible_if);
}

TEST_CASE("& of different kinds keeps both, in either order; no mask changes nothing") {
  std::vector<std::int32_t> a{1, 2, 3}, b{4, 5};
  const auto all = [](const position&) { return true; };
  const mask m = heed::visible_if(all) & heed::segments(a, b) & heed::prefix_lm(b) & heed::packed(a, b) &
                 heed::key_lengths(a) & heed::window(2, 1, 4) & heed::causal() & mask();
  const bool keep_it[2] = {true, false};
  const mask every = heed::keep(keep_it) & m;
  CHECK(parts(every).present == 255);
  CHECK(conflict(every) == "");
  CHECK(window_of(every) == window_values{2, 1, 4});
  CHECK(parts(every).lengths.data() == a.data());
  CHECK(parts(every).query_offsets.data() == a.data());
  CHECK(parts(every).key_offsets.data() == b.data());
  CHECK(parts(every).prefix.data() == b.data());
  CHECK(parts(every).query_ids.data() == a.data());
  CHECK(parts(every).key_ids.data() == b.data());
  CHECK(parts(every).keep_tensor.data() == keep_it);
  CHECK(parts(every).hide_float != nullptr);
  CHECK(parts(every).hide_double != nullptr);
  CHECK(window_of(heed::window(2) & heed::causal()) == window_values{2, 0, 0});
  CHECK(parts(heed::causal() & heed::window(2)).present == (mask_parts::causal | mask_parts::window));
  CHECK(parts(mask() & mask()).present == 0);
  CHECK(conflict(heed::causal() & heed::causal()) == "");
  CHECK(parts(heed::causal() & heed::causal()).present == mask_parts::causal);
}

bool sees(const window_values& w, index_t place, index_t key) {
  return (w.left == -1 || place - w.left <= key || key < w.keep_first) && (w.right == -1 || key <= place + w.right);
}

TEST_CASE("two windows join to exactly their intersection, or say that they cannot") {
  const std::string text = "two windows with different keep_first in one mask";
  const std::array<index_t, 4> limits{-1, 0, 2, 5};
  int joined = 0, refused = 0;
  std::vector<window_values> windows;
  for (const index_t left : limits)
    for (const index_t right : limits)
      for (const index_t first : {0, 1, 3}) windows.push_back({left, right, first});
  for (const window_values& a : windows)
    for (const window_values& b : windows) {
      const mask both = heed::window(a.left, a.right, a.keep_first) & heed::window(b.left, b.right, b.keep_first);
      const bool may_refuse = a.left != -1 && b.left != -1 && a.keep_first != b.keep_first;
      if (may_refuse) {
        refused += conflict(both) == text;
        continue;
      }
      bool same = conflict(both).empty();
      for (index_t place = -3; place < 12; ++place)
        for (index_t key = 0; key < 12; ++key)
          same = same && sees(window_of(both), place, key) == (sees(a, place, key) && sees(b, place, key));
      joined += same;
    }
  CHECK(refused == 9 * 16 * 6);  // lefts (3 of 4, twice), rights, ordered pairs of different keep_first
  CHECK(joined == 48 * 48 - 9 * 16 * 6);
  CHECK(window_of(heed::window(-5) & heed::window(3)).left == -5);  // an error stays an error
  CHECK(window_of(heed::window(3) & heed::window(-5)).left == -5);
}

TEST_CASE("two parts of one kind join over equal numbers and conflict otherwise") {
  std::vector<std::int32_t> a{1, 2, 3}, same = a, other{1, 2, 4}, shorter{1, 2}, none;
  using heed::key_lengths, heed::packed, heed::prefix_lm, heed::segments;

  CHECK(conflict(key_lengths(a) & key_lengths(a)) == "");
  CHECK(conflict(key_lengths(a) & key_lengths(same)) == "");
  CHECK(conflict(key_lengths(none) & key_lengths({})) == "");
  CHECK(conflict(key_lengths(a) & key_lengths(other)) == "two different key_lengths in one mask");
  CHECK(conflict(key_lengths(a) & key_lengths(shorter)) == "two different key_lengths in one mask");
  CHECK(conflict(key_lengths(a) & key_lengths(heed::lengths(a).first(2))) == "two different key_lengths in one mask");

  CHECK(conflict(packed(a, other) & packed(same, other)) == "");
  CHECK(conflict(packed(a, other) & packed(a, a)) == "two different packed in one mask");
  CHECK(conflict(packed(a, other) & packed(other, other)) == "two different packed in one mask");

  CHECK(conflict(prefix_lm(a) & prefix_lm(same)) == "");
  CHECK(conflict(prefix_lm(a) & prefix_lm(other)) == "two different prefix_lm in one mask");

  CHECK(conflict(segments(a, other) & segments(a, other)) == "");
  CHECK(conflict(segments(a, other) & segments(same, other)) == "two different segments in one mask");
  CHECK(conflict(segments(a, other) & segments(a, same)) == "two different segments in one mask");
  CHECK(conflict(segments(a, a) & segments(std::span(a).first(2), a)) == "two different segments in one mask");

  const bool x[2] = {true, true}, y[2] = {true, true};
  CHECK(conflict(heed::keep(x) & heed::keep(x)) == "");
  CHECK(conflict(heed::keep(x) & heed::keep(y)) == "two different keep in one mask");

  const mask odd = heed::visible_if([](const position& at) { return at.key % 2 == 1; });
  CHECK(conflict(odd & heed::causal()) == "");
  CHECK(conflict(odd & odd) == "two visible_if in one mask");
}

TEST_CASE("a conflict stays, the first one") {
  std::vector<std::int32_t> a{1}, b{2};
  const mask lengths = heed::key_lengths(a) & heed::key_lengths(b), prefix = heed::prefix_lm(a) & heed::prefix_lm(b);
  CHECK(conflict(lengths & heed::causal()) == "two different key_lengths in one mask");
  CHECK(conflict(heed::causal() & lengths) == "two different key_lengths in one mask");
  CHECK(conflict(lengths & prefix) == "two different key_lengths in one mask");
  CHECK(conflict(prefix & lengths) == "two different prefix_lm in one mask");
  const mask odd = heed::visible_if([](const position& at) { return at.key % 2 == 1; });
  CHECK(conflict(lengths & odd & odd) == "two different key_lengths in one mask");
}

// A tile of `keys` x `lanes` with rows `lanes + 3` apart, all scores 1, gaps 7.
template <class Acc> struct tile_of_ones {
  index_t keys, lanes, stride = lanes + 3;
  std::vector<Acc> scores = std::vector<Acc>(static_cast<std::size_t>(keys * stride), Acc(7));
  std::vector<std::int32_t> head, query, place;

  tile_of_ones(index_t k, index_t l) : keys(k), lanes(l) {
    for (index_t lane = 0; lane < lanes; ++lane) {
      head.push_back(static_cast<std::int32_t>(lane % 2));
      query.push_back(static_cast<std::int32_t>(lane / 2));
      place.push_back(static_cast<std::int32_t>(100 + lane / 2));
      for (index_t j = 0; j < keys; ++j) at(j, lane) = 1;
    }
  }
  Acc& at(index_t key, index_t lane) { return scores[static_cast<std::size_t>(key * stride + lane)]; }
  heed::detail::score_tile<Acc> tile() {
    return {scores.data(), stride, 90, keys, lanes, 5, head.data(), query.data(), place.data()};
  }
};

template <class Acc> void check_visible_if() {
  int gap = 3;
  const auto visible = [&gap](const position& at) {
    return at.batch == 5 && (at.place - at.key + at.head + at.query) % gap == 0;
  };
  const mask m = heed::visible_if(visible);
  for (const index_t lanes : {1, 7, 16, 24, 37, 64}) {
    tile_of_ones<Acc> ones(6, lanes);
    heed::detail::hide(parts(m), ones.tile());
    int wrong = 0;
    for (index_t j = 0; j < 6; ++j)
      for (index_t lane = 0; lane < ones.stride; ++lane) {
        Acc expected = 7;
        if (lane < lanes) {
          const auto l = static_cast<std::size_t>(lane);
          const bool seen = visible({5, ones.head[l], ones.query[l], static_cast<std::int32_t>(90 + j), ones.place[l]});
          expected = seen ? Acc(1) : -std::numeric_limits<Acc>::infinity();
        }
        wrong += ones.at(j, lane) != expected;
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("visible_if hides a tile's scores where it is false, and touches nothing else") {
  check_visible_if<float>();
  check_visible_if<double>();
}

TEST_CASE("visible_if keeps a copy of the function object") {
  mask m;
  {
    const std::array<std::int32_t, 8> keys{90, 93, 0, 0, 0, 0, 0, 93};
    m = heed::visible_if([keys](const position& at) { return at.key == keys[0] || at.key == keys[7]; });
  }
  tile_of_ones<float> ones(4, 1);
  heed::detail::hide(parts(heed::causal() & m), ones.tile());
  CHECK(ones.at(0, 0) == 1);
  CHECK(std::isinf(ones.at(1, 0)));
  CHECK(std::isinf(ones.at(2, 0)));
  CHECK(ones.at(3, 0) == 1);
}

TEST_CASE("alignments") {
  using heed::alignment;
  static_assert(std::is_trivially_copyable_v<alignment> && std::is_nothrow_default_constructible_v<alignment>);
  static_assert(!std::is_constructible_v<alignment, bool> && !std::is_constructible_v<alignment, int> &&
                !std::is_constructible_v<alignment, float (&)[3]> && !std::is_constructible_v<alignment, float*> &&
                !std::is_constructible_v<alignment, heed::lengths> && !std::is_constructible_v<alignment, mask>);
  constexpr alignment fallback;
  static_assert(!heed::detail::parts(fallback).top_left && !heed::detail::parts(heed::bottom_right).top_left);
  static_assert(heed::detail::parts(heed::top_left).top_left && !heed::detail::parts(heed::top_left).has_first);
  CHECK_FALSE(heed::detail::parts(heed::bottom_right).has_first);
  const std::vector<std::int32_t> first{3, 4};
  const alignment given = heed::first_place(first);
  CHECK(heed::detail::parts(given).has_first);
  CHECK(heed::detail::parts(given).first.data() == first.data());
  CHECK(heed::detail::parts(given).first.size() == 2);
  CHECK(heed::detail::parts(heed::first_place({})).has_first);  // given, though empty: the call checks the count
}

}  // namespace
