// SPDX-License-Identifier: BSD-3-Clause

#include "heed/local_linear.hpp"
#include "support/decode_run.hpp"
#include "support/local_linear_run.hpp"
#include "support/stored_run.hpp"
#include "support/vectors.hpp"

namespace heed_test {

template <class T> using how = heed::local_linear::options<T>;

template <class T>
void run_forward(input<T> q, input<T> k, input<T> v, const heed::per_head& ridge, output<T> o, const how<T>& options,
                 const heed::context& ctx) {
  heed::local_linear::forward(q, k, v, ridge, o, options, ctx);
}
template <class T>
heed::plan run_plan_forward(input<T> q, input<T> k, input<T> v, const heed::per_head& ridge, output<T> o,
                            const how<T>& options, const heed::context& ctx) {
  return heed::local_linear::plan_forward(q, k, v, ridge, o, options, ctx);
}
template <class T>
void run_apply(input<T> q, input<T> k, input<T> v, input<T> slope, output<T> o, const how<T>& options,
               const heed::context& ctx) {
  heed::local_linear::apply(q, k, v, slope, o, options, ctx);
}
template <class T>
heed::plan run_plan_apply(input<T> q, input<T> k, input<T> v, input<T> slope, output<T> o, const how<T>& options,
                          const heed::context& ctx) {
  return heed::local_linear::plan_apply(q, k, v, slope, o, options, ctx);
}

template <class T>
void run_backward(const fitted_tensors<T>& x, const heed::per_head& ridge,
                  const heed::local_linear::gradients<T>& gradients, const how<T>& options, const heed::context& ctx) {
  heed::local_linear::backward(x.q, x.k, x.v, ridge, x.dout, gradients, options, ctx);
}
template <class T>
heed::plan run_plan_backward(const fitted_tensors<T>& x, const heed::per_head& ridge,
                             const heed::local_linear::gradients<T>& gradients, const how<T>& options,
                             const heed::context& ctx) {
  return heed::local_linear::plan_backward(x.q, x.k, x.v, ridge, x.dout, gradients, options, ctx);
}

#define INSTANTIATE(T)                                                                                                \
  template void run_forward<T>(input<T>, input<T>, input<T>, const heed::per_head&, output<T>, const how<T>&,         \
                               const heed::context&);                                                                 \
  template heed::plan run_plan_forward<T>(input<T>, input<T>, input<T>, const heed::per_head&, output<T>,             \
                                          const how<T>&, const heed::context&);                                       \
  template void run_apply<T>(input<T>, input<T>, input<T>, input<T>, output<T>, const how<T>&, const heed::context&); \
  template void run_backward<T>(const fitted_tensors<T>&, const heed::per_head&,                                      \
                                const heed::local_linear::gradients<T>&, const how<T>&, const heed::context&);        \
  template heed::plan run_plan_backward<T>(const fitted_tensors<T>&, const heed::per_head&,                           \
                                           const heed::local_linear::gradients<T>&, const how<T>&,                    \
                                           const heed::context&);                                                     \
  template heed::plan run_plan_apply<T>(input<T>, input<T>, input<T>, input<T>, output<T>, const how<T>&,             \
                                        const heed::context&);
INSTANTIATE(float)
INSTANTIATE(double)

void run_stored_local_linear(const stored_call& x, const heed::per_head& ridge, const input<float>* slope,
                             const how<float>& options, const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o) {
    if (slope != nullptr)
      heed::local_linear::apply(q, k, v, *slope, o, options, ctx);
    else
      heed::local_linear::forward(q, k, v, ridge, o, options, ctx);
  });
}
void run_stored_local_linear_backward(const stored_backward& x, const heed::per_head& ridge,
                                      const heed::local_linear::gradients<float>& gradients, const how<float>& options,
                                      const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto, auto dout) {
    heed::local_linear::backward(q, k, v, ridge, dout, gradients, options, ctx);
  });
}
heed::plan plan_stored_local_linear(const stored_call& x, const heed::per_head& ridge, const input<float>* slope,
                                    const how<float>& options, const heed::context& ctx) {
  return visit_stored(x, [&](auto q, auto k, auto v, auto o) {
    return slope != nullptr ? heed::local_linear::plan_apply(q, k, v, *slope, o, options, ctx)
                            : heed::local_linear::plan_forward(q, k, v, ridge, o, options, ctx);
  });
}

std::string run_local_linear_vectors(heed::index_t dim, heed::index_t value_dim) {
  return said_of_vectors(
      dim, value_dim, [](auto&& q, auto&& k, auto&& v, auto&& o) { heed::local_linear::forward(q, k, v, 0.5, o); },
      [](auto& q, auto& k, auto& v, auto& o) { return heed::local_linear::plan_forward(q, k, v, 0.5, o); });
}

}  // namespace heed_test

namespace heed_test {
template <class> using ridge_of = heed::per_head;
}
HEED_TEST_DECODE_WITH(local_linear, ridge_of, heed::local_linear::options)
