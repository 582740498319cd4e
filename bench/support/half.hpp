// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of calls on 16-bit numbers beside the same calls on floats. Both are timed in every iteration.

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "rows.hpp"
#include "shapes.hpp"

namespace heed_bench {

template <class S>
inline constexpr const char* storage_name = std::is_same_v<S, heed::bf16_t>  ? "bf16"
                                            : std::is_same_v<S, heed::f16_t> ? "f16"
                                            : std::is_same_v<S, std::int8_t> ? "int8"
                                                                             : "float";

// Times `ours` and `other`, each as often as makes 20 MFLOP. Returns the median of other's time over that of ours, how
// many times as fast ours is. flops: of one call
template <class Ours, class Other> double time_beside(benchmark::State& state, double flops, Ours ours, Other other) {
  const int times = std::max(1, static_cast<int>(2e7 / flops));
  const auto repeated = [times](auto& call) {
    return seconds_of([&] {
             for (int i = 0; i < times; ++i) call();
           }) /
           times;
  };
  ours(), other();
  std::vector<double> ratios;
  for (auto _ : state) {
    const double a = repeated(ours), b = repeated(other);
    state.SetIterationTime(a);
    ratios.push_back(b / a);
  }
  return median(ratios);
}

}  // namespace heed_bench
