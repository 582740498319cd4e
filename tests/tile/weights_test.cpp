// SPDX-License-Identifier: BSD-3-Clause

#include "heed/tile/online_softmax.hpp"

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
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 2e-6 : 4e-15;

// The state of one tile of lanes, as a kernel starts it
template <class T> struct state {
  explicit state(index_t lanes)
      : m(at(lanes), std::numeric_limits<T>::lowest()), l(at(lanes), T(0)), factor(at(lanes), T(-1)) {}
  std::vector<T> m, l, factor;
};

}  // namespace

TEMPLATE_TEST_CASE("online_softmax over tiles equals plain softmax", "[weights]", float, double) {
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
        tile::raise(scores.data() + first * row, row, n, vectors, s.m.data(), s.factor.data());
        tile::online_softmax(scores.data() + first * row, row, n, vectors, s.m.data(), s.l.data(), s.factor.data());
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

TEMPLATE_TEST_CASE("tiles whose keys are all hidden leave l = 0, then a seen key counts whole", "[weights]", float,
                   double) {
  using T = TestType;
  const index_t vectors = tile::max_vectors, lanes = vectors * heed::simd::width<T>;
  state<T> s(lanes);
  std::vector<T> scores(at(5 * lanes), -infinity<T>);
  for (int i = 0; i < 2; ++i) {
    tile::raise(scores.data(), lanes, 5, vectors, s.m.data(), s.factor.data());
    tile::online_softmax(scores.data(), lanes, 5, vectors, s.m.data(), s.l.data(), s.factor.data());
    for (index_t l = 0; l < lanes; ++l) {
      CHECK(s.l[at(l)] == T(0));
      CHECK(s.factor[at(l)] == T(1));
      CHECK(s.m[at(l)] == std::numeric_limits<T>::lowest());
      for (index_t j = 0; j < 5; ++j) CHECK(scores[at(j * lanes + l)] == T(0));
    }
    std::fill(scores.begin(), scores.end(), -infinity<T>);
  }
  std::fill(scores.begin(), scores.begin() + lanes, T(-3));
  tile::raise(scores.data(), lanes, 5, vectors, s.m.data(), s.factor.data());
  tile::online_softmax(scores.data(), lanes, 5, vectors, s.m.data(), s.l.data(), s.factor.data());
  for (index_t l = 0; l < lanes; ++l) {
    CHECK(s.m[at(l)] == T(-3));
    CHECK(s.l[at(l)] == T(1));
  }
}

TEMPLATE_TEST_CASE("NaN reaches l of its lane and of no other", "[weights]", float, double) {
  using T = TestType;
  const index_t vectors = tile::max_vectors, lanes = vectors * heed::simd::width<T>;
  for (const index_t where : {index_t(0), index_t(2), index_t(4)})
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), infinity<T>}) {
      state<T> s(lanes);
      std::vector<T> scores(at(5 * lanes), T(1));
      scores[at(where * lanes + 1)] = bad;
      tile::raise(scores.data(), lanes, 5, vectors, s.m.data(), s.factor.data());
      tile::online_softmax(scores.data(), lanes, 5, vectors, s.m.data(), s.l.data(), s.factor.data());
      for (index_t l = 0; l < lanes; ++l) CHECK(std::isnan(s.l[at(l)]) == (l == 1));
    }
}

TEMPLATE_TEST_CASE("hide", "[weights]", float, double) {
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
    pairwise::hide(scores.data(), row, first, count, lo.data(), hi.data(), static_cast<T>(kept));
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

TEMPLATE_TEST_CASE("known_lse, decay, fill", "[weights]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  const index_t lanes = 2 * w, row = lanes + 2, keys = 9;
  heed_test::random_numbers random(23);
  const auto numbers = [&](index_t n) {
    std::vector<T> x(at(n));
    for (T& v : x) v = static_cast<T>(random.normal());
    return x;
  };
  const std::vector<T> s = numbers(keys * row), lane = numbers(lanes), power = numbers(keys - 1 + 5 + lanes);
  std::vector<T> lse = s, decayed = s, filled = s;
  tile::known_lse(lse.data(), row, keys, lanes, lane.data());
  recurrent::decay(decayed.data(), row, keys, lanes, power.data() + keys - 1, index_t(5));  // reads up to power's end
  tile::fill(filled.data(), row, keys, lanes, T(3));
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < row; ++l) {
      const index_t i = j * row + l;
      if (l >= lanes) {
        CHECK((lse[at(i)] == s[at(i)] && decayed[at(i)] == s[at(i)] && filled[at(i)] == s[at(i)]));
        continue;
      }
      CHECK(double(lse[at(i)]) == Approx(std::exp2(double(s[at(i)]) - double(lane[at(l)]))).epsilon(tolerance<T>));
      CHECK(decayed[at(i)] == s[at(i)] * power[at(keys - 1 + 5 + l - j)]);
      CHECK(filled[at(i)] == T(3));
    }
}

// Kept weights and scores of the same weights give the same products and copies.
TEMPLATE_TEST_CASE("product of known weights", "[weights]", float, double) {
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

TEMPLATE_TEST_CASE("reciprocals and the lse of a row", "[weights]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>;
  std::vector<T> l(at(w), T(4)), out(at(w), T(7));
  l[0] = 0;
  tile::reciprocals(l.data(), w, out.data());
  CHECK(out[0] == T(0));
  for (index_t i = 1; i < w; ++i) CHECK(out[at(i)] == T(0.25));
  CHECK(tile::natural_lse(T(3), T(0)) == -std::numeric_limits<T>::infinity());
  CHECK(double(tile::natural_lse(T(3), T(1))) == Approx(3 * std::log(2.0)).epsilon(tolerance<T>));
}
