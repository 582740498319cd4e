// SPDX-License-Identifier: BSD-3-Clause

// The calls under test of softmax, which sparse query has under its own names, and of mixture of head.

#include "mixture_of_head/run.hpp"
#include "heed/softmax.hpp"
#include "support/decode_run.hpp"
#include "support/softmax_run.hpp"
#include "support/stored_run.hpp"
#include "support/vectors.hpp"

namespace heed_test {

template <class T>
void run_forward(input<T> q, input<T> k, input<T> v, output<T> o, const heed::softmax::options<T>& options,
                 const heed::context& ctx) {
  heed::softmax::forward(q, k, v, o, options, ctx);
}
template <class T>
heed::plan run_plan(input<T> q, input<T> k, input<T> v, output<T> o, const heed::softmax::options<T>& options,
                    const heed::context& ctx) {
  return heed::softmax::plan_forward(q, k, v, o, options, ctx);
}
template <class T>
void run_merge(output<T> o, heed::tensor_view<T, 3> lse, input<T> part, heed::tensor_view<const T, 3> part_lse,
               double log_weight) {
  heed::softmax::merge(o, lse, part, part_lse, log_weight);
}

template <class T>
void run_backward(const backward_tensors<T>& x, const heed::softmax::gradients<T>& gradients,
                  const heed::softmax::options<T>& options, const heed::context& ctx) {
  heed::softmax::backward(x.q, x.k, x.v, x.o, x.dout, gradients, options, ctx);
}
template <class T>
heed::plan run_plan_backward(const backward_tensors<T>& x, const heed::softmax::gradients<T>& gradients,
                             const heed::softmax::options<T>& options, const heed::context& ctx) {
  return heed::softmax::plan_backward(x.q, x.k, x.v, x.o, x.dout, gradients, options, ctx);
}

template <class T>
void run_prepared(const std::vector<prepared_memory<T>>& memory, const heed::softmax::options<T>& options,
                  const heed::context& ctx, const std::function<void(std::size_t)>& before) {
  const auto& [q, k, v, o] = memory.front();
  auto call = heed::softmax::prepare(q, k, v, o, options, ctx);
  before(0);
  call();
  for (std::size_t i = 1; i < memory.size(); ++i) {
    before(i);
    call(memory[i].q, memory[i].k, memory[i].v, memory[i].o);
  }
}

#define INSTANTIATE(T)                                                                                             \
  template void run_forward<T>(input<T>, input<T>, input<T>, output<T>, const heed::softmax::options<T>&,          \
                               const heed::context&);                                                              \
  template heed::plan run_plan<T>(input<T>, input<T>, input<T>, output<T>, const heed::softmax::options<T>&,       \
                                  const heed::context&);                                                           \
  template void run_merge<T>(output<T>, heed::tensor_view<T, 3>, input<T>, heed::tensor_view<const T, 3>, double); \
  template void run_backward<T>(const backward_tensors<T>&, const heed::softmax::gradients<T>&,                    \
                                const heed::softmax::options<T>&, const heed::context&);                           \
  template heed::plan run_plan_backward<T>(const backward_tensors<T>&, const heed::softmax::gradients<T>&,         \
                                           const heed::softmax::options<T>&, const heed::context&);                \
  template void run_prepared<T>(const std::vector<prepared_memory<T>>&, const heed::softmax::options<T>&,          \
                                const heed::context&, const std::function<void(std::size_t)>&);
INSTANTIATE(float)
INSTANTIATE(double)

void run_stored(const stored_call& x, const heed::softmax::options<float>& options, const heed::context& ctx) {
  visit_stored(x, [&](auto q, auto k, auto v, auto o) { heed::softmax::forward(q, k, v, o, options, ctx); });
}
heed::plan plan_stored(const stored_call& x, const heed::softmax::options<float>& options, const heed::context& ctx) {
  return visit_stored(
      x, [&](auto q, auto k, auto v, auto o) { return heed::softmax::plan_forward(q, k, v, o, options, ctx); });
}
void run_stored_backward(const stored_backward& x, const heed::softmax::gradients<float>& gradients,
                         const heed::softmax::options<float>& options, const heed::context& ctx) {
  visit_stored(x, [&](auto... tensors) { heed::softmax::backward(tensors..., gradients, options, ctx); });
}
heed::plan plan_stored_backward(const stored_backward& x, const heed::softmax::gradients<float>& gradients,
                                const heed::softmax::options<float>& options, const heed::context& ctx) {
  return visit_stored(
      x, [&](auto... tensors) { return heed::softmax::plan_backward(tensors..., gradients, options, ctx); });
}
void run_stored_prepared(const std::vector<stored_call>& memory, const heed::softmax::options<float>& options,
                         const heed::context& ctx, const std::function<void(std::size_t)>& before) {
  heed::softmax::prepared<float> call = visit_stored(
      memory.front(), [&](auto q, auto k, auto v, auto o) { return heed::softmax::prepare(q, k, v, o, options, ctx); });
  before(0);
  call();
  for (std::size_t i = 1; i < memory.size(); ++i) before(i), visit_stored(memory[i], [&](auto... x) { call(x...); });
}

std::string run_softmax_vectors(heed::index_t dim, heed::index_t value_dim) {
  return said_of_vectors(
      dim, value_dim, [](auto&& q, auto&& k, auto&& v, auto&& o) { heed::softmax::forward(q, k, v, o); },
      [](auto& q, auto& k, auto& v, auto& o) { return heed::softmax::plan_forward(q, k, v, o); });
}

}  // namespace heed_test

HEED_TEST_DECODE(softmax, heed::softmax::options)

namespace heed_test {

// f(q, shared prefix and cache, o)
template <class F> static auto visit_prefixed(const decode_call<float>& x, const any_cache<float>& prefix, F f) {
  return std::visit(
      [&](const auto& own) {
        const auto& first = std::get<std::decay_t<decltype(own)>>(prefix);
        return f(std::get<input<float>>(x.q), heed::shared_prefix(first, own), std::get<output<float>>(x.o));
      },
      x.cache);
}
void run_prefixed(const decode_call<float>& x, const any_cache<float>& prefix,
                  const heed::softmax::options<float>& options, const heed::context& ctx) {
  visit_prefixed(x, prefix, [&](auto q, auto cache, auto o) { heed::softmax::decode(q, cache, o, options, ctx); });
}
heed::plan plan_prefixed(const decode_call<float>& x, const any_cache<float>& prefix,
                         const heed::softmax::options<float>& options, const heed::context& ctx) {
  return visit_prefixed(
      x, prefix, [&](auto q, auto cache, auto o) { return heed::softmax::plan_decode(q, cache, o, options, ctx); });
}

}  // namespace heed_test
