// SPDX-License-Identifier: BSD-3-Clause

// Products of 8 rows by bf16 dot products, step by step: calls take them on AMD only, but every processor that has the
// instructions runs them here. Numbers are small integers, so that all sums are exact.

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "heed/pairwise/few_rows_dots.hpp"
#include "heed/simd/cpu.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::bf16_t;
using heed::index_t;
namespace pairwise = heed::pairwise;

#if defined(HEED_AVX512) && defined(__GNUC__)
constexpr index_t rows = 8;
constexpr float canary = 8192;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
float integer(heed_test::random_numbers& random) { return static_cast<float>(random.below(17) - 8); }

struct stored_rows {
  index_t count, dim;
  std::vector<bf16_t> numbers;
  std::vector<const std::byte*> row;

  stored_rows(index_t n, index_t d, heed_test::random_numbers& random) : count(n), dim(d), numbers(at(n * d)) {
    for (bf16_t& x : numbers) x = bf16_t(integer(random));
    for (index_t j = 0; j < count; ++j) row.push_back(reinterpret_cast<const std::byte*>(&numbers[at(j * dim)]));
  }
  float number(index_t j, index_t c) const { return static_cast<float>(numbers[at(j * dim + c)]); }
  pairwise::tile_rows tile() const { return {row.data(), count}; }
};

bool has_dots() {
  const bool here = heed::simd::detect_cpu().bf16_dots;
  if (!here) WARN("SKIPPED: this processor has no bf16 dot products");
  return here;
}
#endif

TEST_CASE("scores of 8 rows by dot products") {
#if defined(HEED_AVX512) && defined(__GNUC__)
  if (!has_dots()) return;
  heed_test::random_numbers random(1);
  for (const index_t dim : {32, 64, 96})
    for (const index_t keys : {1, 2, 3, 6}) {
      CAPTURE(dim, keys);
      const stored_rows k(keys, dim, random);
      std::vector<float> q(at(rows * dim)), packed(at(rows * dim / 2)),
          scores(at((keys + 1) / 2 * 2 * rows + 1), canary);
      for (float& x : q) x = integer(random);
      for (index_t r = 0; r < rows; ++r) pairwise::bf16_rows_dots.pack(&q[at(r * dim)], dim, r, packed.data());
      pairwise::bf16_rows_dots.score({k.tile(), dim, packed.data(), scores.data()}, 0.5f);
      for (index_t j = 0; j < keys; ++j)
        for (index_t r = 0; r < rows; ++r) {
          float want = 0;
          for (index_t c = 0; c < dim; ++c) want += q[at(r * dim + c)] * k.number(j, c);
          REQUIRE(scores[at(j * rows + r)] == 0.5f * want);
        }
      REQUIRE(scores.back() == canary);
    }
#endif
}

TEST_CASE("weights of 8 rows are rounded, summed and joined by keys") {
#if defined(HEED_AVX512) && defined(__GNUC__)
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  heed_test::random_numbers random(2);
  for (const index_t keys : {1, 2, 3, 4, 7}) {
    CAPTURE(keys);
    const index_t even = (keys + 1) / 2 * 2;
    std::vector<float> weights(at((even + 2) * rows), canary), pairs(at(even / 2 * rows + 1), canary);
    for (index_t i = 0; i < even * rows; ++i)
      weights[at(i)] = i < keys * rows ? static_cast<float>(random.uniform()) : 0.0f;
    weights[0] = 1 + 0x1.8p-8f, weights[1] = 1 + 0x1p-9f, weights[2] = nan;  // rounded up, rounded down, no number
    std::array<float, std::size_t{2 * rows}> sums;
    heed::simd::store(sums.data(), pairwise::bf16_rows_dots.round(weights.data(), keys, pairs.data()));
    for (index_t r = 0; r < rows; ++r) {
      double want = 0, sum = static_cast<double>(sums[at(r)]) + static_cast<double>(sums[at(rows + r)]);
      for (index_t j = 0; j < even; ++j) {
        const bf16_t rounded(weights[at(j * rows + r)]);
        const auto pair = std::bit_cast<std::uint32_t>(pairs[at(j / 2 * rows + r)]);
        if (r != 2 || j > 0) REQUIRE((pair >> (j % 2 * 16) & 0xffff) == rounded.bits);
        want += static_cast<double>(static_cast<float>(rounded));
      }
      if (r == 2)
        REQUIRE(std::isnan(sum));
      else
        REQUIRE(sum == Approx(want).epsilon(1e-6));
    }
    REQUIRE(pairs.back() == canary);
  }
#endif
}

TEST_CASE("sums of values of 8 rows by dot products join what there is") {
#if defined(HEED_AVX512) && defined(__GNUC__)
  if (!has_dots()) return;
  heed_test::random_numbers random(3);
  for (const index_t columns : {32, 64, 96})
    for (const index_t keys : {1, 2, 3, 6}) {
      CAPTURE(columns, keys);
      const stored_rows v(keys, columns, random);
      const index_t even = (keys + 1) / 2 * 2, stride = columns + 16;
      std::vector<float> weights(at(even * rows)), pairs(at(even / 2 * rows)), sums(at(rows * stride));
      for (index_t i = 0; i < keys * rows; ++i) weights[at(i)] = integer(random);
      for (float& x : sums) x = integer(random);
      const std::vector<float> before = sums;
      pairwise::bf16_rows_dots.round(weights.data(), keys, pairs.data());
      pairwise::bf16_rows_dots.sum({v.tile(), columns, pairs.data(), sums.data(), stride});
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < stride; ++c) {
          float want = before[at(r * stride + c)];
          for (index_t j = 0; c < columns && j < keys; ++j) want += weights[at(j * rows + r)] * v.number(j, c);
          REQUIRE(sums[at(r * stride + c)] == want);
        }
    }
#endif
}

TEST_CASE("a query that goes to dot products is rounded") {
#if defined(HEED_AVX512) && defined(__GNUC__)
  std::vector<float> q(48);
  heed_test::random_numbers random(4);
  for (float& x : q) x = static_cast<float>(random.normal());
  std::vector<float> rounded = q;
  pairwise::bf16_rows_dots.round_row(rounded.data(), 32);
  for (index_t c = 0; c < 48; ++c)
    REQUIRE(rounded[at(c)] == (c < 32 ? static_cast<float>(bf16_t(q[at(c)])) : q[at(c)]));
#endif
}

}  // namespace
