// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls under test. They are compiled in tests/softmax/run.cpp, once per machine; the tests themselves know no
// machine and are compiled once.

#include <functional>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"
#include "heed/softmax/options.hpp"
#include "support/tensors.hpp"

namespace heed_test {

template <class T>
void run_forward(input<T> q, input<T> k, input<T> v, output<T> o, const heed::softmax::options<T>& options,
                 const heed::context& ctx);
template <class T>
heed::plan run_plan(input<T> q, input<T> k, input<T> v, output<T> o, const heed::softmax::options<T>& options,
                    const heed::context& ctx);
template <class T>
void run_merge(output<T> o, heed::tensor_view<T, 3> lse, input<T> part, heed::tensor_view<const T, 3> part_lse,
               double log_weight);

template <class T> struct backward_tensors {
  input<T> q, k, v, o, dout;
};
template <class T>
void run_backward(const backward_tensors<T>& x, const heed::softmax::gradients<T>& gradients,
                  const heed::softmax::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan run_plan_backward(const backward_tensors<T>& x, const heed::softmax::gradients<T>& gradients,
                             const heed::softmax::options<T>& options, const heed::context& ctx);

// Prepares a call for the first memory, runs it there, and then on all others; before(i) is called before run i.
template <class T> struct prepared_memory {
  input<T> q, k, v;
  output<T> o;
};
template <class T>
void run_prepared(const std::vector<prepared_memory<T>>& memory, const heed::softmax::options<T>& options,
                  const heed::context& ctx, const std::function<void(std::size_t)>& before);

}  // namespace heed_test
