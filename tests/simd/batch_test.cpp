// SPDX-License-Identifier: BSD-3-Clause

#include "heed/simd/batch.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "heed/simd/transpose.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace simd = heed::simd;

template <class T> std::vector<T> lanes_of(simd::batch<T> x) {
  std::vector<T> lanes(static_cast<std::size_t>(simd::width<T>));
  simd::store(lanes.data(), x);
  return lanes;
}

template <class T> simd::square<T> random_square(std::vector<std::vector<T>>& cells) {
  constexpr index_t w = simd::width<T>;
  heed_test::random_numbers random(3);
  simd::square<T> r;
  cells.assign(static_cast<std::size_t>(w), std::vector<T>(static_cast<std::size_t>(w)));
  for (std::size_t i = 0; i < r.size(); ++i) {
    for (T& x : cells[i]) x = static_cast<T>(random.below(1000));  // sums are exact
    r[i] = simd::load(cells[i].data());
  }
  return r;
}

}  // namespace

TEMPLATE_TEST_CASE("partial loads and stores touch only their lanes", "[batch]", float, double) {
  using T = TestType;
  constexpr index_t w = simd::width<T>;
  for (index_t n = 0; n <= w; ++n) {
    CAPTURE(n);
    std::vector<T> exact(static_cast<std::size_t>(n));  // a sanitizer sees a read behind it
    for (index_t i = 0; i < n; ++i) exact[static_cast<std::size_t>(i)] = static_cast<T>(i + 1);
    const std::vector<T> got = lanes_of<T>(simd::load_partial(exact.data(), n));
    for (index_t i = 0; i < w; ++i) CHECK(got[static_cast<std::size_t>(i)] == (i < n ? static_cast<T>(i + 1) : T(0)));

    std::vector<T> out(static_cast<std::size_t>(3 * w), T(-7));
    simd::store_partial(out.data() + w, simd::batch<T>(T(5)), n);
    for (index_t i = 0; i < 3 * w; ++i) CHECK(out[static_cast<std::size_t>(i)] == (i >= w && i < w + n ? T(5) : T(-7)));
  }
}

TEMPLATE_TEST_CASE("max and min keep a NaN of the second operand", "[batch]", float, double) {
  using T = TestType;
  using batch = simd::batch<T>;
  const T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
  const auto max = [](T bound, T x) { return lanes_of<T>(simd::max(batch(bound), batch(x)))[0]; };
  const auto min = [](T bound, T x) { return lanes_of<T>(simd::min(batch(bound), batch(x)))[0]; };
  CHECK(std::isnan(max(T(1), nan)));
  CHECK(std::isnan(min(T(1), nan)));
  CHECK(max(nan, T(1)) == T(1));  // the bound is never NaN in the library; if it is, x wins
  CHECK(min(nan, T(1)) == T(1));
  CHECK(max(T(1), T(2)) == T(2));
  CHECK(max(T(2), T(1)) == T(2));
  CHECK(min(T(1), T(2)) == T(1));
  CHECK(min(T(2), T(1)) == T(1));
  CHECK(max(T(2), -inf) == T(2));
  CHECK(min(T(2), inf) == T(2));
}

TEMPLATE_TEST_CASE("fma, pinned, low_bits_to_exponent", "[batch]", float, double) {
  using T = TestType;
  using batch = simd::batch<T>;
  CHECK(lanes_of<T>(simd::fma(batch(T(3)), batch(T(5)), batch(T(7))))[0] == T(22));
  const T e = std::numeric_limits<T>::epsilon();
  const T rest = lanes_of<T>(simd::fma(batch(T(1) + e), batch(T(1) - e), batch(T(-1))))[0];
#if defined(HEED_AVX512) || defined(HEED_AVX2)
  CHECK(rest == -e * e);  // one rounding
#else
  CHECK(std::fabs(rest) <= e);
#endif
  CHECK(lanes_of<T>(simd::pinned(batch(T(4)))) == lanes_of<T>(batch(T(4))));
  constexpr int bias = std::numeric_limits<T>::max_exponent - 1;
  const T shift = simd::is_float<T> ? T(12582912.0) : T(6755399441055744.0);
  for (const int n : {-bias + 1, -3, 0, 1, bias})
    CHECK(lanes_of<T>(simd::low_bits_to_exponent(batch(shift + T(bias + n))))[0] == std::ldexp(T(1), n));
}

TEMPLATE_TEST_CASE("transpose", "[batch]", float, double) {
  using T = TestType;
  std::vector<std::vector<T>> cells;
  simd::square<T> r = random_square<T>(cells);
  simd::transpose<T>(r);
  for (std::size_t i = 0; i < r.size(); ++i) {
    const std::vector<T> row = lanes_of<T>(r[i]);
    for (std::size_t j = 0; j < r.size(); ++j) CHECK(row[j] == cells[j][i]);
  }
}

TEMPLATE_TEST_CASE("sum_rows", "[batch]", float, double) {
  using T = TestType;
  std::vector<std::vector<T>> cells;
  const simd::square<T> r = random_square<T>(cells);
  const std::vector<T> sums = lanes_of<T>(simd::sum_rows<T>(r));
  for (std::size_t i = 0; i < r.size(); ++i) {
    T want = 0;
    for (const T x : cells[i]) want += x;
    CHECK(sums[i] == want);
  }
}
