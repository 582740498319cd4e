// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How long the tests of this folder run.

#include <cstdlib>

#include "support/shapes.hpp"

namespace heed_test {

// Seconds of random calls: HEED_SOAK_SECONDS of the environment, else 3
inline double soak_seconds() {
  const char* const text = std::getenv("HEED_SOAK_SECONDS");
  const double seconds = text == nullptr ? 0 : std::atof(text);
  return seconds > 0 ? seconds : 3;
}

// ./run soak: figures are printed, and the shapes of the million steps are those of a small model.
inline bool soak_reports() { return std::getenv("HEED_SOAK_REPORT") != nullptr; }

// Steps of decode: a million, fewer where a step takes long (sanitizers, no optimisation)
inline const long soak_steps = thinning == 1 ? 1000000 : 20000;

}  // namespace heed_test
