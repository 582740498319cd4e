// SPDX-License-Identifier: BSD-3-Clause

// sparse_query::decode beside the reference: head counts of all variants, in both directions.

#include "support/decode_case.hpp"

using namespace heed_test;

TEST_CASE("sparse_query decode: head counts in both directions, every kind of cache") {
  constexpr struct { index_t heads, kv_heads; } counts[] = {{8, 8}, {8, 2}, {4, 2}, {4, 1}, {2, 4}, {4, 8}, {1, 3}};
  std::size_t turn = 0;
  for (const auto& [heads, kv_heads] : counts)
    for (const index_t n : {1, 2, 5, 17})
      for (std::size_t kind = 0; kind < 9; ++kind) {
        if (turn++ % thinning != 0) continue;
        decode_problem p{heads, kv_heads, n, 16, 12, {90, 17}, some_cache(kind, 90)};
        p.stored_kv = all_kept[turn % 4];
        check_decode<float>(p, {.mask = heed::causal()});
        check_decode<double>(p, {.mask = heed::window(30)});
      }
}
