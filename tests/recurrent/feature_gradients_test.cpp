// SPDX-License-Identifier: BSD-3-Clause

// Gradients through feature maps against central differences of their formulas in double.

#include "heed/recurrent/feature_gradients.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_problem.hpp"

namespace {

using heed::feature;
using heed::index_t;
namespace recurrent = heed::recurrent;
namespace simd = heed::simd;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
constexpr feature maps[] = {feature::elu_plus_one, feature::relu, feature::relu_squared,
                            feature::silu,         feature::exp,  feature::softmax};

std::vector<double> formula(feature map, const std::vector<double>& x) {
  double sum = 0;
  for (const double a : x) sum += std::exp(a);
  std::vector<double> y;
  for (const double a : x) {
    if (map == feature::elu_plus_one) y.push_back(a > 0 ? a + 1 : std::exp(a));
    if (map == feature::relu) y.push_back(std::max(a, 0.0));
    if (map == feature::relu_squared) y.push_back(a > 0 ? a * a : 0);
    if (map == feature::silu) y.push_back(a / (1 + std::exp(-a)));
    if (map == feature::exp) y.push_back(std::exp(a));
    if (map == feature::softmax) y.push_back(std::exp(a) / sum);
  }
  return y;
}

// sum of d phi(x)
double value(feature map, const std::vector<double>& x, const std::vector<double>& d) {
  const std::vector<double> y = formula(map, x);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += d[i] * y[i];
  return sum;
}

// Rows of x and d in lanes, and phi(x) / factor
template <class T> struct lanes_of_rows {
  static constexpr index_t dim = 5, lanes = 2 * simd::width<T>;
  heed_test::aligned_numbers<T> x{dim * lanes}, phi{dim * lanes}, d{dim * lanes};

  lanes_of_rows(const heed::detail::feature_parts<T>& map, T factor, double size) {
    heed_test::random_numbers random(3);
    for (index_t i = 0; i < dim * lanes; ++i) {
      x[i] = phi[i] = static_cast<T>(size * random.normal());
      d[i] = static_cast<T>(random.normal());
    }
    recurrent::map_lanes(map, block(phi));
    for (index_t i = 0; i < dim * lanes; ++i) phi[i] = phi[i] / factor;
  }
  static tile::lane_block<T> block(heed_test::aligned_numbers<T>& a) { return {a.data(), lanes, dim, lanes}; }
};

}  // namespace

TEMPLATE_TEST_CASE("gradients of all maps", "[feature_gradients]", float, double) {
  using T = TestType;
  for (const feature map : maps)
    for (const double size : {0.5, 3.0})
      for (const T factor : {T(1), T(0.25)}) {
        INFO("map " << static_cast<int>(map) << ", size " << size << ", factor " << factor);
        heed::detail::feature_parts<T> parts{.built_in = map};
        lanes_of_rows<T> rows(parts, factor, size);
        std::vector<double> want;
        for (index_t i = 0; i < rows.dim; ++i)
          for (index_t l = 0; l < rows.lanes; ++l) {
            std::vector<double> x, d;
            for (index_t c = 0; c < rows.dim; ++c)
              x.push_back(double(rows.x[c * rows.lanes + l])), d.push_back(double(rows.d[c * rows.lanes + l]));
            std::vector<double> above = x, below = x;
            const double step = std::min(1e-4, std::abs(x[at(i)]) / 2);
            above[at(i)] += step, below[at(i)] -= step;
            want.push_back((value(map, above, d) - value(map, below, d)) / (2 * step));
          }
        recurrent::map_gradients<T>(parts, rows.block(rows.x), rows.block(rows.phi), factor, rows.block(rows.d));
        double worst = 0;
        for (index_t i = 0; i < rows.dim * rows.lanes; ++i)
          worst = std::max(worst, std::abs(double(rows.d[i]) - want[at(i)]) / (1 + std::abs(want[at(i)])));
        CHECK(worst < (std::is_same_v<T, float> ? 2e-6 : 1e-7));
      }
}

TEMPLATE_TEST_CASE("silu far from 0, and infinities", "[feature_gradients]", float, double) {
  using T = TestType;
  constexpr T inf = std::numeric_limits<T>::infinity();
  const heed::detail::feature_parts<T> parts{.built_in = feature::silu};
  for (const T x : {T(-inf), T(-1000), T(1000), inf}) {
    lanes_of_rows<T> rows(parts, T(1), 1);
    for (index_t i = 0; i < rows.dim * rows.lanes; ++i) rows.x[i] = x, rows.d[i] = T(2);
    recurrent::map_gradients<T>(parts, rows.block(rows.x), rows.block(rows.phi), T(1), rows.block(rows.d));
    CHECK(rows.d[7] == (x > 0 ? T(2) : T(0)));
  }
}

TEMPLATE_TEST_CASE("a gradient of 0 stays 0 where x is NaN; any other becomes NaN", "[feature_gradients]", float,
                   double) {
  using T = TestType;
  for (const feature map : maps) {
    INFO("map " << static_cast<int>(map));
    heed::detail::feature_parts<T> parts{.built_in = map};
    lanes_of_rows<T> rows(parts, T(1), 1);
    for (index_t c = 0; c < rows.dim; ++c) {
      for (const index_t lane : {0, 3}) {
        rows.x[c * rows.lanes + lane] = std::numeric_limits<T>::quiet_NaN();
        rows.phi[c * rows.lanes + lane] = std::numeric_limits<T>::quiet_NaN();
      }
      rows.d[c * rows.lanes] = T(0);
    }
    recurrent::map_gradients<T>(parts, rows.block(rows.x), rows.block(rows.phi), T(1), rows.block(rows.d));
    for (index_t c = 0; c < rows.dim; ++c) {
      CHECK(rows.d[c * rows.lanes] == T(0));
      CHECK(std::isnan(rows.d[c * rows.lanes + 3]));
      CHECK(std::isfinite(rows.d[c * rows.lanes + 1]));
    }
  }
}

TEMPLATE_TEST_CASE("gradients of taylor features, block by block", "[feature_gradients]", float, double) {
  using T = TestType;
  constexpr index_t d = 5, lanes = simd::width<T>, features = 1 + d + d * d;
  heed_test::aligned_numbers<T> x(d * lanes), g(features * lanes), dx(d * lanes);
  heed_test::random_numbers random(4);
  for (index_t i = 0; i < d * lanes; ++i) x[i] = static_cast<T>(random.normal()), dx[i] = T(0);
  for (index_t i = 0; i < features * lanes; ++i) g[i] = static_cast<T>(random.normal());
  for (const recurrent::feature_block& block :
       {recurrent::feature_block{0, 1, 0}, recurrent::feature_block{1, d, 0}, recurrent::feature_block{1 + d, 3 * d, 0},
        recurrent::feature_block{1 + 4 * d, 2 * d, 3}})
    recurrent::add_taylor_gradients<T>(
        block, tile::lane_block<const T>{g.data() + block.first * lanes, lanes, block.count, lanes},
        tile::lane_block<const T>{x.data(), lanes, d, lanes}, tile::lane_block<T>{dx.data(), lanes, d, lanes});
  bool right = true;
  for (index_t a = 0; a < d; ++a)
    for (index_t l = 0; l < lanes; ++l) {
      double want = double(g[(1 + a) * lanes + l]);
      for (index_t b = 0; b < d; ++b)
        want += (double(g[(1 + d + a * d + b) * lanes + l]) + double(g[(1 + d + b * d + a) * lanes + l])) *
                double(x[b * lanes + l]) / std::sqrt(2.0);
      right = right && std::abs(double(dx[a * lanes + l]) - want) < 60 * double(std::numeric_limits<T>::epsilon());
    }
  CHECK(right);
}
