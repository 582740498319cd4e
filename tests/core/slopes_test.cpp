// SPDX-License-Identifier: BSD-3-Clause

// Slope builders beside the tables of the golden file, and what they refuse.

#include <cmath>
#include <functional>
#include <string>

#include "heed/slopes.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"

namespace {

using heed::index_t;

struct tables {
  heed_test::golden_file file{"lightning"};
  template <class T> std::vector<T> of(const std::string& name) const {
    return file.tensor<T>("slope_tables/" + name).data;
  }

  // slopes(head count, layer, layers) for the lines of `lines`, end to end, beside the table `name`
  void check(const std::string& name, const std::vector<index_t>& lines,
             const std::function<std::vector<double>(index_t, index_t, index_t)>& slopes) const {
    const std::vector<double> table = of<double>(name);
    std::size_t at = 0;
    for (std::size_t i = 0; i < lines.size(); i += 3) {
      const std::vector<double> mine = slopes(lines[i], lines[i + 1], lines[i + 2]);
      INFO(name << ", " << lines[i] << " heads, layer " << lines[i + 1] << " of " << lines[i + 2]);
      REQUIRE(mine.size() == static_cast<std::size_t>(lines[i]));
      for (const double slope : mine) CHECK(std::abs(slope - table.at(at++)) <= 1e-15 * std::abs(slope) + 1e-16);
    }
    CHECK(at == table.size());
  }
};

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const heed::error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("slopes equal the authors' tables") {
  const tables golden;
  std::vector<index_t> by_heads;
  for (const index_t heads : golden.of<index_t>("heads")) by_heads.insert(by_heads.end(), {heads, 0, 1});
  golden.check("alibi_slopes", by_heads, [](index_t h, index_t, index_t) { return heed::alibi_slopes(h); });
  golden.check("retention_slopes", by_heads, [](index_t h, index_t, index_t) { return heed::retention_slopes(h); });
  golden.check("transnormer_slopes", golden.of<index_t>("transnormer_heads_layer_layers"), heed::transnormer_slopes);
  golden.check("linear_slopes", golden.of<index_t>("linear_heads_layer_layers"), heed::fla_slopes);
}

TEST_CASE("slopes of no head, of one layer, and of layers that are not there") {
  CHECK(heed::alibi_slopes(0).empty());
  CHECK(heed::fla_slopes(0, 0, 1).empty());
  CHECK(heed::transnormer_slopes(1, 0, 1)[0] == heed::alibi_slopes(1)[0] * (1 + 1e-5));
  CHECK(refusal([] { heed::alibi_slopes(-1); }).find("-1") != std::string::npos);
  CHECK(refusal([] { heed::alibi_slopes(std::numeric_limits<heed::index_t>::max()); }).find("at most 16777216") !=
        std::string::npos);
  CHECK(refusal([] { heed::transnormer_slopes(4, 2, 2); }).find("layer is 2") != std::string::npos);
  CHECK(refusal([] { heed::fla_slopes(4, -1, 2); }).find("layer is -1") != std::string::npos);
  CHECK(refusal([] { heed::fla_slopes(4, 0, 0); }).find("layers is 0") != std::string::npos);
}
