// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of local_linear::backward beside the reference.

#include <string>

#include "support/local_linear_case.hpp"
#include "support/softmax_backward_case.hpp"

namespace heed_test {

// Every gradient that the options have is wanted. Backward reads lse, slope and mean_key of forward, unless they are
// taken out of the options: then it computes them anew.
template <class T> struct local_linear_backward : local_linear_case<T> {
  using local_linear_case<T>::s, local_linear_case<T>::q, local_linear_case<T>::k, local_linear_case<T>::v;
  using local_linear_case<T>::o, local_linear_case<T>::options, local_linear_case<T>::ridge;
  buffer<T> dout, dq, dk, dv, dbias, dridge;  // dridge: (1, 1, 1, heads)
  heed::local_linear::gradients<T> wanted;

  explicit local_linear_backward(const shape& size, const heed::per_head& penalty = 0.5,
                                 const heed::local_linear::options<T>& how = {}, const layouts& in = {},
                                 const gradient_layouts& of = {}, std::uint32_t seed = 1)
      : local_linear_case<T>(size, penalty, how, in, seed),
        dout(buffer<T>::input(o.size(), of.dout, in.skew)),
        dq(buffer<T>::output(q.size(), of.dq, in.skew)),
        dk(buffer<T>::output(k.size(), of.dk, in.skew)),
        dv(buffer<T>::output(v.size(), of.dv, in.skew)),
        dbias(buffer<T>::output({how.bias.extent(0), how.bias.extent(1), how.bias.extent(2), how.bias.extent(3)},
                                of.dbias, in.skew)),
        dridge(buffer<T>::output({1, 1, 1, size.out_heads()}, layout::bhsd, in.skew)) {
    random_numbers random(seed + 50);
    dout.randomize(random);
    wanted = {.dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
    if (how.bias.data() != nullptr) wanted.dbias = dbias.view();
    wanted.dridge = {dridge.view().data(), {dridge.size()[3]}, {1}};
  }

  void backward(const heed::context& ctx = {}) { run_backward<T>(tensors(), ridge, wanted, options, ctx); }
  heed::plan backward_plan(const heed::context& ctx = {}) const {
    return run_plan_backward<T>(tensors(), ridge, wanted, options, ctx);
  }
  fitted_tensors<T> tensors() const { return {q.cview(), k.cview(), v.cview(), dout.cview()}; }
  void forget() { options.lse = {}, options.slope = {}, options.mean_key = {}; }
  void poison_gradients() {
    for (buffer<T>* x : {&dq, &dk, &dv, &dbias, &dridge}) x->poison();
  }
};

struct expected_fit {
  expected_gradient dq, dk, dv, dbias, dridge;
};

// left_by_solver: the largest |C y - r| / |r| that the solves may leave; what they left where the options tell them to
// stop. Compiled once for all tests, in local_linear_backward_expected.cpp.
template <class T>
expected_fit expected(const local_linear_backward<T>& x, const heed::per_head& ridge,
                      const heed::local_linear::options<T>& options, double left_by_solver);
template <class T> expected_fit expected(const local_linear_backward<T>& x) {
  const double left =
      x.options.report != nullptr ? std::max(x.options.tolerance, x.options.report->max_residual) : x.options.tolerance;
  return expected(x, x.ridge, x.options, left);
}

template <class T> verdict compare(const local_linear_backward<T>& x, const expected_fit& want) {
  verdict result;
  const auto each = [&](const T* wanted, const buffer<T>& got, const expected_gradient& should) {
    if (wanted != nullptr) compare(got, should, result);
  };
  each(x.wanted.dq.data(), x.dq, want.dq), each(x.wanted.dk.data(), x.dk, want.dk);
  each(x.wanted.dv.data(), x.dv, want.dv), each(x.wanted.dbias.data(), x.dbias, want.dbias);
  each(x.wanted.dridge.data(), x.dridge, want.dridge);
  return result;
}

// Runs forward and backward, and checks all that must hold of any call that is not too hard for its solver.
template <class T> void check(local_linear_backward<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s) << ", " << name_of(x.options.solver) << (x.options.slope.data() != nullptr ? "" : ", anew"));
  x.forward();
  const double residual_of_forward = x.report->max_residual;
  buffers<T> written{&x.dq, &x.dk, &x.dv, &x.dridge};
  if (x.wanted.dbias.data() != nullptr) written.push_back(&x.dbias);
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.dout, &x.lse, &x.slope, &x.mean}, {&x.dq, &x.dk, &x.dv, &x.dbias, &x.dridge}, written,
      [&] { x.backward(ctx); },
      [&] {
        x.report->max_residual = std::max(x.report->max_residual, residual_of_forward);
        return compare(x, expected(x));
      });
}
template <class T>
void check_fit(const shape& s, const heed::per_head& ridge = 0.5, const heed::local_linear::options<T>& options = {},
               const layouts& in = {}, const gradient_layouts& of = {}) {
  local_linear_backward<T> x(s, ridge, options, in, of);
  check(x);
}

template <class T> bool same_gradients(const local_linear_backward<T>& a, const local_linear_backward<T>& b) {
  return same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) && same_bits(a.dbias, b.dbias) &&
         same_bits(a.dridge, b.dridge);
}

}  // namespace heed_test
