// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#include "heed/core/types.hpp"

namespace heed_test {

// Where a case takes long (sanitizers, emulators, no optimisation), or another level runs them all (HEED_TEST_BRIEF=1
// in the environment), one of so many of the products of cases is taken. It shares no factor with the lengths of the
// lists, so that every entry of a list has its turn.
#if defined(HEED_TEST_BRIEF) || !defined(__OPTIMIZE__)
inline const std::size_t thinning = 13;
#else
inline const std::size_t thinning = std::getenv("HEED_TEST_BRIEF") != nullptr ? 13 : 1;
#endif

using heed::index_t;

struct shape {
  index_t batch = 1, heads = 1, kv_heads = 1, queries = 1, keys = 1, dim = 8, value_dim = 8;

  index_t out_heads() const { return heads == 0 || kv_heads == 0 ? 0 : std::max(heads, kv_heads); }
};

inline std::string to_string(const shape& s) {
  const auto n = [](index_t x) { return std::to_string(x); };
  return "B " + n(s.batch) + " H " + n(s.heads) + " Hk " + n(s.kv_heads) + " N " + n(s.queries) + " M " + n(s.keys) +
         " D " + n(s.dim) + " E " + n(s.value_dim);
}

inline constexpr index_t head_dims[] = {1, 3, 8, 20, 64, 80, 128, 192};

// Sizes around the borders of a tile.
inline std::vector<index_t> around(index_t tile) { return {0, 1, tile - 1, tile, tile + 1, 3 * tile + 5}; }

// The shapes that tests share: every length around the query tile with every length around the key tile, and every head
// dim with every one of the former; E != D, the head counts and the batch size go round at their own pace.
inline std::vector<shape> shape_list(index_t query_tile, index_t key_tile) {
  constexpr struct { index_t heads, kv_heads; } groups[] = {{1, 1}, {2, 1}, {7, 1}, {4, 2}, {1, 2}, {3, 3}, {2, 6}};
  std::vector<shape> list;
  const auto add = [&](index_t n, index_t m, index_t d) {
    const std::size_t turn = list.size();
    const auto& group = groups[turn % std::size(groups)];
    const index_t e = turn % 3 == 0 ? d : head_dims[(turn * 5 + 3) % std::size(head_dims)];
    list.push_back({turn % 4 == 3 ? 2 : 1, group.heads, group.kv_heads, n, m, d, e});
  };
  std::size_t turn = 0;
  for (const index_t n : around(query_tile))
    for (const index_t m : around(key_tile)) add(n, m, head_dims[turn++ * 3 % std::size(head_dims)]);
  for (const index_t d : head_dims)
    for (const index_t n : around(query_tile)) add(n, turn++ % 2 == 0 ? n : key_tile + 1, d);
  return list;
}

}  // namespace heed_test
