// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A fuzz target: a function that makes one call out of bytes, and aborts where the call does not do what it should.

#include "fuzz/bytes.hpp"

namespace heed_test {

struct fuzz_target {
  const char* verb;
  void (*run)(bytes&);
};

// f(T()), with double for one of four inputs, and float for the others
template <class F> void in_a_type(bytes& in, const F& f) {
  if (in.one_in(4))
    f(double{});
  else
    f(float{});
}

// Each program has its own list, which ends with an entry without a verb.
extern const fuzz_target fuzz_targets[];

}  // namespace heed_test

#define HEED_DECLARE_FUZZ(VERB) void fuzz_##VERB(bytes&);
#define HEED_NAME_FUZZ(VERB) {#VERB, fuzz_##VERB},
// The list of a program. TARGETS(X): X(verb) of each
#define HEED_FUZZ_LIST(TARGETS) \
  TARGETS(HEED_DECLARE_FUZZ)    \
  const fuzz_target fuzz_targets[] = {TARGETS(HEED_NAME_FUZZ){nullptr, nullptr}};
