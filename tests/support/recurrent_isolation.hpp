// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One number of a call that is not finite: the outputs and states that depend on it are not finite, all others keep
// their bits, in every batch entry, head, row and column.

#include <cmath>
#include <cstring>

#include "support/recurrent_case.hpp"

namespace heed_test {

// Elements that differ where they must not, or are finite where they must not be
template <class T, class F> int wrongly_reached(const buffer<T>& bent, const buffer<T>& clean, F reached) {
  int wrong = 0;
  for (index_t a = 0; a < bent.size()[0]; ++a)
    for (index_t b = 0; b < bent.size()[1]; ++b)
      for (index_t c = 0; c < bent.size()[2]; ++c)
        for (index_t d = 0; d < bent.size()[3]; ++d)
          wrong += reached(a, b, c, d) ? std::isfinite(bent(a, b, c, d))
                                       : std::memcmp(&bent(a, b, c, d), &clean(a, b, c, d), sizeof(T)) != 0;
  return wrong;
}

// How a call is run, and what its numbers depend on
struct isolation {
  index_t at = 0;           // the token that is bent
  float bad = 0;            // to this
  bool causal = true;       // else every query sees every key
  bool in_place = false;    // decode: the states after are in s0 and z0
  bool elementwise = true;  // feature f of a key depends on its element f alone
};

// make(): a case of 2 batch entries, 4 heads and 2 key/value heads; run(case): the call
template <class Make, class Run> void check_isolation(const isolation& how, Make make, Run run) {
  auto clean = make();
  run(clean);
  const index_t states = clean.states, readers = clean.s.heads / states, writers = states / clean.s.kv_heads, batch = 1,
                kv_head = 0, head = 1, element = 3, column = 5;
  const auto sees = [&](index_t i) { return !how.causal || i >= how.at; };
  // o(b, h, i, e), s(b, head of the state, f, e), z(b, head of the state, f)
  const auto check = [&](const char* what, auto bend, auto o, auto s, auto z) {
    INFO(what << ", token " << how.at << " is " << how.bad);
    auto bent = make();
    bend(bent);
    run(bent);
    CHECK(wrongly_reached(bent.o, clean.o, o) == 0);
    CHECK(wrongly_reached(how.in_place ? bent.s0 : bent.s1, how.in_place ? clean.s0 : clean.s1, s) == 0);
    CHECK(wrongly_reached(how.in_place ? bent.z0 : bent.z1, how.in_place ? clean.z0 : clean.z1, z) == 0);
  };
  const auto nothing = [](index_t, index_t, index_t, index_t) { return false; };
  const auto of_kv_head = [&](index_t b, index_t h) { return b == batch && h / readers / writers == kv_head; };
  const auto kv_state = [&](index_t b, index_t state) { return b == batch && state / writers == kv_head; };
  const bool normalized = clean.options.final_state.z.data() != nullptr;
  check(
      "q", [&](auto& x) { x.q(batch, head, how.at, element) = how.bad; },
      [&](index_t b, index_t h, index_t i, index_t) { return b == batch && h == head && i == how.at; }, nothing,
      nothing);
  check(
      "k", [&](auto& x) { x.k(batch, kv_head, how.at, element) = how.bad; },
      [&](index_t b, index_t h, index_t i, index_t) { return of_kv_head(b, h) && sees(i); },
      [&](index_t b, index_t state, index_t f, index_t) {
        return kv_state(b, state) && (f == element || !how.elementwise);
      },
      [&](index_t b, index_t state, index_t f, index_t) {
        return normalized && kv_state(b, state) && (f == element || !how.elementwise);
      });
  check(
      "v", [&](auto& x) { x.v(batch, kv_head, how.at, column) = how.bad; },
      [&](index_t b, index_t h, index_t i, index_t e) { return of_kv_head(b, h) && sees(i) && e == column; },
      [&](index_t b, index_t state, index_t, index_t e) { return kv_state(b, state) && e == column; }, nothing);
  const index_t state = states - 1;
  check(
      "a state", [&](auto& x) { x.s0(batch, state, element, column) = how.bad; },
      [&](index_t b, index_t h, index_t, index_t e) { return b == batch && h / readers == state && e == column; },
      [&](index_t b, index_t other, index_t f, index_t e) {
        return b == batch && other == state && f == element && e == column;
      },
      nothing);
}

}  // namespace heed_test
