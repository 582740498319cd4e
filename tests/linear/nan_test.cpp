// SPDX-License-Identifier: BSD-3-Clause

// Values that are not finite reach their own batch entry, heads, rows, columns and states of linear::forward, and no
// other.

#include <limits>

#include "support/catch.hpp"
#include "support/recurrent_case.hpp"
#include "support/recurrent_isolation.hpp"

using namespace heed_test;

namespace {

using heed::feature;
constexpr shape grouped{2, 4, 2, 40, 40, 8, 12};

}  // namespace

TEST_CASE("one number that is not finite reaches its own batch entry, heads, column and state") {
  const auto run = [](linear_case<float>& x) { x.forward(); };
  for (const bool causal : {false, true})
    for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax}) {
      INFO((causal ? "causal, feature " : "feature ") << static_cast<int>(map));
      const auto make = [&] {
        linear_case<float> x(grouped, {.mask = causal ? heed::causal() : heed::mask(),
                                       .feature = map,
                                       .normalize = map != feature::identity,
                                       .chunk = 16});
        if (!x.options.normalize) x.options.initial_state.z = {}, x.options.final_state.z = {};
        return x;
      };
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()})
        for (const index_t at : {0, 21})
          check_isolation({.at = at, .bad = bad, .causal = causal, .elementwise = map != feature::softmax}, make, run);
    }
}

TEST_CASE("a sum of features that is not a number reaches the rows of its own heads, and no state") {
  for (const bool causal : {false, true}) {
    linear_case<float> clean(grouped, {.mask = causal ? heed::causal() : heed::mask()}), bent(grouped, clean.options);
    bent.z0(0, 1, 6) = std::nanf("");
    clean.forward(), bent.forward();
    CHECK(wrongly_reached(bent.o, clean.o,
                          [](index_t b, index_t h, index_t, index_t) { return b == 0 && h / 2 == 1; }) == 0);
    CHECK(same_bits(bent.s1, clean.s1));
    CHECK(wrongly_reached(bent.z1, clean.z1,
                          [](index_t b, index_t h, index_t f, index_t) { return b == 0 && h == 1 && f == 6; }) == 0);
  }
}
