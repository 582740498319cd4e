// SPDX-License-Identifier: BSD-3-Clause

#include "heed/linear.hpp"
#include "support/recurrent_run.hpp"
#include "support/stored_run.hpp"
#include "support/vectors.hpp"

namespace heed_test {

template <class T>
void run_forward(const recurrent_call<T>& x, const heed::linear::options<T>& options, const heed::context& ctx) {
  heed::linear::forward(x.q, x.k, x.v, x.o, options, ctx);
}
template <class T>
heed::plan run_plan(const recurrent_call<T>& x, const heed::linear::options<T>& options, const heed::context& ctx) {
  return heed::linear::plan_forward(x.q, x.k, x.v, x.o, options, ctx);
}
template <class T>
void run_decode(const recurrent_call<T>& x, heed::state_view<T> memory, const heed::linear::options<T>& options,
                const heed::context& ctx) {
  heed::linear::decode(x.q, x.k, x.v, memory, x.o, options, ctx);
}
template <class T>
heed::plan run_plan_decode(const recurrent_call<T>& x, heed::state_view<T> memory,
                           const heed::linear::options<T>& options, const heed::context& ctx) {
  return heed::linear::plan_decode(x.q, x.k, x.v, memory, x.o, options, ctx);
}

template <class T>
void run_backward(const backward_call<T>& x, const heed::linear::gradients<T>& gradients,
                  const heed::linear::options<T>& options, const heed::context& ctx) {
  heed::linear::backward(x.q, x.k, x.v, x.o, x.dout, gradients, options, ctx);
}
template <class T>
heed::plan run_plan_backward(const backward_call<T>& x, const heed::linear::gradients<T>& gradients,
                             const heed::linear::options<T>& options, const heed::context& ctx) {
  return heed::linear::plan_backward(x.q, x.k, x.v, x.o, x.dout, gradients, options, ctx);
}

#define INSTANTIATE(T)                                                                                              \
  template void run_forward<T>(const recurrent_call<T>&, const heed::linear::options<T>&, const heed::context&);    \
  template heed::plan run_plan<T>(const recurrent_call<T>&, const heed::linear::options<T>&, const heed::context&); \
  template void run_decode<T>(const recurrent_call<T>&, heed::state_view<T>, const heed::linear::options<T>&,       \
                              const heed::context&);                                                                \
  template heed::plan run_plan_decode<T>(const recurrent_call<T>&, heed::state_view<T>,                             \
                                         const heed::linear::options<T>&, const heed::context&);                    \
  template void run_backward<T>(const backward_call<T>&, const heed::linear::gradients<T>&,                         \
                                const heed::linear::options<T>&, const heed::context&);                             \
  template heed::plan run_plan_backward<T>(const backward_call<T>&, const heed::linear::gradients<T>&,              \
                                           const heed::linear::options<T>&, const heed::context&);
INSTANTIATE(float)
INSTANTIATE(double)

void run_stored(const stored_call& x, const linear_options& options, const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o) { heed::linear::forward(q, k, v, o, options, ctx); });
}
heed::plan plan_stored(const stored_call& x, const linear_options& options, const heed::context& ctx) {
  return visit_stored(
      x, [&](auto q, auto k, auto v, auto o) { return heed::linear::plan_forward(q, k, v, o, options, ctx); });
}
void run_stored_decode(const stored_call& x, heed::state_view<float> memory, const linear_options& options,
                       const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o) { heed::linear::decode(q, k, v, memory, o, options, ctx); });
}
heed::plan plan_stored_decode(const stored_call& x, heed::state_view<float> memory, const linear_options& options,
                              const heed::context& ctx) {
  return visit_stored(
      x, [&](auto q, auto k, auto v, auto o) { return heed::linear::plan_decode(q, k, v, memory, o, options, ctx); });
}

void run_stored_backward(const stored_backward_call& x, const heed::linear::gradients<float>& gradients,
                         const linear_options& options, const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o, auto dout) {
    heed::linear::backward(q, k, v, o, dout, gradients, options, ctx);
  });
}
heed::plan plan_stored_backward(const stored_backward_call& x, const heed::linear::gradients<float>& gradients,
                                const linear_options& options, const heed::context& ctx) {
  return visit_stored(x, [&](auto q, auto k, auto v, auto o, auto dout) {
    return heed::linear::plan_backward(q, k, v, o, dout, gradients, options, ctx);
  });
}

std::string run_linear_vectors(heed::index_t dim, heed::index_t value_dim) {
  heed::state<float> memory(1, 1, dim, value_dim);
  const std::string decoded = said_of_vectors(
      dim, value_dim,
      [&memory](auto&& q, auto&& k, auto&& v, auto&& o) { heed::linear::decode(q, k, v, memory, o); },
      [&memory](auto& q, auto& k, auto& v, auto& o) { return heed::linear::plan_decode(q, k, v, memory, o); });
  const std::string text = said_of_vectors(
      dim, value_dim, [](auto&& q, auto&& k, auto&& v, auto&& o) { heed::linear::forward(q, k, v, o); },
      [](auto& q, auto& k, auto& v, auto& o) { return heed::linear::plan_forward(q, k, v, o); });
  return text == decoded ? text : "decode says " + decoded + ", forward says " + text;
}

}  // namespace heed_test
