// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of the reference of lightning attention in double, cotangents of its outputs, and all gradients.

#include <cmath>

#include "heed/reference/lightning.hpp"
#include "support/catch.hpp"
#include "support/recurrent_differences.hpp"
#include "support/shapes.hpp"

namespace heed_test {

// numbers: slopes (1, 1, 1, states) or gates (batch, states, N).
struct lightning_reference_case {
  shape s;
  index_t states, sequences;
  bool gated;
  heed::lightning::options<double> how;
  bool has_before = true, has_after = true;
  buffer<double> numbers =
                     buffer<double>::input(gated ? extents{s.batch, states, s.queries, 1} : extents{1, 1, 1, states}),
                 q = random_input({s.batch, s.heads, s.queries, s.dim}, 1),
                 k = random_input({s.batch, s.kv_heads, s.queries, s.dim}, 2),
                 v = random_input({s.batch, s.kv_heads, s.queries, s.value_dim}, 3),
                 s0 = random_input({sequences, states, s.dim, s.value_dim}, 4),
                 dout = random_input({s.batch, s.heads, s.queries, s.value_dim}, 5), ds1 = random_input(s0.size(), 6),
                 o = buffer<double>::output(dout.size()), s1 = buffer<double>::output(s0.size()),
                 dq = buffer<double>::output(q.size()), dk = buffer<double>::output(k.size()),
                 dv = buffer<double>::output(v.size()), ds0 = buffer<double>::output(s0.size()),
                 dnumbers = buffer<double>::output(numbers.size());

  lightning_reference_case(const shape& size, index_t state_heads, bool by_gates,
                           const heed::lightning::options<double>& opt = {}, index_t count = -1)
      : s(size), states(state_heads), sequences(count < 0 ? size.batch : count), gated(by_gates), how(opt) {
    random_numbers random(7);
    numbers.each([&](double& a) { a = gated ? -random.uniform() : random.uniform(); });
  }

  heed::decay<double> decay() const {
    if (gated) return heed::decay<double>(numbers.view3());
    return heed::tensor_view<const double, 1>(&numbers(0, 0, 0), {states}, {1});
  }
  heed::lightning::options<double> with_states() const {
    heed::lightning::options<double> all = how;
    if (has_before) all.initial_state.s = s0.cview();
    all.final_state.s = s1.view();
    return all;
  }
  double loss() const {
    heed::reference::lightning::forward(q.cview(), k.cview(), v.cview(), decay(), o.view(), with_states());
    return inner(dout, o) + (has_after ? inner(ds1, s1) : 0);
  }
  heed::lightning::gradients<double> asked() const {
    heed::lightning::gradients<double> all{.dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
    if (gated)
      all.dlog_gates = dnumbers.view3();
    else
      all.dslopes = {&dnumbers(0, 0, 0), {states}, {1}};
    all.dinitial_state.s = ds0.view();
    if (has_after) all.dfinal_state.s = ds1.cview();
    return all;
  }
  void backward() const { backward(asked()); }
  void backward(const heed::lightning::gradients<double>& all) const {
    heed::reference::lightning::backward(q.cview(), k.cview(), v.cview(), decay(), dout.cview(), all, with_states());
  }
  verdict differences() const {
    verdict result;
    const double size = std::abs(loss()) + 1;
    const auto f = [&] { return loss(); };
    add_differences(result, "dq", q, dq, size, f), add_differences(result, "dk", k, dk, size, f);
    add_differences(result, "dv", v, dv, size, f);
    add_differences(result, gated ? "dlog_gates" : "dslopes", numbers, dnumbers, size, f);
    if (has_before) add_differences(result, "ds0", s0, ds0, size, f);
    return result;
  }
};

inline void check(const lightning_reference_case& x) {
  x.backward();
  const verdict result = x.differences();
  INFO((x.gated ? "gates of " : "slopes of ") << x.states << " heads, " << to_string(x.s) << ": " << result.where);
  CHECK(result.worst <= 1);
  const bool written = all_written(x.dq) && all_written(x.dk) && all_written(x.dv) && all_written(x.ds0);
  CHECK((written && all_written(x.dnumbers)));
}

}  // namespace heed_test
