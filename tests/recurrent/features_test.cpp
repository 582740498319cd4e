// SPDX-License-Identifier: BSD-3-Clause

// Feature maps against their formulas, taylor features in blocks against 1 + s + s^2 / 2.

#include "heed/recurrent/features.hpp"

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
constexpr feature all_maps[] = {feature::identity, feature::elu_plus_one, feature::relu,    feature::relu_squared,
                                feature::silu,     feature::exp,          feature::softmax, feature::taylor};
template <class T> constexpr double tolerance = 16 * std::numeric_limits<T>::epsilon();

// phi of a row by its formula; maps of taylor are not applied here
std::vector<double> formula(feature map, const std::vector<double>& x) {
  std::vector<double> y;
  double sum = 0;
  for (const double a : x) sum += std::exp(a);
  for (const double a : x) switch (map) {
      case feature::identity:
      case feature::taylor:
        y.push_back(a);
        break;
      case feature::elu_plus_one:
        y.push_back(a > 0 ? a + 1 : std::exp(a));
        break;
      case feature::relu:
        y.push_back(std::max(a, 0.0));
        break;
      case feature::relu_squared:
        y.push_back(a > 0 ? a * a : 0);
        break;
      case feature::silu:
        y.push_back(a / (1 + std::exp(-a)));
        break;
      case feature::exp:
        y.push_back(std::exp(a));
        break;
      case feature::softmax:
        y.push_back(std::exp(a) / sum);
        break;
    }
  return y;
}

// Rows of numbers between -9 and 9, 0 among them
std::vector<std::vector<double>> some_rows(index_t rows, index_t d) {
  heed_test::random_numbers random(3);
  std::vector<std::vector<double>> x(at(rows));
  for (auto& row : x)
    for (index_t i = 0; i < d; ++i) row.push_back(random.below(9) == 0 ? 0 : double(float(3 * random.normal())));
  return x;
}

// The features of a row in the order of the state
std::vector<double> taylor_formula(const std::vector<double>& x) {
  std::vector<double> y{1};
  y.insert(y.end(), x.begin(), x.end());
  for (const double a : x)
    for (const double b : x) y.push_back(a * b / std::sqrt(2.0));
  return y;
}

template <class T> heed::linear::options<T> with_map(heed::feature_map<T> map) {
  heed::linear::options<T> options;
  options.feature = map, options.normalize = false;
  return options;
}

}  // namespace

TEMPLATE_TEST_CASE("every map equals its formula, in rows and in lanes", "[features]", float, double) {
  using T = TestType;
  for (const feature map : all_maps)
    for (const index_t d : {1, 5, 16, 33}) {
      INFO("map " << static_cast<int>(map) << " d " << d);
      const index_t rows = 3, lanes = 2 * simd::width<T>;
      const auto x = some_rows(lanes, d);
      heed_test::aligned_numbers<T> in_rows(rows * d), in_lanes(d * lanes);
      for (index_t i = 0; i < rows; ++i)
        for (index_t c = 0; c < d; ++c) in_rows[i * d + c] = static_cast<T>(x[at(i)][at(c)]);
      for (index_t l = 0; l < lanes; ++l)
        for (index_t c = 0; c < d; ++c) in_lanes[c * lanes + l] = static_cast<T>(x[at(l)][at(c)]);
      const heed::feature_map<T> named(map);
      recurrent::map_rows(heed::detail::parts(named), in_rows.data(), rows, d);
      recurrent::map_lanes(heed::detail::parts(named), tile::lane_block<T>{in_lanes.data(), lanes, d, lanes});
      for (index_t l = 0; l < lanes; ++l) {
        const std::vector<double> want = formula(map, x[at(l)]);
        for (index_t c = 0; c < d; ++c) {
          CHECK(double(in_lanes[c * lanes + l]) == Approx(want[at(c)]).epsilon(tolerance<T>));
          if (l < rows) CHECK(double(in_rows[l * d + c]) == Approx(want[at(c)]).epsilon(tolerance<T>));
        }
      }
    }
}

TEMPLATE_TEST_CASE("a map of the caller's is applied element by element", "[features]", float, double) {
  using T = TestType;
  const heed::feature_map<T> map([](T x) { return 2 * x + 1; }, [](T) { return T(2); });
  heed_test::aligned_numbers<T> x(7);
  for (index_t i = 0; i < 7; ++i) x[i] = static_cast<T>(i);
  recurrent::map_rows(heed::detail::parts(map), x.data(), 1, 7);
  recurrent::scale_values(x.data(), 7, T(0.5), x.data());
  for (index_t i = 0; i < 7; ++i) CHECK(x[i] == static_cast<T>(i) + T(0.5));
}

TEMPLATE_TEST_CASE("extreme values of the maps", "[features]", float, double) {
  using T = TestType;
  const T inf = std::numeric_limits<T>::infinity(), most = std::numeric_limits<T>::max();
  const auto mapped = [](feature map, T x) {
    heed_test::aligned_numbers<T> y(1);
    y[0] = x;
    const heed::feature_map<T> named(map);
    recurrent::map_rows(heed::detail::parts(named), y.data(), 1, 1);
    return y[0];
  };
  CHECK(mapped(feature::elu_plus_one, -inf) == T(0));
  CHECK(mapped(feature::elu_plus_one, most) == most);
  CHECK(mapped(feature::silu, -most) == T(0));
  CHECK(mapped(feature::silu, -inf) == T(0));
  CHECK(mapped(feature::silu, most) == most);
  CHECK(mapped(feature::relu, -inf) == T(0));
  CHECK(mapped(feature::exp, -inf) == T(0));
  CHECK(mapped(feature::softmax, T(5)) == T(1));
}

TEMPLATE_TEST_CASE("taylor weights are 1 + s + s^2 / 2", "[features]", float, double) {
  using T = TestType;
  const index_t lanes = 2 * simd::width<T>, keys = 5, stride = lanes + simd::width<T>;
  heed_test::aligned_numbers<T> s(keys * stride);
  for (index_t i = 0; i < keys * stride; ++i) s[i] = static_cast<T>(0.25) * static_cast<T>(i % 23 - 11);
  recurrent::taylor_weights(tile::lane_block<T>{s.data(), stride, keys, lanes});
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < stride; ++l) {
      const double x = 0.25 * static_cast<double>((j * stride + l) % 23 - 11);
      CHECK(double(s[j * stride + l]) == (l < lanes ? 1 + x + x * x / 2 : x));  // quarters are exact
    }
}

TEMPLATE_TEST_CASE("taylor features: blocks in order, and the product of two is 1 + s + s^2 / 2", "[features]", float,
                   double) {
  using T = TestType;
  for (const index_t d : {1, 2, 5, 16, 33, 65}) {
    INFO("d " << d);
    const index_t chunk = 3, lanes = simd::width<T>;
    heed_test::recurrent_problem<T> x({.queries = chunk, .keys = chunk, .d = d, .e = 4}, with_map<T>(feature::taylor));
    const auto p = x.problem();
    REQUIRE(p.features == 1 + d + d * d);
    const heed_test::with_scratch<recurrent::chunk_features<T>> features(p, chunk);
    const heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, chunk);
    const auto keys = some_rows(chunk, d), queries = some_rows(lanes, d);
    heed_test::aligned_numbers<T> k(chunk * d), q(d * lanes);
    for (index_t j = 0; j < chunk; ++j)
      for (index_t c = 0; c < d; ++c) k[j * d + c] = static_cast<T>(0.1 * keys[at(j)][at(c)]);
    for (index_t l = 0; l < lanes; ++l)
      for (index_t c = 0; c < d; ++c) q[c * lanes + l] = static_cast<T>(0.1 * queries[at(l)][at(c)]);

    index_t next = 0;
    std::vector<double> sums(at(chunk * lanes), 0.0);
    bool right = true;
    features.part.each_block([&](const recurrent::feature_block& block) {
      REQUIRE(block.first == next);
      next += block.count;
      const T* const phi_q = features.part.of_queries(tile::lane_block<T>{q.data(), lanes, d, lanes}, block);
      const auto phi_k =
          features.part.of_keys(tile::lane_block<const T>{k.data(), d, chunk, d}, decay.part, block);
      for (index_t j = 0; j < chunk; ++j) {
        std::vector<double> row;
        for (index_t c = 0; c < d; ++c) row.push_back(double(k[j * d + c]));
        const std::vector<double> want = taylor_formula(row);
        for (index_t f = 0; f < block.count; ++f) {
          right = right && double(phi_k.row(j)[f]) ==
                               Approx(want[at(block.first + f)]).epsilon(tolerance<T>).margin(1e-30);
          for (index_t l = 0; l < lanes; ++l)
            sums[at(j * lanes + l)] += double(phi_k.row(j)[f]) * double(phi_q[f * lanes + l]);
        }
      }
    });
    CHECK(next == p.features);
    CHECK(right);
    for (index_t j = 0; j < chunk; ++j)
      for (index_t l = 0; l < lanes; ++l) {
        double s = 0;
        for (index_t c = 0; c < d; ++c) s += double(k[j * d + c]) * double(q[c * lanes + l]);
        CHECK(sums[at(j * lanes + l)] == Approx(1 + s + s * s / 2).epsilon(10 * tolerance<T>));
      }
  }
}

TEMPLATE_TEST_CASE("keys with decay are multiplied with it; others are read in place", "[features]", float, double) {
  using T = TestType;
  const index_t n = 6, d = 19;
  const std::vector<double> slopes{0.25};
  for (const bool decays : {false, true}) {
    heed_test::recurrent_problem<T> x({.queries = n, .keys = n, .d = d, .e = 4}, with_map<T>(feature::identity));
    x.decay.slopes = heed::per_head(slopes), x.decays = decays;
    const auto p = x.problem();
    heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, n);
    const heed_test::with_scratch<recurrent::chunk_features<T>> features(p, n);
    decay.part.begin_state(p.sequence_at(0), 0);
    decay.part.begin_chunk(0, n);
    const tile::lane_block<const T> keys{x.k.cview().data(), d, n, d};
    features.part.each_block([&](const recurrent::feature_block& block) {
      REQUIRE(block.count == d);
      const auto phi = features.part.of_keys(keys, decay.part, block);
      CHECK((phi.data == keys.data) == !decays);
      for (index_t j = 0; j < n; ++j)
        for (index_t c = 0; c < d; ++c) {
          const double want = double(x.k(0, 0, j, c)) * (decays ? std::exp(-0.25 * double(n - 1 - j)) : 1);
          CHECK(double(phi.row(j)[c]) == Approx(want).epsilon(tolerance<T>));
        }
    });
  }
}

TEMPLATE_TEST_CASE("odd_lines: an odd number of cache lines that holds the row", "[features]", float, double) {
  const index_t line = 64 / static_cast<index_t>(sizeof(TestType));
  for (index_t count = 1; count < 300; ++count) {
    const index_t stride = recurrent::odd_lines<TestType>(count);
    const bool right = stride >= count && stride < count + 2 * line && stride % line == 0 && stride / line % 2 == 1;
    CHECK(right);
  }
}
