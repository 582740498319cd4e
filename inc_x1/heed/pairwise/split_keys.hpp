// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Work with a cache as a list of pieces of about equal cost: a piece is a run of the keys of one tile of rows. Shapes
// and lengths alone say where the cuts are, never the number of threads, so that bits do not depend on it
// (Lean Attention, arXiv 2405.10480, cuts by the number of workers).

#include <algorithm>

#include "heed/pairwise/key_ranges.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The keys that any of the places [first_place, last_place] may see, of those that a ring has not lost: tokens
// [lost_from, lost_to) are gone.
inline key_set visible_keys(const key_rule& rule, index_t first_place, index_t last_place, index_t lost_from,
                            index_t lost_to) {
  const visible a = rule.at(first_place), b = rule.at(last_place);
  const index_t end = std::max(a.hi, b.hi), kept = std::min(rule.keep_first, end);
  const index_t first = a.lo <= kept ? kept : a.lo;
  const key_set::run seen[2] = {{0, kept}, {first, end}};
  key_set out;
  for (const key_set::run& s : seen)
    out.add(s.first, std::min(s.end, lost_from)), out.add(std::max(s.first, lost_to), s.end);
  return out;
}

// How the tiles of a call are cut
struct piece_sizes {
  static constexpr index_t least_keys = 256;  // of a piece; shorter ones would pay for their merge
  static constexpr double pieces = 64;        // of a call, about: enough for 6 workers to differ by less than 10 %

  // Cost of a key with so many rows, and of a tile, in the time that it takes to read a key
  static double key_cost(index_t rows) { return 1 + static_cast<double>(rows) / 8; }
  static double cost(index_t keys, index_t rows) { return (32 + static_cast<double>(keys)) * key_cost(rows); }

  void add(index_t keys, index_t rows, double times = 1) { all += times * cost(keys, rows); }

  // Into how many pieces a tile is cut, at least 1
  index_t count(index_t keys, index_t rows) const {
    const double most = std::max(all / pieces, cost(least_keys, rows));
    const index_t by_cost = static_cast<index_t>(std::min(cost(keys, rows) / most, 2 * pieces)) + 1;
    return std::clamp<index_t>(keys / least_keys, 1, by_cost);
  }
  // The first key of piece `number` of `count`, of as many keys
  static index_t first_key(index_t keys, index_t count, index_t number) {
    if (number >= count) return keys;
    const index_t step = 16;  // whole vectors of scores
    return std::min(keys, (keys * number / count + step / 2) / step * step);
  }
  // Pieces of tiles that are cut, at most, whatever the lengths: of `tiles` tiles of up to most_keys keys
  static index_t most_pieces(double tiles, index_t most_keys) {
    const double each = static_cast<double>(most_keys / least_keys);
    return each <= 1 ? 0 : static_cast<index_t>(std::min(tiles * each, 2 * pieces));
  }

  double all = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
