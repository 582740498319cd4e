// SPDX-License-Identifier: BSD-3-Clause

// A chunk's decay in reverse, as backward reads it, against products of its factors in long double.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "heed/recurrent/decay.hpp"
#include "support/catch.hpp"
#include "support/recurrent_problem.hpp"

namespace {

using heed::index_t;
namespace recurrent = heed::recurrent;
namespace simd = heed::simd;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();

// W(i, j), the product of the factors of tokens j + 1 .. i
long double product(const std::vector<long double>& lambda, index_t i, index_t j) {
  long double w = 1;
  for (index_t t = j + 1; t <= i; ++t) w *= lambda[at(t)];
  return w;
}

// Below the smallest normal number a weight may be 0.
template <class T> bool near(T got, long double want) {
  const long double eps = std::numeric_limits<T>::epsilon(), least = std::numeric_limits<T>::min();
  const long double size = want > least ? -std::log2(want) : 0;
  if (want == 0) return got == T(0);
  return std::abs(static_cast<long double>(got) - want) <= want * (eps * (4 + size) + 1e-13L) + 2 * least;
}

// Row r is query n - 1 - r, lane l is key n - 1 - l.
template <class T>
void check_reverse(const recurrent::chunk_decay<T>& decay, const std::vector<long double>& lambda, index_t n) {
  bool rows_right = true, lanes_right = true, pairs_right = true, sees_right = true;
  for (index_t r = 0; r < n; ++r) rows_right = rows_right && near(decay.k_decay()[r], product(lambda, n - 1 - r, -1));
  for (index_t l = 0; l < n; ++l)
    lanes_right = lanes_right && near(*decay.q_decay(l), product(lambda, n - 1, n - 1 - l));
  for (index_t r = 0; r < decay.first_kept(); ++r) rows_right = rows_right && decay.k_decay()[r] == T(0);
  const index_t whole = tile::whole_vectors<T>(n);
  heed_test::aligned_numbers<T> scores(n * whole);
  for (index_t i = 0; i < n * whole; ++i) scores[i] = std::numeric_limits<T>::quiet_NaN();
  for (index_t r = 0; r < n; ++r)
    for (index_t l = r; l < n; ++l)
      if (product(lambda, n - 1 - r, n - 1 - l) > 0) scores[r * whole + l] = T(1);
  decay.apply_diag_decay(tile::lane_block<T>{scores.data(), whole, n, whole}, 0, 0);
  for (index_t r = 0; r < n; ++r)
    for (index_t l = 0; l < n; ++l) {
      const long double w = l < r ? 0 : product(lambda, n - 1 - r, n - 1 - l);
      pairs_right = pairs_right && near(scores[r * whole + l], w);
      if (w == 0 || w > std::numeric_limits<T>::min()) sees_right = sees_right && decay.sees(l, r) == (w > 0);
    }
  CHECK(rows_right);
  CHECK(lanes_right);
  CHECK(pairs_right);
  CHECK(sees_right);
  CHECK(near(decay.block_decay(), product(lambda, n - 1, -1)));
}

}  // namespace

TEMPLATE_TEST_CASE("a chunk in reverse: slopes", "[reverse_decay]", float, double) {
  using T = TestType;
  for (const double slope : {0.001, 0.3, 5.0, infinity<double>}) {
    heed_test::recurrent_problem<T> x({.queries = 70, .keys = 70, .d = 4, .e = 4});
    const std::vector<double> slopes{slope};
    x.decay.slopes = heed::per_head(slopes), x.decays = true;
    const auto p = x.problem();
    heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, index_t{70});
    decay.part.begin_state(p.sequence_at(0), 0);
    for (const index_t n : {1, 7, 16, 70}) {
      INFO("slope " << slope << ", n " << n);
      decay.part.begin_chunk(0, n, true);
      check_reverse(decay.part, std::vector<long double>(at(n), std::exp(-static_cast<long double>(slope))), n);
      if (slope == infinity<double>) CHECK(decay.part.first_kept() == n);
    }
  }
}

TEMPLATE_TEST_CASE("a chunk in reverse: gates, resets among them, and forward again", "[reverse_decay]", float,
                   double) {
  using T = TestType;
  for (const std::vector<index_t>& resets :
       {std::vector<index_t>{}, std::vector<index_t>{0}, std::vector<index_t>{20, 21, 33}, std::vector<index_t>{39}}) {
    heed_test::recurrent_problem<T> x({.queries = 90, .keys = 90, .d = 4, .e = 4});
    auto gates = heed_test::buffer<T>::input({1, 1, 90, 1});
    heed_test::random_numbers random(8);
    gates.each([&](T& g) { g = static_cast<T>(-0.2 * random.uniform()); });
    constexpr index_t first = 30, n = 40;
    for (const index_t reset : resets) gates(0, 0, first + reset) = -infinity<T>;
    x.decay.log_gates = gates.view3(), x.decay.gated = true, x.decays = true;
    const auto p = x.problem();
    std::vector<long double> lambda;
    for (index_t t = 0; t < n; ++t) lambda.push_back(std::exp(static_cast<long double>(gates(0, 0, first + t))));
    heed_test::with_scratch<recurrent::chunk_decay<T>> decay(p, index_t{64});
    decay.part.begin_state(p.sequence_at(0), 0);
    decay.part.begin_chunk(first, n, true);
    check_reverse(decay.part, lambda, n);
    CHECK(decay.part.has_reset() == !resets.empty());
    decay.part.begin_chunk(first, n);
    bool right = true;
    for (index_t j = 0; j < n; ++j)
      right = right && near(*decay.part.q_decay(j), product(lambda, j, -1)) &&
              near(decay.part.k_decay()[j], product(lambda, n - 1, j));
    CHECK(right);
    decay.part.begin_undecayed();
    CHECK_FALSE(decay.part.decays());
    CHECK(decay.part.block_decay() == T(1));
    for (const index_t reset : resets) CHECK(decay.part.resets(gates(0, 0, first + reset)));
    CHECK_FALSE(decay.part.resets(T(-80)));
  }
}
