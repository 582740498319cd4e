// SPDX-License-Identifier: BSD-3-Clause

// How the keys of a call with a cache are cut: nothing lost, nothing twice, pieces of about one cost.

#include "heed/pairwise/split_keys.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
using heed::pairwise::key_rule;
using heed::pairwise::key_set;
using heed::pairwise::piece_sizes;
using heed::pairwise::visible_keys;

std::vector<bool> members(const key_set& set, index_t keys) {
  std::vector<bool> in(static_cast<std::size_t>(keys));
  index_t before = 0;
  for (index_t i = 0; i < set.count; ++i) {
    CHECK(set.runs[i].first >= before);  // ascending, apart
    before = set.runs[i].end;
    for (index_t j = set.runs[i].first; j < set.runs[i].end; ++j) in[static_cast<std::size_t>(j)] = true;
  }
  return in;
}

// Costs of the pieces of tiles of so many keys and rows, in the order of their tasks
struct tile_size {
  index_t keys, rows;
};
std::vector<double> piece_costs(const std::vector<tile_size>& tiles) {
  piece_sizes sizes;
  for (const tile_size& x : tiles) sizes.add(x.keys, x.rows);
  std::vector<double> costs;
  for (const tile_size& x : tiles) {
    const index_t count = sizes.count(x.keys, x.rows);
    for (index_t i = 0; i < count; ++i)
      costs.push_back(piece_sizes::cost(
          piece_sizes::first_key(x.keys, count, i + 1) - piece_sizes::first_key(x.keys, count, i), x.rows));
  }
  return costs;
}

// The time of workers that claim pieces one after the other, over that of a perfect cut
double imbalance(const std::vector<double>& costs, std::size_t workers) {
  std::vector<double> busy(workers);
  double all = 0;
  for (const double x : costs) *std::min_element(busy.begin(), busy.end()) += x, all += x;
  return *std::max_element(busy.begin(), busy.end()) / (all / static_cast<double>(workers));
}

}  // namespace

TEST_CASE("visible keys are those that some place sees and no ring has lost") {
  heed_test::random_numbers numbers(7);
  for (int round = 0; round < 400; ++round) {
    const auto up_to = [&](std::int32_t most) { return index_t{numbers.below(most + 1)}; };
    const index_t keys = up_to(60);
    key_rule rule{
        .keys = keys, .left = up_to(30) - 1, .right = up_to(4) - 1, .keep_first = up_to(20), .prefix = up_to(8) - 1};
    if (rule.left < 0) rule.keep_first = 0;
    const index_t first = up_to(70) - 8, last = first + up_to(5), lost_from = up_to(10),
                  lost_to = lost_from + up_to(20);
    const std::vector<bool> in = members(visible_keys(rule, first, last, lost_from, lost_to), keys);
    for (index_t j = 0; j < keys; ++j) {
      bool seen = false;
      for (index_t place = first; place <= last; ++place) {
        const heed::pairwise::visible v = rule.at(place);
        seen = seen || ((v.lo <= j || j < rule.keep_first) && j < v.hi);
      }
      if (lost_from <= j && j < lost_to) seen = false;
      INFO("key " << j << " of " << keys << ", places " << first << " to " << last);
      if (seen) CHECK(in[static_cast<std::size_t>(j)]);
      if (lost_from <= j && j < lost_to) CHECK_FALSE(in[static_cast<std::size_t>(j)]);
    }
  }
}

TEST_CASE("parts of a set are its keys in order, each once") {
  key_set set;
  set.add(0, 5), set.add(9, 9), set.add(11, 40), set.add(50, 53);
  REQUIRE(set.total() == 37);
  const std::vector<bool> whole = members(set, 60);
  for (const index_t step : {1, 4, 16, 37, 50}) {
    std::vector<bool> all(60);
    for (index_t from = 0; from < set.total(); from += step) {
      const key_set part = set.part(from, from + step);
      CHECK(part.total() == std::min(step, set.total() - from));
      const std::vector<bool> in = members(part, 60);
      for (std::size_t j = 0; j < 60; ++j) {
        CHECK_FALSE((in[j] && all[j]));
        if (in[j]) all[j] = true;
      }
    }
    CHECK(all == whole);
  }
}

TEST_CASE("pieces cover a tile's keys and are no shorter than they are worth") {
  for (const index_t keys : {0, 1, 255, 256, 511, 512, 1000, 4096, 33333})
    for (const index_t rows : {1, 8, 64}) {
      piece_sizes sizes;
      sizes.add(keys, rows);
      const index_t count = sizes.count(keys, rows);
      CHECK(count >= 1);
      CHECK(count <= std::max<index_t>(1, keys / piece_sizes::least_keys));
      CHECK(count <= std::max<index_t>(1, piece_sizes::most_pieces(1, keys)));
      CHECK(piece_sizes::first_key(keys, count, 0) == 0);
      for (index_t i = 0; i < count; ++i)
        CHECK(piece_sizes::first_key(keys, count, i) <= piece_sizes::first_key(keys, count, i + 1));
      CHECK(piece_sizes::first_key(keys, count, count) == keys);
    }
}

TEST_CASE("ragged batches are balanced within a tenth") {
  const std::vector<std::vector<index_t>> batches{{32768},
                                                  {131072, 1, 1, 1},
                                                  {32768, 100, 5000, 17, 0, 8192, 64, 20000},
                                                  {4096, 4096, 4096},
                                                  {9000, 8000, 70000, 300}};
  for (const std::vector<index_t>& lengths : batches)
    for (const index_t kv_heads : {1, 8})
      for (const index_t rows : {1, 8, 15, 64}) {
        std::vector<tile_size> tiles;
        for (const index_t n : lengths)
          for (index_t h = 0; h < kv_heads; ++h) tiles.push_back({n, rows});
        const std::vector<double> costs = piece_costs(tiles);
        for (const std::size_t workers : {1u, 2u, 3u, 4u, 6u}) {
          INFO("first length " << lengths[0] << ", heads " << kv_heads << ", rows " << rows << ", workers " << workers);
          CHECK(imbalance(costs, workers) <= 1.1);
        }
      }
}

TEST_CASE("pieces of all tiles stay within the memory for them") {
  heed_test::random_numbers numbers(3);
  for (int round = 0; round < 200; ++round) {
    const auto up_to = [&](std::int32_t most) { return index_t{numbers.below(most + 1)}; };
    const index_t capacity = 300 + up_to(40000), count = 1 + up_to(100), rows = 1 + up_to(63);
    piece_sizes sizes;
    std::vector<index_t> lengths;
    for (index_t i = 0; i < count; ++i)
      lengths.push_back(up_to(2) == 0 ? capacity : index_t{numbers.below(static_cast<std::int32_t>(capacity + 1))});
    for (const index_t n : lengths) sizes.add(n, rows);
    index_t pieces = 0, cut = 0;
    for (const index_t n : lengths)
      if (const index_t x = sizes.count(n, rows); x > 1) pieces += x, ++cut;
    const index_t room = piece_sizes::most_pieces(static_cast<double>(count), capacity);
    CHECK(pieces <= room);
    CHECK(cut <= room / 2);
  }
}
