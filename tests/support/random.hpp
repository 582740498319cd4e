// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <random>

namespace heed_test {

// Seeded, and the same numbers with every standard library (std::normal_distribution is not).
class random_numbers {
 public:
  explicit random_numbers(std::uint32_t seed) : engine_(seed) {}
  double uniform() { return static_cast<double>(engine_()) / 4294967296.0; }  // [0, 1)
  double normal() { return 2 * (uniform() + uniform() + uniform() - 1.5); }   // mean 0, variance 1, bounded by 3
  std::int32_t below(std::int32_t n) { return static_cast<std::int32_t>(uniform() * n); }  // 0 .. n-1

 private:
  std::mt19937 engine_;
};

}  // namespace heed_test
