// SPDX-License-Identifier: BSD-3-Clause

#include "heed/simd/stream.hpp"

#include <vector>

#include "support/catch.hpp"

using heed::index_t;

TEMPLATE_TEST_CASE("streamed zeros: these and no other, at every alignment and length", "[stream]", float, double) {
  for (index_t first = 0; first < 40; ++first)
    for (index_t count = 0; count < 70; ++count) {
      std::vector<TestType> x(128, TestType(-7));
      heed::simd::stream_zeros(x.data() + first, count);
      heed::simd::stream_end();
      bool right = true;
      for (index_t i = 0; i < 128; ++i)
        right =
            right && x[static_cast<std::size_t>(i)] == (i >= first && i < first + count ? TestType(0) : TestType(-7));
      CHECK(right);
    }
}
