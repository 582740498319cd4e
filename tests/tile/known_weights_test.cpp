// SPDX-License-Identifier: BSD-3-Clause

#include "heed/tile/known_weights.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 2e-6 : 4e-15;

}  // namespace

// Kept weights and scores of the same weights give the same products and copies.
TEMPLATE_TEST_CASE("product of known weights", "[known_weights]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  for (index_t vectors = 1; vectors <= tile::max_vectors; ++vectors) {
    const index_t lanes = vectors * w, row = lanes + 2, keys = 9;
    heed_test::random_numbers random(29);
    const auto numbers = [&](index_t n) {
      std::vector<T> x(at(n));
      for (T& v : x) v = static_cast<T>(random.normal());
      return x;
    };
    const std::vector<T> t = numbers(keys * row), shift = numbers(lanes), factor = numbers(lanes), m(at(lanes), T(3));
    std::vector<T> scores = numbers(keys * row), kept = scores;
    for (T& s : scores) s = std::min(s, T(3));
    scores[at(row)] = -std::numeric_limits<T>::infinity();  // hidden: weight 0
    for (index_t i = 0; i < keys * row; ++i) kept[at(i)] = static_cast<T>(std::exp2(double(scores[at(i)]) - 3));
    for (const bool from_scores : {false, true}) {
      const tile::known_weights<T> p{from_scores ? scores.data() : kept.data(), row, factor.data(),
                                     from_scores ? m.data() : nullptr};
      std::vector<T> out = t, sum(at(lanes), T(1)), copy(at(keys * w));
      tile::product(p, keys, vectors, out.data(), shift.data(), sum.data());
      tile::copy_weights(p.at(0, (vectors - 1) * w), keys, copy.data());
      for (index_t l = 0; l < row; ++l) {
        double total = 1;
        for (index_t j = 0; j < keys; ++j) {
          const std::size_t i = at(j * row + l);
          if (l >= lanes) {
            CHECK(out[i] == t[i]);
            continue;
          }
          const double weight = double(kept[i]) * double(factor[at(l)]);
          const double want = weight * (double(t[i]) - double(shift[at(l)]));
          CHECK(double(out[i]) == Approx(want).epsilon(8 * tolerance<T>).margin(8 * tolerance<T>));
          total += want;
          if (l >= lanes - w)
            CHECK(double(copy[at(j * w + l - lanes + w)]) == Approx(weight).epsilon(4 * tolerance<T>));
        }
        if (l < lanes) CHECK(double(sum[at(l)]) == Approx(total).epsilon(64 * tolerance<T>).margin(64 * tolerance<T>));
      }
    }
  }
}
