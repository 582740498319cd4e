// SPDX-License-Identifier: BSD-3-Clause
// The operands that softmax makes for a matrix unit: V transposed, Q in pairs, weights in pairs and their sums.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "heed/tile/pack_pairs.hpp"
#include "heed/tile/pair_weights.hpp"
#include "heed/tile/row_format.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::bf16_t, heed::index_t;
namespace tile = heed::tile;

constexpr index_t w = heed::simd::width<float>;

std::vector<bf16_t> numbers(index_t count, unsigned seed) {
  heed_test::random_numbers random(seed);
  std::vector<bf16_t> x(static_cast<std::size_t>(count));
  for (bf16_t& v : x) v = bf16_t(static_cast<float>(random.normal()));
  return x;
}
float half_of(float pair, bool high) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(pair);
  return std::bit_cast<float>(high ? bits & 0xffff0000u : bits << 16);
}

}  // namespace

TEST_CASE("transpose_pairs turns rows into columns, with zeros behind both ends, and cleans what is not finite") {
  for (const index_t count : {1, 2, 31, 32, 77, 256})
    for (const index_t dim : {1, 3, 16, 65}) {
      const index_t stride = dim + 3, row = 256 + 32, columns = (dim + 15) / 16 * 16;
      std::vector<bf16_t> x = numbers(count * stride, 3), out(static_cast<std::size_t>(columns * row));
      const auto transpose = [&] {
        return tile::transpose_pairs({reinterpret_cast<const std::byte*>(x.data()), stride * 2, count, dim}, out.data(),
                                     row);
      };
      CHECK(transpose());
      const index_t nan_row = count / 2, nan_column = dim - 1;
      for (const bool clean : {false, true}) {
        bool right = true;
        for (index_t c = 0; c < columns / 16 * 16 && c < (dim + w - 1) / w * w; ++c)
          for (index_t r = 0; r < (count + 2 * w - 1) / (2 * w) * 2 * w; ++r) {
            const bool inside = c < dim && r < count && !(clean && r == nan_row && c == nan_column);
            const float want = inside ? static_cast<float>(x[static_cast<std::size_t>(r * stride + c)]) : 0.0f;
            right = right && static_cast<float>(out[static_cast<std::size_t>(c * row + r)]) == want;
          }
        CHECK(right);
        if (clean) break;
        const float bad = count % 2 == 0 ? std::numeric_limits<float>::infinity() : std::nanf("");
        x[static_cast<std::size_t>(nan_row * stride + nan_column)] = bf16_t(bad);
        CHECK(!transpose());
      }
    }
}

TEST_CASE("gather_pairs puts two columns of a row into a word, and zeros behind the last") {
  for (const index_t dim : {1, 2, 15, 16, 17, 40}) {
    const index_t lanes = 2 * w, pairs = (dim + 1) / 2 + 3;
    const std::vector<bf16_t> x = numbers(lanes * dim, 5);
    std::vector<const std::byte*> rows;
    for (index_t l = 0; l < lanes; ++l) rows.push_back(reinterpret_cast<const std::byte*>(x.data() + l * dim));
    std::vector<float> out(static_cast<std::size_t>(pairs * lanes), 7.0f);
    tile::gather_pairs(rows.data(), lanes, dim, -0.5f, out.data(), pairs, tile::row_format_of<float, bf16_t>.gather);
    bool right = true;
    for (index_t c = 0; c < 2 * pairs; ++c)
      for (index_t l = 0; l < lanes; ++l) {
        const float want = c < dim ? -0.5f * static_cast<float>(x[static_cast<std::size_t>(l * dim + c)]) : 0.0f;
        right = right && half_of(out[static_cast<std::size_t>(c / 2 * lanes + l)], c % 2 != 0) == want;
      }
    CHECK(right);
  }
}

TEST_CASE("pair weights are 2^(factor (s - m)) rounded to bf16, and l their sum") {
  for (index_t vectors = 1; vectors <= 4; ++vectors)
    for (const index_t keys : {1, 2, 7, 64})
      for (const float factor : {1.0f, 1.4426950f, 1.99f}) {
        const index_t lanes = vectors * w;
        heed_test::random_numbers random(static_cast<unsigned>(keys));
        std::vector<float> s(static_cast<std::size_t>(keys * lanes)), m(static_cast<std::size_t>(lanes), 3.0f);
        for (float& x : s) x = 3.0f - 40.0f * static_cast<float>(random.uniform());
        s[0] = 3.0f, s.back() = -std::numeric_limits<float>::infinity();
        std::vector<float> l(m.size(), 0.25f), pairs(static_cast<std::size_t>((keys + 1) / 2 * lanes), 9.0f);
        tile::make_pair_weights({s.data(), lanes, keys, factor, m.data(), l.data(), pairs.data(), lanes}, vectors);
        double worst = 0, worst_sum = 0;
        for (index_t lane = 0; lane < lanes; ++lane) {
          double sum = 0.25;
          for (index_t j = 0; j < (keys + 1) / 2 * 2; ++j) {
            const double got = half_of(pairs[static_cast<std::size_t>(j / 2 * lanes + lane)], j % 2 != 0);
            sum += got;
            const double score = j < keys ? s[static_cast<std::size_t>(j * lanes + lane)] : -HUGE_VAL;
            const double want = std::exp2(static_cast<double>(factor) * (score - 3.0));
            worst = want < 1e-37 ? std::max(worst, got) : std::max(worst, std::abs(got / want - 1));
          }
          worst_sum = std::max(worst_sum, std::abs(static_cast<double>(l[static_cast<std::size_t>(lane)]) / sum - 1));
        }
        CHECK(worst <= 0x1p-8 + 1e-4);
        CHECK(worst_sum <= 1e-5);
        CHECK((half_of(pairs[0], false) == 1.0f) == (keys > 1 || lanes > 1));
      }
}
