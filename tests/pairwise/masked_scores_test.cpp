// SPDX-License-Identifier: BSD-3-Clause

// Scores behind masks: pairs are hidden or not, and vectors that a matrix unit takes together stay together.

#include <limits>
#include <vector>

#include "heed/pairwise/masked_scores.hpp"
#include "heed/softmax/options.hpp"
#include "support/catch.hpp"

using heed::index_t;
namespace pairwise = heed::pairwise;

TEST_CASE("products are of whole groups of neighbouring vectors, whatever the mask", "[masked_scores]") {
  constexpr index_t w = heed::simd::width<float>, vectors = pairwise::vector_capacity, rows = vectors * w;
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  std::vector<float> numbers(rows);
  const heed::tensor_view<float, 4> x(numbers.data(), {1, 1, rows, 1}, {rows, rows, 1, 1});
  const heed::tensor_view<const float, 4> in(x);
  pairwise::row_tile tile;
  tile.take(0, 1, 0, rows);
  for (const index_t i : {0, 1, 2, 3, 4, 5}) {
    const index_t together = index_t{1} << i / 2, left = i % 2 * 3;
    CAPTURE(together, left);
    heed::softmax::options<float> options;
    options.mask = heed::window(left);
    const pairwise::attention<float> p(options, heed::tile::rows_of_call(in, in, in, x));
    pairwise::masked_scores<float> masked(p, together);
    masked.begin(p.sequence_at(0), tile);
    pairwise::key_tile<float> keys;
    keys.keys = rows, keys.partial = true;
    masked.classify(keys);
    masked.add_blocks(keys, 0, vectors);
    REQUIRE(keys.count > 0);
    std::vector<float> s(rows * rows, 7.0f);
    const pairwise::score_rows<float> all{s.data(), rows, 0, vectors};
    masked.scores(keys, all, nullptr, nullptr, [&](const pairwise::weight_block& b, float*) {
      CHECK((b.from % together == 0 && b.to % together == 0));
      heed::tile::fill(all.part(b).data, rows, b.keys, (b.to - b.from) * w, 1.0f);
    });
    index_t seen = 0;
    for (index_t n = 0; n < keys.count; ++n) {
      const pairwise::weight_block& b = keys.block[n];
      CHECK((b.from % together == 0 && b.to % together == 0));
      for (index_t key = b.first; key < b.first + b.keys; ++key)
        for (index_t row = b.from * w; row < b.to * w; ++row) {
          const bool sees = key <= row && key >= row - left;
          REQUIRE(s[static_cast<std::size_t>(key * rows + row)] == (sees ? 1.0f : hidden));
          seen += sees;
        }
    }
    CHECK(seen == (left + 1) * rows - left * (left + 1) / 2);
  }
}
