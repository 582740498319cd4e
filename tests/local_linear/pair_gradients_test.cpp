// SPDX-License-Identifier: BSD-3-Clause

// The steps of backward over the pairs of a tile, beside plain loops in long double.

#include "heed/local_linear/pair_gradients.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
using real = long double;
namespace detail = heed::local_linear::detail;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr T infinite = std::numeric_limits<T>::infinity();
template <class T> constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

// A block of keys and lanes: scores, weights as kept and as scores, products, and the numbers of the rows. Pair (0, 0)
// is hidden and its products are NaN.
template <class T> struct block {
  static constexpr index_t w = heed::simd::width<T>, keys = 7;
  index_t vectors, lanes = vectors * w, row = lanes + w;
  heed_test::random_numbers random{3};
  std::vector<T> s = numbers(keys * row, 0), kept = numbers(keys * row, 0), t = numbers(keys * row, 0),
                 r = numbers(keys * row, 0), b = numbers(keys * row, 5), m = numbers(lanes, 6),
                 factor = numbers(lanes, 2), a = numbers(lanes, 0), c = numbers(lanes, 0), b_mean = numbers(lanes, 5),
                 delta = numbers(lanes, 0);

  explicit block(index_t count) : vectors(count) {
    for (T& x : kept) x = std::abs(x);
    for (T& x : factor) x = std::abs(x);
    s[0] = -infinite<T>, kept[0] = T(0), t[0] = r[0] = b[0] = not_a_number<T>;
  }
  std::vector<T> numbers(index_t n, double mean) {
    std::vector<T> x(at(n));
    for (T& value : x) value = static_cast<T>(random.normal() + mean);
    return x;
  }
  tile::known_weights<T> weights(bool scores) const {
    return scores ? tile::known_weights<T>{s.data(), row, factor.data(), m.data()}
                  : tile::known_weights<T>{kept.data(), row, factor.data()};
  }
  real p(index_t j, index_t l, bool scores) const {
    const std::size_t i = at(j * row + l);
    return real{factor[at(l)]} * (scores ? std::exp2(real{s[i]} - real{m[at(l)]}) : real{kept[i]});
  }
  detail::lane_offsets<T> offsets(bool with_delta) const {
    return {a.data(), c.data(), b_mean.data(), with_delta ? delta.data() : nullptr};
  }
  struct pair {
    real a, c;
  };
  pair at_pair(index_t j, index_t l) const {
    const std::size_t i = at(j * row + l);
    return {real{t[i]} + real{a[at(l)]}, real{b[i]} - real{b_mean[at(l)]} + real{r[i]} + real{c[at(l)]}};
  }
};

template <class T> bool close(T got, real want, real size = 1) {
  const real eps = std::numeric_limits<T>::epsilon();
  return std::abs(real{got} - want) <= 64 * eps * (size + std::abs(want));
}

// All but pair (0, 0)
template <class T> bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin() + 1, a.end(), b.begin() + 1, b.end());
}

// f(block, whether weights are scores) for all counts of vectors
template <class T, class F> void each_block(F f) {
  for (index_t vectors = 1; vectors <= tile::max_vectors; ++vectors)
    for (const bool scores : {false, true}) f(block<T>(vectors), scores);
}

}  // namespace

TEMPLATE_TEST_CASE("means of b and what is left about them", "[pair_gradients]", float, double) {
  using T = TestType;
  each_block<T>([](const block<T>& x, bool scores) {
    std::vector<T> mean(at(x.lanes), T(1)), total(at(x.lanes), T(2)), squares(at(x.lanes), T(3)),
        out(x.t.size(), T(77));
    detail::add_weighted(x.weights(scores), x.keys, x.vectors, x.b.data(), mean.data());
    detail::weigh_about(x.weights(scores), x.keys, x.vectors, x.b.data(), x.b_mean.data(), out.data(), total.data(),
                        squares.data());
    for (index_t l = 0; l < x.lanes; ++l) {
      real sum = 1, about = 2, square = 3, size = 1;
      for (index_t j = 0; j < x.keys; ++j) {
        if (j == 0 && l == 0) continue;
        const real p = x.p(j, l, scores), b = real{x.b[at(j * x.row + l)]}, d = b - real{x.b_mean[at(l)]};
        sum += p * b, about += p * d, square += p * d * d, size += std::abs(p * b) * (1 + std::abs(d));
        CHECK(close(out[at(j * x.row + l)], p * d, std::abs(p * b)));
      }
      CHECK((close(mean[at(l)], sum, size) && close(total[at(l)], about, size)));
      CHECK(close(squares[at(l)], square, size));
    }
    CHECK(heed::detail::equals(out[0], T(0)));
    CHECK(heed::detail::equals(out[at(x.lanes)], T(77)));  // nothing behind the lanes is touched
  });
}

TEMPLATE_TEST_CASE("gradients of scores from known weights, and their sums", "[pair_gradients]", float, double) {
  using T = TestType;
  for (const bool with_delta : {false, true})
    each_block<T>([&](const block<T>& given, bool scores) {
      block<T> x = given, alone = given;
      std::vector<T> a(at(x.lanes), T(1)), c = a, ac = a, a_alone = a, none(at(x.lanes), T(9));
      const auto step = [&](block<T>& y, bool adjoint, const detail::pair_sums<T>& sums) {
        const detail::pair_products<T> products{y.t.data(), y.r.data(), y.b.data(), y.row};
        detail::score_gradients(y.weights(scores), y.keys, y.vectors, products, y.offsets(with_delta), adjoint, sums);
      };
      step(x, true, {a.data(), c.data(), ac.data()});
      step(alone, false, {a_alone.data(), none.data(), none.data()});
      CHECK((a == a_alone && none == std::vector<T>(at(x.lanes), T(9)) && same(alone.r, given.r)));
      for (index_t l = 0; l < x.lanes; ++l) {
        real sum_a = 1, sum_c = 1, sum_ac = 1, size = 1;
        for (index_t j = 0; j < x.keys; ++j) {
          if (j == 0 && l == 0) continue;
          const real p = given.p(j, l, scores);
          const auto [pair_a, pair_c] = given.at_pair(j, l);
          const real ds = p * (pair_a * pair_c - (with_delta ? real{x.delta[at(l)]} : 0));
          sum_a += p * pair_a, sum_c += p * pair_c, sum_ac += ds;
          const real each = p * (10 + std::abs(pair_a)) * (10 + std::abs(pair_c));
          size += each;
          CHECK(close(x.t[at(j * x.row + l)], ds, each));
        }
        CHECK((close(a[at(l)], sum_a, size) && close(c[at(l)], sum_c, size) && close(ac[at(l)], sum_ac, size)));
      }
      CHECK(heed::detail::equals(x.t[0], T(0)));
      CHECK(heed::detail::equals(x.t[at(x.lanes)], given.t[at(x.lanes)]));
    });
}

// A lane whose row is not finite has NaN for the pairs that it sees and 0 for those that are hidden.
TEMPLATE_TEST_CASE("gradients of pairs from scores", "[pair_gradients]", float, double) {
  using T = TestType;
  each_block<T>([](block<T> given, bool scores) {
    if (!scores) return;
    const index_t lost = given.lanes - 1;
    given.factor[at(lost)] = not_a_number<T>;
    given.s[at(2 * given.row + lost)] = -infinite<T>;
    block<T> x = given, alone = given;
    const auto step = [](block<T>& y, bool adjoint) {
      const detail::pair_products<T> products{y.t.data(), y.r.data(), y.b.data(), y.row};
      detail::pair_gradients(y.weights(true), y.keys, y.vectors, products, y.offsets(true), adjoint);
    };
    step(x, true), step(alone, false);
    CHECK((same(alone.r, given.r) && same(alone.b, given.b)));
    for (index_t j = 0; j < x.keys; ++j)
      for (index_t l = 0; l < x.lanes; ++l) {
        const std::size_t i = at(j * x.row + l);
        if (std::isinf(given.s[i])) {
          CHECK((heed::detail::equals(x.t[i], T(0)) && heed::detail::equals(x.b[i], T(0))));
          CHECK((heed::detail::equals(x.r[i], T(0)) && heed::detail::equals(alone.t[i], T(0))));
        } else if (l == lost) {
          CHECK((std::isnan(x.t[i]) && std::isnan(x.b[i]) && std::isnan(x.r[i]) && std::isnan(alone.t[i])));
        } else {
          const real p = given.p(j, l, true);
          const auto [a, c] = given.at_pair(j, l);
          const real size = p * (10 + std::abs(a)) * (10 + std::abs(c));
          CHECK((close(x.t[i], p * a, size) && heed::detail::equals(x.t[i], alone.t[i])));
          CHECK((close(x.b[i], p * c, size) && close(x.r[i], p * (a * c - real{x.delta[at(l)]}), size)));
        }
      }
    CHECK(heed::detail::equals(x.r[at(x.lanes)], given.r[at(x.lanes)]));
  });
}
