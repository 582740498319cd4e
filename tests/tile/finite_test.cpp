// SPDX-License-Identifier: BSD-3-Clause

// Sums with values that are not finite, which only some lanes see, beside plain loops over what each lane sees.

#include "heed/tile/finite.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

}  // namespace

TEMPLATE_TEST_CASE("add_visible: values that are not finite reach the lanes that see them", "[finite]", float, double) {
  using T = TestType;
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  constexpr index_t keys = 7, columns = 5, lanes = 6, slice = 2;
  heed_test::random_numbers random(25);
  int reached = 0, kept_out = 0, wrong = 0;
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<T> x(at(keys * columns)), weight(at(keys * lanes)), sum(at(columns * lanes), T(1));
    std::vector<T> scratch(at(keys * slice));
    std::vector<bool> seen(at(keys * lanes));
    const T odd[] = {nan, nan, inf, -inf};
    for (T& v : x) v = random.below(9) > 0 ? static_cast<T>(random.normal()) : odd[random.below(4)];
    for (std::size_t i = 0; i < weight.size(); ++i) {
      seen[i] = random.below(3) > 0;
      weight[i] = seen[i] && random.below(5) > 0 ? static_cast<T>(random.normal()) : T(0);
    }
    const index_t from = random.below(3), to = 4 + random.below(3);
    tile::add_visible<keys, T>(
        {x.data(), columns, keys, columns}, {weight.data(), lanes, from, to, sum.data(), lanes},
        {scratch.data(), slice, keys, slice},
        [&](index_t j) {
          std::uint64_t bits = 0;
          for (index_t l = 0; l < lanes; ++l) bits |= std::uint64_t{seen[at(j * lanes + l)]} << l;
          return bits;
        },
        [&](const tile::lane_block<const T>& rows, index_t c) {
          for (index_t y = 0; y < rows.lanes; ++y)
            for (index_t l = from; l < to; ++l)
              for (index_t j = 0; j < keys; ++j) {
                wrong += !std::isfinite(rows.row(j)[y]);
                sum[at((c + y) * lanes + l)] += weight[at(j * lanes + l)] * rows.row(j)[y];
              }
        });
    for (index_t c = 0; c < columns; ++c)
      for (index_t l = 0; l < lanes; ++l) {
        double want = 1;
        for (index_t j = 0; j < keys && l >= from && l < to; ++j)
          if (const double v = double(x[at(j * columns + c)]); seen[at(j * lanes + l)])
            want += double(weight[at(j * lanes + l)]) * v;
          else
            kept_out += !std::isfinite(v);
        const double got = double(sum[at(c * lanes + l)]);
        reached += !std::isfinite(want);
        wrong += std::isnan(want) ? !std::isnan(got) : std::isinf(want) ? got != want : !(std::abs(got - want) < 1e-4);
      }
  }
  CHECK(wrong == 0);
  CHECK((reached > 100 && kept_out > 100));
}
