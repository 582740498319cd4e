// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls under test. They are compiled in tests/local_linear/run.cpp, once per machine; the tests themselves know no
// machine and are compiled once.

#include "heed/core/context.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/options.hpp"
#include "support/tensors.hpp"

namespace heed_test {

template <class T>
void run_forward(input<T> q, input<T> k, input<T> v, const heed::per_head& ridge, output<T> o,
                 const heed::local_linear::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_plan_forward(input<T> q, input<T> k, input<T> v, const heed::per_head& ridge, output<T> o,
                            const heed::local_linear::options<T>& options, const heed::context& ctx);
template <class T>
void run_apply(input<T> q, input<T> k, input<T> v, input<T> slope, output<T> o,
               const heed::local_linear::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_plan_apply(input<T> q, input<T> k, input<T> v, input<T> slope, output<T> o,
                          const heed::local_linear::options<T>& options, const heed::context& ctx);

template <class T> struct fitted_tensors {
  input<T> q, k, v, dout;
};
template <class T>
void run_backward(const fitted_tensors<T>& x, const heed::per_head& ridge,
                  const heed::local_linear::gradients<T>& gradients, const heed::local_linear::options<T>& options,
                  const heed::context& ctx);
template <class T>
heed::plan run_plan_backward(const fitted_tensors<T>& x, const heed::per_head& ridge,
                             const heed::local_linear::gradients<T>& gradients,
                             const heed::local_linear::options<T>& options, const heed::context& ctx);

}  // namespace heed_test
