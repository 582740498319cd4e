// SPDX-License-Identifier: BSD-3-Clause

// How examples/chat chooses the next token.

#include "../examples/chat/sampler.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "../examples/chat/gguf.hpp"
#include "chat/gguf_file.hpp"
#include "support/catch.hpp"

using namespace heed_test;

TEST_CASE("the sampler takes the largest, and repeats itself") {
  const std::vector<float> scores{0, 3, 1, 3};
  CHECK(chat::sampler(0, 1).choose(scores) == 1);
  chat::sampler one(1, 5), same(1, 5);
  std::vector<int> count(4);
  for (int i = 0; i < 4000; ++i) {
    const auto id = one.choose(scores);
    CHECK(id == same.choose(scores));
    ++count[static_cast<std::size_t>(id)];
  }
  CHECK(std::abs(count[1] / 4000. - 1 / (2 + std::exp(-2.) + std::exp(-3.))) < 0.03);
  CHECK(count[0] > 0);
}

TEST_CASE("the smallest and the largest temperatures choose a token") {
  const std::vector<float> scores{-3e38f, 3e38f, 0};
  CHECK(chat::sampler(5e-324, 1).choose(scores) == 1);
  CHECK(chat::sampler(100, 1).choose(scores) == 1);
  CHECK(chat::sampler(1, 1).choose(std::vector<float>{7}) == 0);
}

TEST_CASE("scores that are not finite are refused") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()})
    for (const double temperature : {0., 1.}) {
      const std::vector<float> scores{0, 1, bad};
      CHECK_THROWS_AS(chat::sampler(temperature, 1).choose(scores), chat::file_error);
    }
  CHECK(error_text([&] { chat::sampler(0, 1).choose(std::vector<float>{0, infinity}); }) ==
        "the score of token 1 is inf, must be finite: the weights are damaged");
}
