// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls under test. They are compiled in tests/<kernel>/run.cpp, once per machine; the tests themselves know no
// machine and are compiled once.

#include <string>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"
#include "heed/lightning/options.hpp"
#include "heed/linear/options.hpp"

namespace heed_test {

template <class T> struct recurrent_call {
  heed::tensor_view<const T, 4> q, k, v;
  heed::tensor_view<T, 4> o;
};

template <class T>
void run_forward(const recurrent_call<T>& x, const heed::linear::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_plan(const recurrent_call<T>& x, const heed::linear::options<T>& options, const heed::context& ctx);
template <class T>
void run_decode(const recurrent_call<T>& x, heed::state_view<T> memory, const heed::linear::options<T>& options,
                const heed::context& ctx);
template <class T>
heed::plan run_plan_decode(const recurrent_call<T>& x, heed::state_view<T> memory,
                           const heed::linear::options<T>& options, const heed::context& ctx);

template <class T>
void run_forward(const recurrent_call<T>& x, const heed::decay<T>& decay, const heed::lightning::options<T>& options,
                 const heed::context& ctx);
template <class T>
heed::plan run_plan(const recurrent_call<T>& x, const heed::decay<T>& decay, const heed::lightning::options<T>& options,
                    const heed::context& ctx);
template <class T>
void run_decode(const recurrent_call<T>& x, const heed::decay<T>& decay, heed::state_view<T> memory,
                const heed::lightning::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_plan_decode(const recurrent_call<T>& x, const heed::decay<T>& decay, heed::state_view<T> memory,
                           const heed::lightning::options<T>& options, const heed::context& ctx);

// o: of forward; lightning does not read it
template <class T> struct backward_call {
  heed::tensor_view<const T, 4> q, k, v, o, dout;
};

template <class T>
void run_backward(const backward_call<T>& x, const heed::linear::gradients<T>& gradients,
                  const heed::linear::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_plan_backward(const backward_call<T>& x, const heed::linear::gradients<T>& gradients,
                             const heed::linear::options<T>& options, const heed::context& ctx);
template <class T>
void run_backward(const backward_call<T>& x, const heed::decay<T>& decay,
                  const heed::lightning::gradients<T>& gradients, const heed::lightning::options<T>& options,
                  const heed::context& ctx);
template <class T>
heed::plan run_plan_backward(const backward_call<T>& x, const heed::decay<T>& decay,
                             const heed::lightning::gradients<T>& gradients,
                             const heed::lightning::options<T>& options, const heed::context& ctx);

// Whether the plan gives this as one of its reasons
inline bool says(const heed::plan& plan, const char* what) {
  return std::string(plan.why.data()).find(what) != std::string::npos;
}

}  // namespace heed_test
