// SPDX-License-Identifier: BSD-3-Clause

#include "heed/tile/weight_gradients.hpp"

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "heed/tile/pack.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 2e-6 : 4e-15;
template <class T> constexpr T infinite = std::numeric_limits<T>::infinity();
template <class T> constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

}  // namespace

// A hidden pair has weight and gradient 0, whatever dp is; a visible one whose weight underflows meets its NaN.
TEMPLATE_TEST_CASE("weights and gradients of scores", "[weight_gradients]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  for (index_t vectors = 1; vectors <= tile::max_vectors; ++vectors) {
    const index_t lanes = vectors * w, row = lanes + w, keys = 7;
    heed_test::random_numbers random(5);
    const auto numbers = [&](index_t n) {
      std::vector<T> x(at(n));
      for (T& v : x) v = static_cast<T>(random.normal());
      return x;
    };
    std::vector<T> s = numbers(keys * row), dp = numbers(keys * row), lse = numbers(lanes), delta = numbers(lanes);
    for (T& x : lse) x += T(4);
    s[0] = -infinite<T>, dp[0] = not_a_number<T>;               // hidden
    s[at(row)] = T(-4000), dp[at(row)] = not_a_number<T>;  // underflows
    lse[1] = infinite<T>;                              // a row without a key
    for (index_t j = 0; j < keys; ++j) s[at(j * row + 1)] = -infinite<T>;
    const std::vector<T> scores = s, products = dp;
    std::vector<T> alone = s;
    tile::weigh<T>({s.data(), row, keys, lanes}, dp.data(), lse.data(), delta.data());
    tile::weigh<T>({alone.data(), row, keys, lanes}, nullptr, lse.data(), delta.data());
    CHECK(alone == s);
    CHECK((std::isnan(dp[at(row)]) && heed::detail::equals(dp[0], T(0))));
    for (index_t j = 0; j < keys; ++j)
      for (index_t l = 0; l < lanes; ++l) {
        const std::size_t x = at(j * row + l);
        const double p = std::exp2(double{scores[x]} - double{lse[at(l)]});
        CHECK(std::abs(double{s[x]} - p) <= tolerance<T>);
        const bool hidden = std::isinf(scores[x]);
        const double ds = hidden ? 0 : p * (double{products[x]} - double{delta[at(l)]});
        if (!std::isnan(ds)) CHECK(std::abs(double{dp[x]} - ds) <= 4 * tolerance<T>);
      }
    CHECK(std::equal(&s[at(lanes)], &s[at(row)], &scores[at(lanes)]));  // nothing behind the lanes is touched
  }
}

TEMPLATE_TEST_CASE("slopes spare what is hidden", "[weight_gradients]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  std::vector<T> x(at(2 * w), T(2)), slope(at(2 * w), T(3)), sum(at(w), T(1));
  x[0] = T(0), slope[0] = not_a_number<T>, slope[1] = infinite<T>;
  tile::multiply_slopes<T>({x.data(), w, 2, w}, slope.data());
  CHECK((heed::detail::equals(x[0], T(0)) && heed::detail::equals(x[1], infinite<T>)));
  CHECK(heed::detail::equals(x[at(w)], T(6)));
  tile::sum_rows<T>({x.data(), w, 2, w}, sum.data());
  CHECK(heed::detail::equals(sum[0], T(7)));
}

TEMPLATE_TEST_CASE("scatter_add adds to rows and touches nothing beside them", "[weight_gradients]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  for (const index_t dim : {index_t{1}, w - 1, w, w + 3})
    for (const index_t lanes : {index_t{1}, w, w + 1}) {
      const index_t stride = (lanes + w - 1) / w * w;
      std::vector<T> in(at(dim * stride)), out(at(lanes * (dim + 1)), T(100));
      std::vector<T*> rows;
      for (index_t l = 0; l < lanes; ++l) rows.push_back(&out[at(l * (dim + 1))]);
      for (index_t d = 0; d < dim; ++d)
        for (index_t l = 0; l < stride; ++l) in[at(d * stride + l)] = static_cast<T>(d + 50 * l);
      tile::scatter_add<T>({in.data(), stride, dim, stride}, T(2), rows.data(), lanes);
      for (index_t l = 0; l < lanes; ++l) {
        for (index_t d = 0; d < dim; ++d)
          CHECK(heed::detail::equals(out[at(l * (dim + 1) + d)], static_cast<T>(100 + 2 * (d + 50 * l))));
        CHECK(heed::detail::equals(out[at(l * (dim + 1) + dim)], T(100)));
      }
    }
}
