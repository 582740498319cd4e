// SPDX-License-Identifier: BSD-3-Clause

// Every block shape of multiply against plain loops in double.

#include "heed/tile/multiply.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

template <class T> std::vector<T> numbers(index_t count, heed_test::random_numbers& random) {
  std::vector<T> x(static_cast<std::size_t>(count));
  if (count == 0) x.reserve(1);  // a pointer, too
  for (T& v : x) v = static_cast<T>(random.normal());
  return x;
}

constexpr double canary = -1234.5;

// One product; returns the largest error in units of depth * epsilon and whether anything outside C changed.
template <class T> struct outcome {
  double error = 0;
  bool canaries = true;
};

template <class T>
outcome<T> run(index_t vectors, index_t rows, index_t depth, tile::accumulate how, bool swapped,
               heed_test::random_numbers& random) {
  constexpr index_t w = heed::simd::width<T>;
  const index_t lanes = vectors * w, pad = 3,
                above = 2;  // C: two rows of canaries above and below, 3 columns left, w + 3 right
  const index_t b_row = lanes + 5, c_row = lanes + 2 * pad + w;
  const index_t a_row = swapped ? 1 : depth + 2, a_col = swapped ? rows + 3 : 1;
  // exactly what A and B may be read from: a sanitizer sees more
  const auto a = numbers<T>(rows * depth == 0 ? 0 : (rows - 1) * a_row + (depth - 1) * a_col + 1, random);
  const auto b = numbers<T>(depth == 0 ? 0 : (depth - 1) * b_row + lanes, random);
  const auto factor = numbers<T>(lanes, random);
  std::vector<T> c(static_cast<std::size_t>((rows + 2 * above) * c_row), static_cast<T>(canary));
  T* const start = c.data() + above * c_row + pad;
  for (index_t m = 0; m < rows; ++m)
    for (index_t l = 0; l < lanes; ++l)
      start[m * c_row + l] =
          how == tile::accumulate::zero ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(random.normal());
  const std::vector<T> before = c;

  tile::matrix_product<T> p;
  p.a = a.data(), p.a_row = a_row, p.a_col = a_col;
  p.b = b.data(), p.b_row = b_row;
  p.c = start, p.c_row = c_row;
  p.rows = rows, p.depth = depth;
  p.accumulate = how, p.factor = factor.data();
  tile::multiply(p, vectors);

  outcome<T> out;
  for (index_t i = 0; i < static_cast<index_t>(c.size()); ++i) {
    const index_t m = i / c_row - above, l = i % c_row - pad;
    const T old = before[static_cast<std::size_t>(i)], got = c[static_cast<std::size_t>(i)];
    if (m < 0 || m >= rows || l < 0 || l >= lanes) {
      out.canaries = out.canaries && got == static_cast<T>(canary);
      continue;
    }
    double want = 0, size = 1;
    if (how == tile::accumulate::keep) want = static_cast<double>(old);
    if (how == tile::accumulate::scale)
      want = static_cast<double>(old) * static_cast<double>(factor[static_cast<std::size_t>(l)]);
    size += std::fabs(want);
    for (index_t k = 0; k < depth; ++k) {
      const double term = static_cast<double>(a[static_cast<std::size_t>(m * a_row + k * a_col)]) *
                          static_cast<double>(b[static_cast<std::size_t>(k * b_row + l)]);
      want += term, size += std::fabs(term);
    }
    const double bound = size * static_cast<double>(depth + 2) * static_cast<double>(std::numeric_limits<T>::epsilon());
    const double error = std::fabs(static_cast<double>(got) - want) / bound;
    if (!(error <= out.error)) out.error = error;
  }
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE("multiply equals plain loops for every shape", "[multiply]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(11);
  for (int vectors = 1; vectors <= tile::max_vectors; ++vectors)
    for (index_t rows = 0; rows <= 2 * tile::block_rows(vectors) + 5; ++rows)
      for (const index_t depth : {0, 1, 2, 17})
        for (const tile::accumulate how : {tile::accumulate::zero, tile::accumulate::keep, tile::accumulate::scale})
          for (const bool swapped : {false, true}) {
            const outcome<T> got = run<T>(vectors, rows, depth, how, swapped, random);
            INFO(vectors << " vectors, " << rows << " rows, depth " << depth << ", start " << static_cast<int>(how)
                         << (swapped ? ", strides swapped" : ""));
            CHECK(got.error <= 1);
            CHECK(got.canaries);
          }
}

TEST_CASE("a row of C does not depend on the rows beside it", "[multiply]") {
  // The same row in a block and alone: equal bits, as each sum runs over k in order.
  heed_test::random_numbers random(12);
  constexpr index_t w = heed::simd::width<float>, depth = 23;
  const index_t rows = 2 * tile::block_rows(1) + 5;
  for (int vectors = 1; vectors <= tile::max_vectors; ++vectors) {
    const index_t lanes = vectors * w;
    const auto a = numbers<float>(rows * depth, random), b = numbers<float>(depth * lanes, random);
    std::vector<float> all(static_cast<std::size_t>(rows * lanes)), one(static_cast<std::size_t>(lanes));
    tile::matrix_product<float> p;
    p.a = a.data(), p.a_row = depth, p.a_col = 1, p.b = b.data(), p.b_row = lanes, p.depth = depth;
    p.c = all.data(), p.c_row = lanes, p.rows = rows;
    tile::multiply(p, vectors);
    p.c = one.data(), p.rows = 1;
    bool same = true;
    for (index_t m = 0; m < rows; ++m) {
      p.a = a.data() + m * depth;
      tile::multiply(p, vectors);
      for (index_t l = 0; l < lanes; ++l)
        same = same && one[static_cast<std::size_t>(l)] == all[static_cast<std::size_t>(m * lanes + l)];
    }
    CAPTURE(vectors);
    CHECK(same);
  }
}
