// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One number of a backward call that is not finite: the gradients that depend on it are not finite, all others keep
// their bits.

#include <functional>

#include "support/catch.hpp"
#include "support/linear_backward_case.hpp"
#include "support/recurrent_isolation.hpp"

namespace heed_test {

// Predicates of all gradients; what is left out depends on nothing.
struct gradient_reach {
  std::function<bool(index_t, index_t, index_t, index_t)> dq = {}, dk = {}, dv = {}, ds0 = {}, dz0 = {};
};

// Runs a clean and a bent case of make() and compares their gradients. dz0 only where the kernel normalises
template <class Make, class Bend, class Run>
void check_reach(const char* what, const Make& make, const Bend& bend, const Run& run, const gradient_reach& reached) {
  auto clean = make(), bent = make();
  bend(bent);
  run(clean), run(bent);
  INFO(what);
  const auto wrong = [](const auto& a, const auto& b, const auto& f) {
    return wrongly_reached(a, b, [&](index_t i, index_t h, index_t n, index_t d) { return f && f(i, h, n, d); });
  };
  CHECK(wrong(bent.dq, clean.dq, reached.dq) == 0);
  CHECK(wrong(bent.dk, clean.dk, reached.dk) == 0);
  CHECK(wrong(bent.dv, clean.dv, reached.dv) == 0);
  CHECK(wrong(bent.ds0, clean.ds0, reached.ds0) == 0);
  CHECK(wrong(bent.dz0, clean.dz0, reached.dz0) == 0);
}

}  // namespace heed_test
