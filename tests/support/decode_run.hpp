// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of decode under test. They are compiled in a run.cpp, once per machine; tests are compiled once.

#include <cstdint>
#include <variant>

#include "heed/core/context.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/softmax/options.hpp"
#include "support/stored.hpp"

namespace heed_test {

// What a call that sums in T may hold
template <class T> struct decode_types {
  using query = any_input;
  using output = any_output;
  using cache = std::variant<heed::kv_cache_view<float>, heed::kv_cache_view<heed::bf16_t>,
                             heed::kv_cache_view<heed::f16_t>, heed::kv_cache_view<std::int8_t>>;
};
template <> struct decode_types<double> {
  using query = std::variant<input<double>>;
  using output = std::variant<heed_test::output<double>>;
  using cache = std::variant<heed::kv_cache_view<double>>;
};
template <class T> using any_cache = typename decode_types<T>::cache;

template <class T> struct decode_call {
  typename decode_types<T>::query q;
  any_cache<T> cache;
  typename decode_types<T>::output o;
};

template <class T>
void run_decode(const decode_call<T>& x, const heed::softmax::options<T>& options, const heed::context& ctx);
template <class T>
heed::plan plan_decode(const decode_call<T>& x, const heed::softmax::options<T>& options, const heed::context& ctx);

// softmax::decode with a shared prefix, of q, k, v and o in float or a cache of another type
void run_prefixed(const decode_call<float>& x, const any_cache<float>& prefix,
                  const heed::softmax::options<float>& options, const heed::context& ctx);
heed::plan plan_prefixed(const decode_call<float>& x, const any_cache<float>& prefix,
                         const heed::softmax::options<float>& options, const heed::context& ctx);

template <class T> using decode_gates = heed::tensor_view<const T, 3>;
template <class T>
void run_decode(const decode_call<T>& x, const decode_gates<T>& gates, const heed::softmax::options<T>& options,
                const heed::context& ctx);
template <class T>
heed::plan plan_decode(const decode_call<T>& x, const decode_gates<T>& gates, const heed::softmax::options<T>& options,
                       const heed::context& ctx);

template <class T>
void run_decode(const decode_call<T>& x, const heed::per_head& ridge, const heed::local_linear::options<T>& options,
                const heed::context& ctx);
template <class T>
heed::plan plan_decode(const decode_call<T>& x, const heed::per_head& ridge,
                       const heed::local_linear::options<T>& options, const heed::context& ctx);

// f(q, cache, o) as they are typed
template <class T, class F> auto visit_decode(const decode_call<T>& x, F f) { return std::visit(f, x.q, x.cache, x.o); }

}  // namespace heed_test

// In a run.cpp: run_decode and plan_decode of heed::KERNEL, of float and double.
#define HEED_TEST_DECODE(KERNEL, OPTIONS)                                                                      \
  namespace heed_test {                                                                                        \
  template <class T>                                                                                           \
  void run_decode(const decode_call<T>& x, const OPTIONS<T>& options, const heed::context& ctx) {              \
    visit_decode(x, [&](auto q, auto cache, auto o) { heed::KERNEL::decode(q, cache, o, options, ctx); });     \
  }                                                                                                            \
  template <class T>                                                                                           \
  heed::plan plan_decode(const decode_call<T>& x, const OPTIONS<T>& options, const heed::context& ctx) {       \
    return visit_decode(                                                                                       \
        x, [&](auto q, auto cache, auto o) { return heed::KERNEL::plan_decode(q, cache, o, options, ctx); });  \
  }                                                                                                            \
  template void run_decode(const decode_call<float>&, const OPTIONS<float>&, const heed::context&);            \
  template void run_decode(const decode_call<double>&, const OPTIONS<double>&, const heed::context&);          \
  template heed::plan plan_decode(const decode_call<float>&, const OPTIONS<float>&, const heed::context&);     \
  template heed::plan plan_decode(const decode_call<double>&, const OPTIONS<double>&, const heed::context&);   \
  }

// The same of a kernel with one more argument, of type MORE<T>
#define HEED_TEST_DECODE_WITH(KERNEL, MORE, OPTIONS)                                                              \
  namespace heed_test {                                                                                           \
  template <class T>                                                                                              \
  void run_decode(const decode_call<T>& x, const MORE<T>& more, const OPTIONS<T>& options,                        \
                  const heed::context& ctx) {                                                                     \
    visit_decode(x, [&](auto q, auto cache, auto o) { heed::KERNEL::decode(q, cache, more, o, options, ctx); });  \
  }                                                                                                               \
  template <class T>                                                                                              \
  heed::plan plan_decode(const decode_call<T>& x, const MORE<T>& more, const OPTIONS<T>& options,                 \
                         const heed::context& ctx) {                                                              \
    return visit_decode(x, [&](auto q, auto cache, auto o) {                                                      \
      return heed::KERNEL::plan_decode(q, cache, more, o, options, ctx);                                          \
    });                                                                                                           \
  }                                                                                                               \
  template void run_decode(const decode_call<float>&, const MORE<float>&, const OPTIONS<float>&,                  \
                           const heed::context&);                                                                 \
  template void run_decode(const decode_call<double>&, const MORE<double>&, const OPTIONS<double>&,               \
                           const heed::context&);                                                                 \
  template heed::plan plan_decode(const decode_call<float>&, const MORE<float>&, const OPTIONS<float>&,           \
                                  const heed::context&);                                                          \
  template heed::plan plan_decode(const decode_call<double>&, const MORE<double>&, const OPTIONS<double>&,        \
                                  const heed::context&);                                                          \
  }
