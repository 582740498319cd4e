// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls under test with tensors of every storage type. They are compiled in a run.cpp, once per machine.
// k and v hold one type.

#include <functional>
#include <type_traits>
#include <variant>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/lightning/options.hpp"
#include "heed/linear/options.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/softmax/options.hpp"
#include "support/stored.hpp"

namespace heed_test {

struct stored_call {
  any_input q, k, v;
  any_output o;
};

void run_stored(const stored_call& x, const heed::softmax::options<float>& options, const heed::context& ctx);
heed::plan plan_stored(const stored_call& x, const heed::softmax::options<float>& options, const heed::context& ctx);
// before(i): called before run i
void run_stored_prepared(
    const std::vector<stored_call>& memory, const heed::softmax::options<float>& options, const heed::context& ctx,
    const std::function<void(std::size_t)>& before = [](std::size_t) {});

using gate_view = heed::tensor_view<const float, 3>;
void run_stored_mixture(const stored_call& x, gate_view gates, const heed::softmax::options<float>& options,
                        const heed::context& ctx);
heed::plan plan_stored_mixture(const stored_call& x, gate_view gates, const heed::softmax::options<float>& options,
                               const heed::context& ctx);

// q, k, v and o of forward, dout of the type of o or float; gradients are float
struct stored_backward {
  stored_call x;
  any_input dout;
};
void run_stored_backward(const stored_backward& x, const heed::softmax::gradients<float>& gradients,
                         const heed::softmax::options<float>& options, const heed::context& ctx);
heed::plan plan_stored_backward(const stored_backward& x, const heed::softmax::gradients<float>& gradients,
                                const heed::softmax::options<float>& options, const heed::context& ctx);
void run_stored_mixture_backward(const stored_backward& x, gate_view gates,
                                 const heed::mixture_of_head::gradients<float>& gradients,
                                 const heed::softmax::options<float>& options, const heed::context& ctx);
// x.o is not read
void run_stored_local_linear_backward(const stored_backward& x, const heed::per_head& ridge,
                                      const heed::local_linear::gradients<float>& gradients,
                                      const heed::local_linear::options<float>& options, const heed::context& ctx);

// slope: none for forward
void run_stored_local_linear(const stored_call& x, const heed::per_head& ridge, const input<float>* slope,
                             const heed::local_linear::options<float>& options, const heed::context& ctx);
heed::plan plan_stored_local_linear(const stored_call& x, const heed::per_head& ridge, const input<float>* slope,
                                    const heed::local_linear::options<float>& options, const heed::context& ctx);

// _decode: memory is read and left after the last token
using linear_options = heed::linear::options<float>;
void run_stored(const stored_call& x, const linear_options& options, const heed::context& ctx);
heed::plan plan_stored(const stored_call& x, const linear_options& options, const heed::context& ctx);
void run_stored_decode(const stored_call& x, heed::state_view<float> memory, const linear_options& options,
                       const heed::context& ctx);
heed::plan plan_stored_decode(const stored_call& x, heed::state_view<float> memory, const linear_options& options,
                              const heed::context& ctx);

using lightning_options = heed::lightning::options<float>;
void run_stored(const stored_call& x, const heed::decay<float>& decay, const lightning_options& options,
                const heed::context& ctx);
heed::plan plan_stored(const stored_call& x, const heed::decay<float>& decay, const lightning_options& options,
                       const heed::context& ctx);
void run_stored_decode(const stored_call& x, const heed::decay<float>& decay, heed::state_view<float> memory,
                       const lightning_options& options, const heed::context& ctx);
heed::plan plan_stored_decode(const stored_call& x, const heed::decay<float>& decay, heed::state_view<float> memory,
                              const lightning_options& options, const heed::context& ctx);

// o: of forward, of the type of q; lightning reads none. dout: of any type
struct stored_backward_call {
  any_input q, k, v, o, dout;
};
void run_stored_backward(const stored_backward_call& x, const heed::linear::gradients<float>& gradients,
                         const linear_options& options, const heed::context& ctx);
heed::plan plan_stored_backward(const stored_backward_call& x, const heed::linear::gradients<float>& gradients,
                                const linear_options& options, const heed::context& ctx);
void run_stored_backward(const stored_backward_call& x, const heed::decay<float>& decay,
                         const heed::lightning::gradients<float>& gradients, const lightning_options& options,
                         const heed::context& ctx);
heed::plan plan_stored_backward(const stored_backward_call& x, const heed::decay<float>& decay,
                                const heed::lightning::gradients<float>& gradients, const lightning_options& options,
                                const heed::context& ctx);

// f(q, k, v, o, dout) with the tensors as they are typed
template <class F> auto visit_stored(const stored_backward_call& x, F f) {
  return std::visit(
      [&](const auto& q, const auto& k, const auto& dout) {
        return f(q, k, std::get<std::decay_t<decltype(k)>>(x.v), std::get<std::decay_t<decltype(q)>>(x.o), dout);
      },
      x.q, x.k, x.dout);
}

// f(q, k, v, o) with the tensors as they are typed
template <class F> auto visit_stored(const stored_call& x, F f) {
  return std::visit(
      [&](const auto& q, const auto& k, const auto& o) { return f(q, k, std::get<std::decay_t<decltype(k)>>(x.v), o); },
      x.q, x.k, x.o);
}

// f(q, k, v, o, dout) likewise; o as an input
template <class F> auto visit_stored(const stored_backward& at, F f) {
  return visit_stored(at.x, [&](auto q, auto k, auto v, auto o) {
    using type = typename decltype(o)::element_type;
    const input<type> read = o;
    if (const auto* const same = std::get_if<input<type>>(&at.dout)) return f(q, k, v, read, *same);
    return f(q, k, v, read, std::get<input<float>>(at.dout));
  });
}

}  // namespace heed_test
