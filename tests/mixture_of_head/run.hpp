// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls under test of mixture of head, a part of softmax/run.cpp: together they compile in half the time, since
// the engine below is the same.

#include "heed/mixture_of_head.hpp"
#include "support/decode_run.hpp"
#include "support/mixture_run.hpp"
#include "support/stored_run.hpp"
#include "support/vectors.hpp"

namespace heed_test {

template <class T>
void run_mixture(input<T> q, input<T> k, input<T> v, heads_in<T> gates, output<T> o,
                 const heed::mixture_of_head::options<T>& options, const heed::context& ctx) {
  heed::mixture_of_head::forward(q, k, v, gates, o, options, ctx);
}
template <class T>
heed::plan run_mixture_plan(input<T> q, input<T> k, input<T> v, heads_in<T> gates, output<T> o,
                            const heed::mixture_of_head::options<T>& options, const heed::context& ctx) {
  return heed::mixture_of_head::plan_forward(q, k, v, gates, o, options, ctx);
}
template <class T>
void run_mixture_backward(const backward_tensors<T>& x, heads_in<T> gates,
                          const heed::mixture_of_head::gradients<T>& gradients,
                          const heed::mixture_of_head::options<T>& options, const heed::context& ctx) {
  heed::mixture_of_head::backward(x.q, x.k, x.v, gates, x.o, x.dout, gradients, options, ctx);
}
template <class T>
heed::plan run_mixture_plan_backward(const backward_tensors<T>& x, heads_in<T> gates,
                                     const heed::mixture_of_head::gradients<T>& gradients,
                                     const heed::mixture_of_head::options<T>& options, const heed::context& ctx) {
  return heed::mixture_of_head::plan_backward(x.q, x.k, x.v, gates, x.o, x.dout, gradients, options, ctx);
}
template <class T>
double run_route_trained(heads_in<T> routed, heads_in<T> shared, heads_in<T> mix,
                         const heed::mixture_of_head::routing& how, heads_out<T> gates) {
  return heed::mixture_of_head::route_trained(routed, shared, mix, how, gates);
}
template <class T> void run_route_by_norm(input<T> q, const heed::mixture_of_head::routing& how, heads_out<T> gates) {
  heed::mixture_of_head::route_by_norm(q, how, gates);
}

#define HEED_TEST_MIXTURE(T)                                                                                         \
  template void run_mixture<T>(input<T>, input<T>, input<T>, heads_in<T>, output<T>,                                 \
                               const heed::mixture_of_head::options<T>&, const heed::context&);                      \
  template heed::plan run_mixture_plan<T>(input<T>, input<T>, input<T>, heads_in<T>, output<T>,                      \
                                          const heed::mixture_of_head::options<T>&, const heed::context&);           \
  template void run_mixture_backward<T>(const backward_tensors<T>&, heads_in<T>,                                     \
                                        const heed::mixture_of_head::gradients<T>&,                                  \
                                        const heed::mixture_of_head::options<T>&, const heed::context&);             \
  template heed::plan run_mixture_plan_backward<T>(const backward_tensors<T>&, heads_in<T>,                          \
                                                   const heed::mixture_of_head::gradients<T>&,                       \
                                                   const heed::mixture_of_head::options<T>&, const heed::context&);  \
  template double run_route_trained<T>(heads_in<T>, heads_in<T>, heads_in<T>, const heed::mixture_of_head::routing&, \
                                       heads_out<T>);                                                                \
  template void run_route_by_norm<T>(input<T>, const heed::mixture_of_head::routing&, heads_out<T>);
HEED_TEST_MIXTURE(float)
HEED_TEST_MIXTURE(double)
#undef HEED_TEST_MIXTURE

void run_stored_mixture(const stored_call& x, gate_view gates, const heed::softmax::options<float>& options,
                        const heed::context& ctx) {
  visit_stored(
      x, [&](auto q, auto k, auto v, auto o) { heed::mixture_of_head::forward(q, k, v, gates, o, options, ctx); });
}
heed::plan plan_stored_mixture(const stored_call& x, gate_view gates, const heed::softmax::options<float>& options,
                               const heed::context& ctx) {
  return visit_stored(x, [&](auto q, auto k, auto v, auto o) {
    return heed::mixture_of_head::plan_forward(q, k, v, gates, o, options, ctx);
  });
}

void run_stored_mixture_backward(const stored_backward& x, gate_view gates,
                                 const heed::mixture_of_head::gradients<float>& gradients,
                                 const heed::softmax::options<float>& options, const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o, auto dout) {
    heed::mixture_of_head::backward(q, k, v, gates, o, dout, gradients, options, ctx);
  });
}

std::string run_mixture_vectors(heed::index_t dim, heed::index_t value_dim) {
  const std::vector<float> one(1, 1.f);
  return said_of_vectors(
      dim, value_dim,
      [&one](auto&& q, auto&& k, auto&& v, auto&& o) { heed::mixture_of_head::forward(q, k, v, one, o); },
      [&one](auto& q, auto& k, auto& v, auto& o) { return heed::mixture_of_head::plan_forward(q, k, v, one, o); });
}

}  // namespace heed_test

HEED_TEST_DECODE_WITH(mixture_of_head, decode_gates, heed::mixture_of_head::options)
