// SPDX-License-Identifier: BSD-3-Clause

#include "heed/tile/online_softmax.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 2e-6 : 4e-15;

// The state of one tile of lanes, as a kernel starts it
template <class T> struct state {
  explicit state(index_t lanes)
      : m(at(lanes)), l(at(lanes)), factor(at(lanes), T(-1)), rows{m.data(), l.data()} {
    rows.init(lanes);
  }
  void update(const tile::lane_block<T>& scores) {
    tile::raise_max<T>(scores, m.data(), factor.data());
    rows.update(scores, 0, factor.data());
  }
  std::vector<T> m, l, factor;
  tile::lane_states<T> rows;
};

}  // namespace

TEMPLATE_TEST_CASE("online_softmax over tiles equals plain softmax", "[online_softmax]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(21);
  for (index_t vectors = 1; vectors <= tile::max_vectors; ++vectors)
    for (const double size : {1.0, 30.0}) {
      const index_t lanes = vectors * heed::simd::width<T>, row = lanes + 3, keys = 41;
      std::vector<T> scores(at(keys * row), T(-77));
      for (index_t j = 0; j < keys; ++j)
        for (index_t l = 0; l < lanes; ++l)
          scores[at(j * row + l)] = random.below(6) == 0 ? -infinity<T> : static_cast<T>(size * random.normal());
      const std::vector<T> original = scores;
      state<T> s(lanes);
      std::vector<double> weighted(at(lanes), 0.0);  // sum of p * j, rescaled as an output is
      index_t first = 0;
      for (const index_t n : {1, 7, 0, 16, 17}) {
        const std::vector<T> old_m = s.m;
        s.update({scores.data() + first * row, row, n, lanes});
        for (index_t l = 0; l < lanes; ++l) {
          CHECK(s.factor[at(l)] ==
                Approx(std::exp2(double(old_m[at(l)]) - double(s.m[at(l)]))).epsilon(tolerance<T> * 10).margin(1e-37));
          weighted[at(l)] *= double(s.factor[at(l)]);
          for (index_t j = first; j < first + n; ++j) weighted[at(l)] += double(scores[at(j * row + l)]) * double(j);
        }
        first += n;
      }
      REQUIRE(first == keys);
      for (index_t l = 0; l < lanes; ++l) {
        double top = -1e300, sum = 0, want = 0;
        for (index_t j = 0; j < keys; ++j) top = std::max(top, double(original[at(j * row + l)]));
        for (index_t j = 0; j < keys; ++j) {
          const double p = std::exp2(double(original[at(j * row + l)]) - top);
          sum += p, want += p * double(j);
        }
        CHECK(double(s.m[at(l)]) == top);
        CHECK(double(s.l[at(l)]) == Approx(sum).epsilon(tolerance<T> * 4));
        CHECK(weighted[at(l)] / double(s.l[at(l)]) == Approx(want / sum).epsilon(tolerance<T> * 8));
      }
      bool canaries = true;
      for (index_t j = 0; j < keys; ++j)
        for (index_t l = lanes; l < row; ++l) canaries = canaries && scores[at(j * row + l)] == T(-77);
      CHECK(canaries);
    }
}

TEMPLATE_TEST_CASE("tiles whose keys are all hidden leave l = 0, then a seen key counts whole", "[online_softmax]",
                   float, double) {
  using T = TestType;
  const index_t vectors = tile::max_vectors, lanes = vectors * heed::simd::width<T>;
  state<T> s(lanes);
  std::vector<T> scores(at(5 * lanes), -infinity<T>);
  for (int i = 0; i < 2; ++i) {
    s.update({scores.data(), lanes, 5, lanes});
    for (index_t l = 0; l < lanes; ++l) {
      CHECK(s.l[at(l)] == T(0));
      CHECK(s.factor[at(l)] == T(1));
      CHECK(s.m[at(l)] == std::numeric_limits<T>::lowest());
      for (index_t j = 0; j < 5; ++j) CHECK(scores[at(j * lanes + l)] == T(0));
    }
    std::fill(scores.begin(), scores.end(), -infinity<T>);
  }
  std::fill(scores.begin(), scores.begin() + lanes, T(-3));
  s.update({scores.data(), lanes, 5, lanes});
  for (index_t l = 0; l < lanes; ++l) {
    CHECK(s.m[at(l)] == T(-3));
    CHECK(s.l[at(l)] == T(1));
  }
}

TEMPLATE_TEST_CASE("NaN reaches l of its lane and of no other", "[online_softmax]", float, double) {
  using T = TestType;
  const index_t vectors = tile::max_vectors, lanes = vectors * heed::simd::width<T>;
  for (const index_t where : {index_t(0), index_t(2), index_t(4)})
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), infinity<T>}) {
      state<T> s(lanes);
      std::vector<T> scores(at(5 * lanes), T(1));
      scores[at(where * lanes + 1)] = bad;
      s.update({scores.data(), lanes, 5, lanes});
      for (index_t l = 0; l < lanes; ++l) CHECK(std::isnan(s.l[at(l)]) == (l == 1));
    }
}

TEMPLATE_TEST_CASE("reciprocals and the lse of a row", "[online_softmax]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  std::vector<T> m(at(w), T(0)), l(at(w), T(4)), out(at(w), T(7));
  l[0] = 0;
  tile::lane_states<T>{m.data(), l.data()}.reciprocals(w, out.data());
  CHECK(out[0] == T(0));
  for (index_t i = 1; i < w; ++i) CHECK(out[at(i)] == T(0.25));
  CHECK(tile::row_state<T>{T(3), T(0)}.lse() == -std::numeric_limits<T>::infinity());
  CHECK(double(tile::row_state<T>{T(3), T(1)}.lse()) == Approx(3 * std::log(2.0)).epsilon(tolerance<T>));
}

// Rows side by side in a vector: the state of each is that of its scores alone.
TEMPLATE_TEST_CASE("update_rows: [key][row] scores of R rows", "[online_softmax]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>, rows = 2, vectors = 3;
  heed_test::random_numbers random(24);
  state<T> s(w);
  s.rows.set(0, {T(1), T(1)}), s.m[1] = T(-1);  // row 0 starts from a sink
  for (index_t lane = 0; lane < w; ++lane) s.m[at(lane)] = s.m[at(lane % rows)];
  std::vector<T> scores(at(vectors * w));
  for (T& x : scores) x = random.below(5) == 0 ? -infinity<T> : static_cast<T>(3 * random.normal());
  const std::vector<T> original = scores, before = s.m;
  std::vector<T> factor(at(w));
  heed::simd::store(factor.data(), s.rows.template update_rows<rows>(scores.data(), vectors, 0));
  for (index_t r = 0; r < rows; ++r) {
    double top = double(before[at(r)]), l = 0;
    for (index_t i = r; i < vectors * w; i += rows) top = std::max(top, double(original[at(i)]));
    double want = r == 0 ? std::exp2(1 - top) : 0;
    for (index_t i = r; i < vectors * w; i += rows) {
      want += std::exp2(double(original[at(i)]) - top);
      CHECK(double(scores[at(i)]) == Approx(std::exp2(double(original[at(i)]) - top)).epsilon(tolerance<T> * 10));
    }
    for (index_t lane = r; lane < w; lane += rows) {
      CHECK(double(s.m[at(lane)]) == top);
      CHECK(double(factor[at(lane)]) == Approx(std::exp2(double(before[at(r)]) - top)).epsilon(tolerance<T> * 10));
      l += double(s.l[at(lane)]);
    }
    CHECK(l == Approx(want).epsilon(tolerance<T> * 10));
  }
}

TEMPLATE_TEST_CASE("merge: two states of a row are the state of all its keys", "[online_softmax]", float, double) {
  using T = TestType;
  const auto exp2 = [](T x) { return std::exp2(x); };
  const tile::row_state<T> none, a{T(3), T(1.5)}, b{T(-2), T(4)};
  for (const bool swapped : {false, true}) {
    tile::row_state<T> s = swapped ? b : a;
    const auto factors = s.merge(swapped ? a : b, exp2);
    CHECK(s.m == T(3));
    CHECK(double(s.l) == Approx(1.5 + 4 * std::exp2(-5.0)));
    CHECK((swapped ? factors.second : factors.first) == T(1));
    CHECK(double(swapped ? factors.first : factors.second) == Approx(std::exp2(-5.0)));
  }
  tile::row_state<T> s = none;
  CHECK(s.merge(a, exp2) == std::pair<T, T>{T(0), T(1)});
  CHECK((s.m == a.m && s.l == a.l));
  CHECK(s.merge(none, exp2) == std::pair<T, T>{T(1), T(0)});
  CHECK((s.m == a.m && s.l == a.l));
  s.merge({std::numeric_limits<T>::quiet_NaN(), T(1)}, exp2);
  CHECK((std::isnan(s.m) && std::isnan(s.l)));
}

TEMPLATE_TEST_CASE("finish: o is multiplied with gate / l", "[online_softmax]", float, double) {
  using T = TestType;
  const tile::row_state<T> none, seen{T(3), T(4)};
  T scaled = 0;
  const auto finish = [&](const tile::row_state<T>& x, T gate, bool zeros) {
    scaled = 0;
    return x.finish(gate, none, [&](T factor) { scaled = factor; }, [&] { return zeros; });
  };
  CHECK(finish(seen, T(1), false) == T(0.25));
  CHECK(finish(seen, T(-2), false) == T(-0.5));
  CHECK(finish(none, T(1), true) == T(0));
  CHECK(scaled == T(0));
  CHECK(std::isinf(finish(seen, infinity<T>, false)));  // 1 / l first: 0 * infinity would be NaN
  CHECK(scaled == T(0.25));
  CHECK(std::isinf(finish(seen, infinity<T>, true)));  // keys were seen: their values are 0
  CHECK(scaled == T(0.25));
  const tile::row_state<T> sink{T(1), T(1)};
  CHECK(sink.finish(infinity<T>, sink, [](T) {}, [] { return true; }) == T(0));  // no key
}
