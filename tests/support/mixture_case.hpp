// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One mixture-of-head call beside its reference, and gates of every pattern.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "heed/reference/mixture_of_head.hpp"
#include "support/mixture_run.hpp"
#include "support/softmax_case.hpp"

namespace heed_test {

enum class gating { all_ones, random, sparse, few, one_head, clustered, none };
inline constexpr gating gatings[] = {gating::all_ones, gating::random,    gating::sparse, gating::few,
                                     gating::one_head, gating::clustered, gating::none};
inline const char* name_of(gating how) {
  constexpr const char* names[] = {"all ones", "random", "sparse", "few", "one head", "clustered", "none"};
  return names[static_cast<int>(how)];
}

// Gates (batch, head, seq) of a pattern
template <class T> void fill_gates(const buffer<T>& gates, gating how, std::uint32_t seed = 1) {
  random_numbers random(seed + 100);
  const auto [batches, heads, queries, one] = gates.size();
  for (index_t b = 0; b < batches; ++b)
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < queries; ++i) {
        const double x = random.uniform();
        bool on = true;
        if (how == gating::random) on = x < 0.5;
        if (how == gating::sparse) on = x < 0.1;
        if (how == gating::few) on = i % 97 == 5;  // and less than a vector of them
        if (how == gating::one_head) on = h == heads / 2;
        if (how == gating::clustered) on = (i / 37 + h) % 2 == 0;
        if (how == gating::none) on = false;
        const double zero = random.uniform() < 0.5 ? 0.0 : -0.0;
        gates(b, h, i) = static_cast<T>(!on ? zero : how == gating::all_ones ? 1 : random.normal() + 0.01);
      }
}

template <class T> struct mixture_case : softmax_case<T> {
  buffer<T> gates;  // (batch, head, seq)

  explicit mixture_case(const shape& size, gating how = gating::random, heed::softmax::options<T> with = {},
                        layouts in = {}, layout gates_in = layout::bhsd, std::uint32_t seed = 1)
      : softmax_case<T>(size, with, in, seed),
        gates(buffer<T>::input({size.batch, size.heads, size.queries, 1}, gates_in, in.skew)) {
    set(how, seed);
  }

  void set(gating how, std::uint32_t seed = 1) { fill_gates(gates, how, seed); }

  void mix(const heed::context& ctx = {}) {
    run_mixture<T>(this->q.cview(), this->k.cview(), this->v.cview(), gates.view3(), this->o.view(), this->options,
                   ctx);
  }
  heed::plan mix_plan(const heed::context& ctx = {}) const {
    return run_mixture_plan<T>(this->q.cview(), this->k.cview(), this->v.cview(), gates.view3(), this->o.view(),
                               this->options, ctx);
  }
};

// o and lse of a finished call beside the reference, in units of the tolerance of softmax times the gate.
template <class T>
verdict compare_mixture(const mixture_case<T>& x, const heed::softmax::options<T>& options, const exactness& how = {}) {
  const auto reference = [&](const auto& o, const auto& with) {
    heed::reference::mixture_of_head::forward(x.q.cview(), x.k.cview(), x.v.cview(), x.gates.view3(), o, with);
  };
  const auto unit = [&](index_t b, index_t h, index_t i) {
    const double gate = std::abs(static_cast<double>(x.gates(b, h, i)));
    return std::max(std::isfinite(gate) ? gate : 0.0, static_cast<double>(std::numeric_limits<T>::min()));
  };
  return compare(x, options, reference, unit, how);
}

template <class T> void check_mixture(mixture_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s));
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.gates}, {&x.o, &x.lse}, written(x), [&] { x.mix(ctx); },
      [&] { return compare_mixture(x, x.options); });
}

}  // namespace heed_test
