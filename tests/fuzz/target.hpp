// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A fuzz target: a function that makes one call out of bytes, and aborts where the call does not do what it should.

#include "fuzz/bytes.hpp"

namespace heed_test {

struct fuzz_target {
  const char* verb;
  void (*run)(bytes&);
};

// Each program has its own list, which ends with an entry without a verb.
extern const fuzz_target fuzz_targets[];

}  // namespace heed_test
