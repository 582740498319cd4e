// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of mixture_of_head::backward beside its reference.

#include "support/mixture_case.hpp"
#include "support/softmax_backward_case.hpp"

namespace heed_test {

// Every gradient that the options have is wanted.
template <class T> struct mixture_backward_case : backward_case<T> {
  buffer<T> gates, dgates;  // (batch, head, seq)
  heed::mixture_of_head::gradients<T> asked;

  explicit mixture_backward_case(const shape& size, gating how = gating::random,
                                 const heed::softmax::options<T>& with = {}, const layouts& in = {},
                                 const gradient_layouts& of = {}, std::uint32_t seed = 1)
      : backward_case<T>(size, with, in, of, seed),
        gates(buffer<T>::input({size.batch, size.heads, size.queries, 1}, of.dlse, in.skew)),
        dgates(buffer<T>::output(gates.size(), of.dlse, in.skew)) {
    fill_gates(gates, how, seed);
    const heed::softmax::gradients<T>& all = this->wanted;
    asked = {.dq = all.dq, .dk = all.dk, .dv = all.dv, .dbias = all.dbias, .dgates = dgates.view3()};
  }

  void mix() {
    run_mixture<T>(this->q.cview(), this->k.cview(), this->v.cview(), gates.view3(), this->o.view(), this->options, {});
  }
  void mix_back(const heed::context& ctx = {}) {
    run_mixture_backward<T>(this->tensors(), gates.view3(), asked, this->options, ctx);
  }
  heed::plan mix_back_plan(const heed::context& ctx = {}) const {
    return run_mixture_plan_backward<T>(this->tensors(), gates.view3(), asked, this->options, ctx);
  }
  expected_gradients want(const exactness& how = {}) const {
    const heed::tensor_view<const T, 3> view(gates.view3());
    return expected(*this, this->options, how, &view);
  }
};

template <class T> verdict compare_mixture(const mixture_backward_case<T>& x, const expected_gradients& want) {
  verdict result;
  const auto each = [&](const T* asked, const buffer<T>& got, const expected_gradient& should) {
    if (asked != nullptr) compare(got, should, result);
  };
  each(x.asked.dq.data(), x.dq, want.dq), each(x.asked.dk.data(), x.dk, want.dk);
  each(x.asked.dv.data(), x.dv, want.dv), each(x.asked.dbias.data(), x.dbias, want.dbias);
  each(x.asked.dgates.data(), x.dgates, want.dgates);
  return result;
}

// Runs forward and backward, and checks all that must hold of any call.
template <class T> void check_mixture(mixture_backward_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.s));
  x.mix();
  buffers<T> written{&x.dq, &x.dk, &x.dv, &x.dgates};
  if (x.asked.dbias.data() != nullptr) written.push_back(&x.dbias);
  check_call<T>(
      {&x.q, &x.k, &x.v, &x.o, &x.lse, &x.dout, &x.gates}, {&x.dq, &x.dk, &x.dv, &x.dgates, &x.dbias}, written,
      [&] { x.mix_back(ctx); }, [&] { return compare_mixture(x, x.want()); });
}
template <class T>
void check_mixture_backward(const shape& s, gating how, const heed::softmax::options<T>& with = {},
                            const layouts& in = {}, const gradient_layouts& of = {}) {
  mixture_backward_case<T> x(s, how, with, in, of);
  check_mixture(x);
}
template <class T> bool same_mixture_gradients(const mixture_backward_case<T>& a, const mixture_backward_case<T>& b) {
  return same_gradients(a, b) && same_bits(a.dgates, b.dgates);
}

}  // namespace heed_test
