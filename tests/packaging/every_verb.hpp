// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Every verb of every kernel, for every element type, called from functions without linkage: what is weak in an object
// that includes this is heed's or the standard library's. every_verb<T>::use must be named to be compiled.

#include <cstdint>
#include <type_traits>
#include <vector>

#include "heed/heed.hpp"

namespace {

template <class T> struct every_verb {
  using input = heed::tensor_view<const T, 4>;
  using output = heed::tensor_view<T, 4>;
  using scalars = heed::tensor_view<const T, 3>;
  using scalars_out = heed::tensor_view<T, 3>;

  input q, k, v;
  output o;
  scalars given;
  scalars_out written;
  heed::context where;

  heed::plan use_softmax(const heed::softmax::options<T>& how) const {
    heed::softmax::forward(q, k, v, o, how, where);
    heed::softmax::merge(o, written, v, given, 0.5);
    auto again = heed::softmax::prepare(q, k, v, o, how, where);
    again(), again(q, k, v, o);
    heed::softmax::backward(q, k, v, o, o, {.dq = o}, how, where);
    const heed::plan backward = heed::softmax::plan_backward(q, k, v, o, o, {.dq = o}, how, where);
    return backward.ok() ? heed::softmax::plan_forward(q, k, v, o, how, where) : backward;
  }
  // Each verb with each kind of cache
  template <class Cache> heed::plan use_cache(const Cache& cache, const heed::per_head& ridge) const {
    heed::softmax::decode(q, cache, o, {}, where);
    heed::mixture_of_head::decode(q, cache, given, o, {}, where);
    heed::local_linear::decode(q, cache, ridge, o, {}, where);
    const heed::plan plans[] = {heed::softmax::plan_decode(q, cache, o, {}, where),
                                heed::mixture_of_head::plan_decode(q, cache, given, o, {}, where),
                                heed::local_linear::plan_decode(q, cache, ridge, o, {}, where)};
    return plans[0].ok() && plans[1].ok() ? plans[2] : plans[0];
  }
  template <class S> heed::plan use_caches(const heed::per_head& ridge) const {
    const heed::index_t heads = k.extent(1), d = k.extent(3), e = v.extent(3);
    heed::cache::contiguous<S> rows(q.extent(0), heads, 99, d, e);
    heed::cache::ring<S> ring(q.extent(0), heads, 99, d, e, 4, heed::cache::lengths_per::kv_head);
    heed::cache::paged<S> pages(99, 16, heads, d, e, q.extent(0));
    rows.append(k, v), ring.append(0, 0, k, v), pages.append(0, k, v);
    rows.truncate(0, 1), ring.truncate(0, 0, 1), pages.truncate(0, 1);
    rows.fork(0, 1), pages.fork(0, 1), rows.release(0), pages.release(0), ring.reset(), pages.reset();
    auto again = heed::softmax::prepare_decode(q, pages, o, {}, where);
    again(), again(q, o);
    const heed::plan plans[] = {use_cache(rows, ridge), use_cache(ring, ridge), use_cache(pages, ridge)};
    return plans[0].ok() && plans[1].ok() ? plans[2] : plans[0];
  }
  heed::plan use_views(const heed::per_head& ridge, const std::vector<std::int32_t>& seen) const {
    const heed::tensor_view<const std::int32_t, 2> table(seen.data(), {q.extent(0), 1}, {1, 1});
    const auto rows = heed::contiguous_cache(k, v, seen);
    const heed::plan plans[] = {use_cache(rows, ridge), use_cache(heed::ring_cache(k, v, seen, 1), ridge),
                                use_cache(heed::paged_cache(k, v, table, table), ridge),
                                use_cache(heed::shared_prefix(rows, rows), ridge)};
    return plans[0].ok() && plans[1].ok() && plans[2].ok() ? plans[3] : plans[0];
  }
  heed::plan use_linear(const heed::linear::options<T>& how, heed::state<T>& memory) const {
    heed::linear::forward(q, k, v, o, how, where);
    heed::linear::decode(q, k, v, memory, o, how, where);
    heed::linear::backward(q, k, v, q, q, {.dq = o, .dinitial_state = memory}, how, where);
    const heed::plan plans[] = {heed::linear::plan_backward(q, k, v, q, q, {.dq = o}, how, where),
                                heed::linear::plan_decode(q, k, v, memory, o, how, where)};
    return plans[0].ok() && plans[1].ok() ? heed::linear::plan_forward(q, k, v, o, how, where) : plans[0];
  }
  heed::plan use_lightning(const heed::lightning::options<T>& how, heed::state<T>& memory) const {
    const heed::decay<T> decay = heed::log_gates(given);
    heed::lightning::forward(q, k, v, decay, o, how, where);
    heed::lightning::decode(q, k, v, decay, memory, o, how, where);
    heed::lightning::backward(q, k, v, decay, q, {.dk = o, .dlog_gates = written}, how, where);
    const heed::plan plans[] = {heed::lightning::plan_backward(q, k, v, decay, q, {.dq = o}, how, where),
                                heed::lightning::plan_decode(q, k, v, decay, memory, o, how, where)};
    return plans[0].ok() && plans[1].ok() ? heed::lightning::plan_forward(q, k, v, decay, o, how, where) : plans[0];
  }
  heed::plan use_local_linear(const heed::local_linear::options<T>& how, const heed::per_head& ridge) const {
    heed::local_linear::forward(q, k, v, ridge, o, how, where);
    heed::local_linear::apply(q, k, v, q, o, how, where);
    heed::local_linear::backward(q, k, v, ridge, o, {.dq = o}, how, where);
    const heed::plan plans[] = {heed::local_linear::plan_apply(q, k, v, q, o, how, where),
                                heed::local_linear::plan_backward(q, k, v, ridge, o, {.dq = o}, how, where)};
    return plans[0].ok() && plans[1].ok() ? heed::local_linear::plan_forward(q, k, v, ridge, o, how, where) : plans[0];
  }
  heed::plan use_mixture_of_head(const heed::mixture_of_head::options<T>& how) const {
    heed::mixture_of_head::route_by_norm(q, {.active = 2}, written);
    heed::mixture_of_head::route_trained(given, given, given, {.active = 2}, written);
    heed::mixture_of_head::forward(q, k, v, given, o, how, where);
    heed::mixture_of_head::backward(q, k, v, given, o, o, {.dgates = written}, how, where);
    const heed::plan backward = heed::mixture_of_head::plan_backward(q, k, v, given, o, o, {}, how, where);
    return backward.ok() ? heed::mixture_of_head::plan_forward(q, k, v, given, o, how, where) : backward;
  }

  static bool use(const every_verb& x) {
    const std::vector<double> slopes = heed::alibi_slopes(x.q.extent(1));
    const std::vector<double> others[] = {heed::transnormer_slopes(8, 1, 4), heed::fla_slopes(8, 1, 4),
                                          heed::retention_slopes(8)};
    const heed::sparse_query::layout layout = heed::sparse_query::choose_heads({.width = 64, .heads = 8});
    const std::vector<std::int32_t> seen(static_cast<std::size_t>(x.q.extent(0)), 4);
    heed::state<T> memory(x.q.extent(0), x.o.extent(1), layout.head_dim, others[0].empty() ? 1 : 8);
    const heed::mask mask = heed::causal() & heed::window(9) & heed::key_lengths(seen);
    const auto score = [](T s, const heed::position& at) { return at.key < at.query ? s : s / 2; };
    const auto map = [](T s) { return s * s; };
    if constexpr (std::is_same_v<T, float>)  // caches of 8-bit integers go with float
      if (!x.template use_caches<std::int8_t>(slopes).ok()) return false;
    return x.use_softmax({.mask = mask, .softcap = 30, .alibi_slopes = slopes, .score = score}).ok() &&
           x.use_linear({.feature = {map, map}}, memory).ok() && x.use_lightning({}, memory).ok() &&
           x.use_local_linear({.mask = mask, .score = score}, slopes).ok() && x.use_mixture_of_head({}).ok() &&
           x.use_views(slopes, seen).ok() && x.template use_caches<T>(slopes).ok();
  }
};

}  // namespace
