// SPDX-License-Identifier: BSD-3-Clause

// Few rows over so many keys that the order of the sums decides about their errors. Weights are 1 and values about 1,
// so that a sum is as large as the number of its terms. One chain of additions is off by 94 units of epsilon here, 2.7
// times the tolerance.

#include <vector>

#include "support/decode_case.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

constexpr index_t long_keys = 131077;

void make_about_1(buffer<float>& v) {
  v.each([](float& x) { x = 1 + 0.02f * x; });
}

}  // namespace

TEST_CASE("long sums: the error of few rows does not grow with the keys") {
  for (const index_t rows : {1, 2, 4, 7}) {
    softmax_case<float> x({1, 1, 1, rows, long_keys, 4, 20}, {.scale = 0.0});
    make_about_1(x.v);
    check(x);
  }
}

// More heads than pieces that a call is cut into: a piece per head, longer than the runs of keys that are summed apart
TEST_CASE("long sums: the same bits wherever the tokens of a cache are") {
  constexpr index_t heads = 65, keys = 4200;
  for (const index_t group : {1, 2, 5})
    for (const bool masked : {false, true}) {
      heed::softmax::options<float> how;
      if (masked) how.mask = heed::window(4150, 0, 7);
      decode_problem p{heads * group, heads, 1, 3, 2, {keys}};
      decode_case<float> first(p, how);
      REQUIRE(first.plan().splits == 1);
      check(first);
      for (const cache_setup& cache : whole_caches(keys)) {
        p.cache = cache;
        decode_case<float> x(p, how);
        x.decode();
        INFO(to_string(cache));
        CHECK(same_results(x, first));
      }
    }
}
