// SPDX-License-Identifier: BSD-3-Clause

// The calls of softmax's tests under the names of sparse_query.

#include "heed/sparse_query.hpp"
#include "support/decode_run.hpp"
#include "support/softmax_run.hpp"

namespace heed_test {

template <class T>
void run_forward(input<T> q, input<T> k, input<T> v, output<T> o, const heed::softmax::options<T>& options,
                 const heed::context& ctx) {
  const heed::sparse_query::options<T>& same = options;
  heed::sparse_query::forward(q, k, v, o, same, ctx);
}
template <class T>
heed::plan run_plan(input<T> q, input<T> k, input<T> v, output<T> o, const heed::softmax::options<T>& options,
                    const heed::context& ctx) {
  return heed::sparse_query::plan_forward(q, k, v, o, options, ctx);
}

template <class T>
void run_backward(const backward_tensors<T>& x, const heed::softmax::gradients<T>& gradients,
                  const heed::softmax::options<T>& options, const heed::context& ctx) {
  const heed::sparse_query::gradients<T>& same = gradients;
  heed::sparse_query::backward(x.q, x.k, x.v, x.o, x.dout, same, options, ctx);
}
template <class T>
heed::plan run_plan_backward(const backward_tensors<T>& x, const heed::softmax::gradients<T>& gradients,
                             const heed::softmax::options<T>& options, const heed::context& ctx) {
  return heed::sparse_query::plan_backward(x.q, x.k, x.v, x.o, x.dout, gradients, options, ctx);
}

#define INSTANTIATE(T)                                                                                       \
  template void run_forward<T>(input<T>, input<T>, input<T>, output<T>, const heed::softmax::options<T>&,    \
                               const heed::context&);                                                        \
  template heed::plan run_plan<T>(input<T>, input<T>, input<T>, output<T>, const heed::softmax::options<T>&, \
                                  const heed::context&);                                                     \
  template void run_backward<T>(const backward_tensors<T>&, const heed::softmax::gradients<T>&,              \
                                const heed::softmax::options<T>&, const heed::context&);                     \
  template heed::plan run_plan_backward<T>(const backward_tensors<T>&, const heed::softmax::gradients<T>&,   \
                                           const heed::softmax::options<T>&, const heed::context&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace heed_test

HEED_TEST_DECODE(sparse_query, heed::sparse_query::options)
