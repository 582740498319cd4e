// SPDX-License-Identifier: BSD-3-Clause

#include "heed/tile/pack.hpp"

#include <cstddef>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

}  // namespace

TEMPLATE_TEST_CASE("gather, scatter and fill touch their rows and lanes alone", "[pack]", float, double) {
  using T = TestType;
  constexpr index_t w = heed::simd::width<T>, stride = 2 * w;
  heed_test::random_numbers random(23);
  for (const index_t lanes : {index_t(1), w, w + 1, stride})
    for (const index_t dim : {index_t(1), w - 1, w, 2 * w + 3}) {
      std::vector<T> x(at(lanes * dim)), packed(at(dim * stride), T(-1)), out(at(lanes * dim), T(-1));
      const std::vector<T> twos(at(stride), T(2));
      for (T& v : x) v = static_cast<T>(random.normal());
      const auto row_at = [&](std::vector<T>& of, index_t l) { return reinterpret_cast<std::byte*>(&of[at(l * dim)]); };
      std::vector<const std::byte*> rows;
      std::vector<std::byte*> out_rows;
      for (index_t l = 0; l < lanes; ++l) rows.push_back(row_at(x, l)), out_rows.push_back(row_at(out, l));
      tile::gather(rows.data(), lanes, dim, T(0.5), packed.data(), stride);
      bool right = true;
      for (index_t d = 0; d < dim; ++d)
        for (index_t l = 0; l < stride; ++l)
          right = right && packed[at(d * stride + l)] == (l < lanes ? T(0.5) * x[at(l * dim + d)] : T(0));
      CHECK(right);
      tile::scatter(packed.data(), stride, twos.data(), out_rows.data(), lanes, dim);
      CHECK(out == x);
    }
  std::vector<T> filled(at(3 * stride), T(5));
  tile::fill(filled.data(), stride, 2, w, T(3));
  bool right = true;
  for (index_t i = 0; i < 3 * stride; ++i)
    right = right && filled[at(i)] == (i < 2 * stride && i % stride < w ? T(3) : T(5));
  CHECK(right);
}
