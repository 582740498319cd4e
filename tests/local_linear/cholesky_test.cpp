// SPDX-License-Identifier: BSD-3-Clause

// The vector steps and the Cholesky factors of one small system per lane, beside plain loops.

#include "heed/local_linear/cholesky.hpp"

#include <cmath>
#include <vector>

#include "heed/local_linear/conjugate_gradients.hpp"

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
using namespace heed::local_linear::detail;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-13;

template <class T> std::vector<T> numbers(heed_test::random_numbers& random, index_t count) {
  std::vector<T> x(at(count));
  for (T& v : x) v = static_cast<T>(random.normal());
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("vector steps of conjugate gradients", "[solve]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(41);
  const index_t w = heed::simd::width<T>, lanes = 2 * w, row = lanes + 1, rows = 7;
  const auto matrix = [&] { return numbers<T>(random, rows * row); };
  const auto lane = [&] { return numbers<T>(random, lanes); };
  const std::vector<T> p = matrix(), Ap = matrix(), mean = matrix(), x = matrix(), r = matrix();
  const std::vector<T> sum = lane(), ridge = lane(), alpha = lane(), beta = lane();
  std::vector<T> next_Ap = Ap, next_x = x, next_r = r, next_p = p, fixed_p = p, fixed_r = r, fixed_Ap = Ap;
  std::vector<T> dot(at(lanes)), pAp = dot, rr = dot, mean_p = dot;
  lane_dot(p.data(), Ap.data(), row, rows, lanes, dot.data());
  add_mean_and_ridge<T>({nullptr, nullptr, fixed_p.data(), next_Ap.data(), row, rows, lanes}, sum.data(), mean.data(),
                        ridge.data(), pAp.data());
  update_x_r<T>({next_x.data(), next_r.data(), fixed_p.data(), fixed_Ap.data(), row, rows, lanes}, alpha.data(),
                alpha.data(), rr.data());
  update_p<T>({nullptr, fixed_r.data(), next_p.data(), nullptr, row, rows, lanes}, beta.data(), mean.data(),
              mean_p.data());
  CHECK((fixed_p == p && fixed_r == r && fixed_Ap == Ap));
  for (index_t l = 0; l < row; ++l) {
    double sums[4] = {0, 0, 0, 0};
    for (index_t d = 0; d < rows; ++d) {
      const std::size_t i = at(d * row + l);
      if (l >= lanes) {  // what is behind the lanes is not touched
        CHECK((next_Ap[i] == Ap[i] && next_x[i] == x[i] && next_r[i] == r[i] && next_p[i] == p[i]));
        continue;
      }
      const std::size_t of = at(l);
      const auto close = [](T got, double want) {
        CHECK(double(got) == Approx(want).epsilon(tolerance<T>).margin(tolerance<T>));
      };
      const double image = double(Ap[i]) - double(sum[of]) * double(mean[i]) + double(ridge[of]) * double(p[i]);
      close(next_Ap[i], image);
      close(next_x[i], double(x[i]) + double(alpha[of]) * double(p[i]));
      const double residual = double(r[i]) - double(alpha[of]) * double(Ap[i]);
      close(next_r[i], residual);
      const double direction = double(r[i]) + double(beta[of]) * double(p[i]);
      close(next_p[i], direction);
      sums[0] += double(p[i]) * double(Ap[i]), sums[1] += double(p[i]) * image;
      sums[2] += residual * residual, sums[3] += double(mean[i]) * direction;
    }
    if (l >= lanes) continue;
    const T got[4] = {dot[at(l)], pAp[at(l)], rr[at(l)], mean_p[at(l)]};
    for (int i = 0; i < 4; ++i)
      CHECK(double(got[i]) == Approx(sums[i]).epsilon(20 * tolerance<T>).margin(20 * tolerance<T>));
  }
}

TEMPLATE_TEST_CASE("Cholesky factors solve their systems, every order", "[solve]", float, double) {
  using T = TestType;
  using matrix = lane_matrix<T>;
  const index_t w = heed::simd::width<T>;
  heed_test::random_numbers random(43);
  for (index_t n = 1; n <= 18; ++n) {
    const index_t padded = matrix::padded(n), depth = n + 3;
    REQUIRE(padded >= n);
    std::vector<T> memory(at(matrix::size(n) + 1), T(-7)), x(at(depth * padded * w), T(0)), b(at(padded * w), T(0));
    for (index_t k = 0; k < depth; ++k)
      for (index_t i = 0; i < n * w; ++i) x[at(k * padded * w + i)] = static_cast<T>(random.normal());
    for (index_t i = 0; i < n * w; ++i) b[at(i)] = static_cast<T>(random.normal());
    matrix c(memory.data(), n);
    c.clear();
    c.add_products(x.data(), 2);  // in two parts
    c.add_products(x.data() + 2 * padded * w, depth - 2);
    const auto entry = [&](index_t i, index_t j, index_t l) {
      double sum = i == j ? 0.5 : 0;
      for (index_t k = 0; k < depth; ++k)
        sum += double(x[at((k * padded + i) * w + l)]) * double(x[at((k * padded + j) * w + l)]);
      return sum;
    };
    for (index_t i = 0; i < padded; ++i)
      for (index_t l = 0; l < w; ++l) c.entry(i, i)[l] = i < n ? c.entry(i, i)[l] + T(0.5) : T(1);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j <= i; ++j)
        CHECK(double(c.entry(i, j)[w - 1]) == Approx(entry(i, j, w - 1)).epsilon(tolerance<T>).margin(tolerance<T>));
    const std::vector<T> least(at(w), T(0));
    std::vector<T> y = b;
    c.factor(least.data());
    c.solve(y.data());
    CHECK(memory.back() == T(-7));
    double worst = 0;
    for (index_t l = 0; l < w; ++l)
      for (index_t i = 0; i < n; ++i) {
        double rest = double(b[at(i * w + l)]);
        for (index_t j = 0; j < n; ++j) rest -= entry(i, j, l) * double(y[at(j * w + l)]);
        worst = std::max(worst, std::abs(rest));
      }
    INFO("order " << n << ", residual " << worst);
    CHECK(worst < 300 * tolerance<T>);
  }
}

// [1 1; 1 1]: the second pivot is 0. What the matrix does not see stays 0.
TEMPLATE_TEST_CASE("a pivot that is not above the bound leaves its unknown at 0", "[solve]", float, double) {
  using T = TestType;
  using matrix = lane_matrix<T>;
  const index_t w = heed::simd::width<T>;
  std::vector<T> memory(at(matrix::size(2))), b(at(matrix::padded(2) * w), T(0)), least(at(w), T(1e-6));
  matrix c(memory.data(), 2);
  c.clear();
  for (index_t i = 0; i < c.order(); ++i)
    for (index_t j = 0; j <= i; ++j)
      for (index_t l = 0; l < w; ++l) c.entry(i, j)[l] = T(i == j || (i < 2 && j < 2));
  std::fill(b.begin(), b.begin() + 2 * w, T(3));
  c.factor(least.data());
  c.solve(b.data());
  for (index_t l = 0; l < w; ++l) {
    CHECK(b[at(l)] == T(3));
    CHECK(b[at(w + l)] == T(0));
  }
}
