// SPDX-License-Identifier: BSD-3-Clause

#include "heed/lightning.hpp"
#include "heed/linear.hpp"
#include "support/recurrent_run.hpp"
#include "support/stored_run.hpp"
#include "support/vectors.hpp"

namespace heed_test {

template <class T>
void run_forward(const recurrent_call<T>& x, const heed::decay<T>& decay, const heed::lightning::options<T>& options,
                 const heed::context& ctx) {
  heed::lightning::forward(x.q, x.k, x.v, decay, x.o, options, ctx);
}
template <class T>
heed::plan run_plan(const recurrent_call<T>& x, const heed::decay<T>& decay, const heed::lightning::options<T>& options,
                    const heed::context& ctx) {
  return heed::lightning::plan_forward(x.q, x.k, x.v, decay, x.o, options, ctx);
}
template <class T>
void run_decode(const recurrent_call<T>& x, const heed::decay<T>& decay, heed::state_view<T> memory,
                const heed::lightning::options<T>& options, const heed::context& ctx) {
  heed::lightning::decode(x.q, x.k, x.v, decay, memory, x.o, options, ctx);
}
template <class T>
heed::plan run_plan_decode(const recurrent_call<T>& x, const heed::decay<T>& decay, heed::state_view<T> memory,
                           const heed::lightning::options<T>& options, const heed::context& ctx) {
  return heed::lightning::plan_decode(x.q, x.k, x.v, decay, memory, x.o, options, ctx);
}

template <class T>
void run_backward(const backward_call<T>& x, const heed::decay<T>& decay,
                  const heed::lightning::gradients<T>& gradients, const heed::lightning::options<T>& options,
                  const heed::context& ctx) {
  heed::lightning::backward(x.q, x.k, x.v, decay, x.dout, gradients, options, ctx);
}
template <class T>
heed::plan run_plan_backward(const backward_call<T>& x, const heed::decay<T>& decay,
                             const heed::lightning::gradients<T>& gradients,
                             const heed::lightning::options<T>& options, const heed::context& ctx) {
  return heed::lightning::plan_backward(x.q, x.k, x.v, decay, x.dout, gradients, options, ctx);
}

// For what the two kernels have in common
template <class T>
void run_forward(const recurrent_call<T>& x, const heed::linear::options<T>& options, const heed::context& ctx) {
  heed::linear::forward(x.q, x.k, x.v, x.o, options, ctx);
}
template <class T>
heed::plan run_plan(const recurrent_call<T>& x, const heed::linear::options<T>& options, const heed::context& ctx) {
  return heed::linear::plan_forward(x.q, x.k, x.v, x.o, options, ctx);
}
template <class T>
void run_backward(const backward_call<T>& x, const heed::linear::gradients<T>& gradients,
                  const heed::linear::options<T>& options, const heed::context& ctx) {
  heed::linear::backward(x.q, x.k, x.v, x.o, x.dout, gradients, options, ctx);
}

#define INSTANTIATE(T)                                                                                                 \
  template void run_forward<T>(const recurrent_call<T>&, const heed::decay<T>&, const heed::lightning::options<T>&,    \
                               const heed::context&);                                                                  \
  template heed::plan run_plan<T>(const recurrent_call<T>&, const heed::decay<T>&, const heed::lightning::options<T>&, \
                                  const heed::context&);                                                               \
  template void run_decode<T>(const recurrent_call<T>&, const heed::decay<T>&, heed::state_view<T>,                    \
                              const heed::lightning::options<T>&, const heed::context&);                               \
  template heed::plan run_plan_decode<T>(const recurrent_call<T>&, const heed::decay<T>&, heed::state_view<T>,         \
                                         const heed::lightning::options<T>&, const heed::context&);                    \
  template void run_forward<T>(const recurrent_call<T>&, const heed::linear::options<T>&, const heed::context&);       \
  template heed::plan run_plan<T>(const recurrent_call<T>&, const heed::linear::options<T>&, const heed::context&);    \
  template void run_backward<T>(const backward_call<T>&, const heed::decay<T>&, const heed::lightning::gradients<T>&,  \
                                const heed::lightning::options<T>&, const heed::context&);                             \
  template heed::plan run_plan_backward<T>(const backward_call<T>&, const heed::decay<T>&,                             \
                                           const heed::lightning::gradients<T>&,                                       \
                                           const heed::lightning::options<T>&, const heed::context&);                  \
  template void run_backward<T>(const backward_call<T>&, const heed::linear::gradients<T>&,                            \
                                const heed::linear::options<T>&, const heed::context&);
INSTANTIATE(float)
INSTANTIATE(double)

void run_stored(const stored_call& x, const heed::decay<float>& decay, const lightning_options& options,
                const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o) { heed::lightning::forward(q, k, v, decay, o, options, ctx); });
}
heed::plan plan_stored(const stored_call& x, const heed::decay<float>& decay, const lightning_options& options,
                       const heed::context& ctx) {
  return visit_stored(x, [&](auto q, auto k, auto v, auto o) {
    return heed::lightning::plan_forward(q, k, v, decay, o, options, ctx);
  });
}
void run_stored_decode(const stored_call& x, const heed::decay<float>& decay, heed::state_view<float> memory,
                       const lightning_options& options, const heed::context& ctx) {
  visit_stored(
      x, [&](auto q, auto k, auto v, auto o) { heed::lightning::decode(q, k, v, decay, memory, o, options, ctx); });
}
heed::plan plan_stored_decode(const stored_call& x, const heed::decay<float>& decay, heed::state_view<float> memory,
                              const lightning_options& options, const heed::context& ctx) {
  return visit_stored(x, [&](auto q, auto k, auto v, auto o) {
    return heed::lightning::plan_decode(q, k, v, decay, memory, o, options, ctx);
  });
}

void run_stored_backward(const stored_backward_call& x, const heed::decay<float>& decay,
                         const heed::lightning::gradients<float>& gradients, const lightning_options& options,
                         const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto, auto dout) {
    heed::lightning::backward(q, k, v, decay, dout, gradients, options, ctx);
  });
}
heed::plan plan_stored_backward(const stored_backward_call& x, const heed::decay<float>& decay,
                                const heed::lightning::gradients<float>& gradients, const lightning_options& options,
                                const heed::context& ctx) {
  return visit_stored(x, [&](auto q, auto k, auto v, auto, auto dout) {
    return heed::lightning::plan_backward(q, k, v, decay, dout, gradients, options, ctx);
  });
}

std::string run_lightning_vectors(heed::index_t dim, heed::index_t value_dim) {
  const std::vector<float> slope(1, 0.5f);
  const heed::decay<float> decay(slope);
  heed::state<float> memory(1, 1, dim, value_dim);
  const std::string decoded = said_of_vectors(
      dim, value_dim,
      [&](auto&& q, auto&& k, auto&& v, auto&& o) { heed::lightning::decode(q, k, v, decay, memory, o); },
      [&](auto& q, auto& k, auto& v, auto& o) { return heed::lightning::plan_decode(q, k, v, decay, memory, o); });
  const std::string text = said_of_vectors(
      dim, value_dim,
      [&](auto&& q, auto&& k, auto&& v, auto&& o) { heed::lightning::forward(q, k, v, decay, o); },
      [&](auto& q, auto& k, auto& v, auto& o) { return heed::lightning::plan_forward(q, k, v, decay, o); });
  return text == decoded ? text : "decode says " + decoded + ", forward says " + text;
}

}  // namespace heed_test
