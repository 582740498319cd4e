// SPDX-License-Identifier: BSD-3-Clause

#include "heed/pairwise/visibility.hpp"

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace pairwise = heed::pairwise;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();

}  // namespace

TEMPLATE_TEST_CASE("hide: scores outside of the ranges", "[visibility]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  heed_test::random_numbers random(22);
  for (int trial = 0; trial < 200; ++trial) {
    const index_t keys = 24, row = w + 5, first = random.below(9),
                  count = random.below(static_cast<std::int32_t>(keys - first) + 1);
    const index_t kept = random.below(8) - 3;
    std::vector<T> lo(at(w)), hi(at(w)), scores(at(keys * row), T(9));
    for (T& x : lo) x = static_cast<T>(random.below(30) - 4);
    for (T& x : hi) x = static_cast<T>(random.below(36) - 4);
    pairwise::hide<T>({scores.data() + first * row, row, first, count, 0, 1}, lo.data(), hi.data(),
                      static_cast<T>(kept));
    bool right = true;
    for (index_t j = 0; j < keys; ++j)
      for (index_t l = 0; l < row; ++l) {
        bool hidden = false;
        if (l < w && first <= j && j < first + count) {
          const T key = static_cast<T>(j);
          hidden = !((lo[at(l)] <= key || j < kept) && key < hi[at(l)]);
        }
        right = right && scores[at(j * row + l)] == (hidden ? -infinity<T> : T(9));
      }
    CHECK(right);
  }
}
