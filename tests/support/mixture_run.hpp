// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls under test, compiled with those of softmax in tests/softmax/run.cpp, once per machine.

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "support/softmax_run.hpp"

namespace heed_test {

template <class T> using heads_in = heed::tensor_view<const T, 3>;  // (batch, head, seq)
template <class T> using heads_out = heed::tensor_view<T, 3>;

template <class T>
void run_mixture(input<T> q, input<T> k, input<T> v, heads_in<T> gates, output<T> o,
                 const heed::mixture_of_head::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_mixture_plan(input<T> q, input<T> k, input<T> v, heads_in<T> gates, output<T> o,
                            const heed::mixture_of_head::options<T>& options, const heed::context& ctx);
template <class T>
void run_mixture_backward(const backward_tensors<T>& x, heads_in<T> gates,
                          const heed::mixture_of_head::gradients<T>& gradients,
                          const heed::mixture_of_head::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_mixture_plan_backward(const backward_tensors<T>& x, heads_in<T> gates,
                                     const heed::mixture_of_head::gradients<T>& gradients,
                                     const heed::mixture_of_head::options<T>& options, const heed::context& ctx);
template <class T>
double run_route_trained(heads_in<T> routed, heads_in<T> shared, heads_in<T> mix,
                         const heed::mixture_of_head::routing& how, heads_out<T> gates);
template <class T> void run_route_by_norm(input<T> q, const heed::mixture_of_head::routing& how, heads_out<T> gates);

}  // namespace heed_test
