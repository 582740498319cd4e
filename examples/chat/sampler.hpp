// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Chooses the next token from the scores of all.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "tokenizer.hpp"

namespace chat {

class sampler {
 public:
  // temperature: the scores are divided by it; at 0 the largest one wins. Equal seeds give equal choices.
  sampler(double temperature, std::uint64_t seed) : temperature_(temperature), random_(seed) {}

  // Throws file_error where a score is not finite: damaged weights can cause that.
  token_id choose(std::span<const float> scores) {
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (!std::isfinite(scores[i]))
        throw file_error("the score of token " + to_text(i) + " is " + std::to_string(scores[i]) +
                         ", must be finite: the weights are damaged");
    const auto best = std::max_element(scores.begin(), scores.end());
    if (!(temperature_ > 0)) return static_cast<token_id>(best - scores.begin());
    std::vector<double> sums;  // of the weights up to each token
    double total = 0;
    for (const float s : scores)
      sums.push_back(total += std::exp((static_cast<double>(s) - static_cast<double>(*best)) / temperature_));
    const double point = static_cast<double>(random_() >> 11) * 0x1p-53 * total;  // uniform in [0, total)
    const auto chosen = std::upper_bound(sums.begin(), sums.end(), point) - sums.begin();
    return static_cast<token_id>(std::min<std::ptrdiff_t>(chosen, std::ssize(sums) - 1));
  }

 private:
  double temperature_;
  std::mt19937_64 random_;
};

}  // namespace chat
