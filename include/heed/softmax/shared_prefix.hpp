// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// decode with a prefix that all sequences share, read once for all of them:
//
//   (o1, lse1)  all queries of all sequences against the prefix, as one sequence
//   (o2, lse2)  the queries of each sequence against its own tokens
//   o, lse      the two joined, row by row
//
// Where some query does not see all of the prefix, or scores depend on where a key is, keys of the prefix are read by
// each sequence instead: pairwise/decode.hpp does that. Cascade inference: FlashInfer (arXiv 2501.01005).

#include <algorithm>

#include "heed/core/factories.hpp"
#include "heed/pairwise/decode.hpp"
#include "heed/softmax/options.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

// Rows (batch, head, query) of numbers of T, one behind the other in whole vectors
template <class T> struct row_block {
  T* first = nullptr;
  index_t heads = 0, queries = 0, stride = 0, columns = 0;

  T* row(index_t batch, index_t head, index_t i) const {
    return first + ((batch * heads + head) * queries + i) * stride;
  }
  tensor_view<T, 4> view(index_t batch) const {
    return {first, {batch, heads, queries, columns}, {heads * queries * stride, queries * stride, stride, 1}};
  }
};

template <class T> struct shared_prefix_call {
  using softmax_call = pairwise::decode_call<T, pairwise::softmax_problem<T>, pairwise::every_row>;

  softmax_call plain;  // as the caller asked
  options<T> prefix_options, own_options;
  pairwise::cache_shapes prefix_cache, own_cache;
  softmax_call prefix, own;  // o and lse in scratch
  bool shared = false;
  tile::workload prefix_work = {}, own_work = {};

  template <class C>
  shared_prefix_call(const pairwise::query_rows<T>& x, const prefixed_cache_view<C>& cache, const options<T>& opt,
                     const pairwise::cache_shapes& shapes)
      : plain{{opt, pairwise::softmax_rows_of_cache(x, cache, shapes)}, shapes},
        prefix_options(opt),
        own_options(opt),
        prefix_cache(cache.prefix, 1),
        own_cache(cache.own, plain.p.q.extent(0)),
        prefix{{prefix_options, rows_of_prefix(cache.prefix)}, prefix_cache},
        own{{own_options, rows_of_own(x, cache.own)}, own_cache} {
    prefix_options.mask = {}, own_options.sink_logits = {};
    pairwise::set_cache(plain.p, cache, shapes), pairwise::set_cache(prefix.p, cache.prefix, prefix_cache);
    pairwise::set_cache(own.p, cache.own, own_cache);
    own.p.sink_logits = own_options.sink_logits;
  }
  shared_prefix_call(const shared_prefix_call&) = delete;
  shared_prefix_call& operator=(const shared_prefix_call&) = delete;

  void check(heed::detail::checker& check) const { plain.check(check); }

  tile::workload measure(index_t workers) {
    tile::workload work = plain.measure(workers);
    shared = false;
    if (!options_allow()) return work;
    prefix_work = prefix.measure(workers), own_work = own.measure(workers);
    heed::detail::arena rows;
    static_cast<void>(scratch(*this, rows));
    shared = lengths_allow();  // other lengths may decide otherwise: there is memory for both
    if (shared) work.tasks = prefix_work.tasks + own_work.tasks;
    work.most_tasks = std::max({work.most_tasks, prefix_work.most_tasks, own_work.most_tasks});
    work.shared_bytes =
        std::max(work.shared_bytes, std::max(prefix_work.shared_bytes, own_work.shared_bytes) + rows.used());
    work.slot_bytes = std::max({work.slot_bytes, prefix_work.slot_bytes, own_work.slot_bytes});
    return work;
  }

  void describe(plan& out) const {
    if (!shared) return plain.describe(out);
    prefix.describe(out);
    out.path = prefix.cut.many ? "softmax: decode, shared prefix with queries in lanes"
                               : "softmax: decode, shared prefix with head dim in lanes";
    out.splits = std::max(prefix.splits, own.splits);
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) {
    if (!shared) return plain.run(work, memory, executor);
    const std::size_t before = std::max(prefix_work.shared_bytes, own_work.shared_bytes);
    heed::detail::arena bytes({memory.shared() + before, work.shared_bytes - before}, work.shared_bytes - before);
    const scratch rows(*this, bytes);
    rows.place(*this);
    prefix_work.slots = own_work.slots = work.slots;
    prefix.run(prefix_work, memory, executor);
    own.run(own_work, memory, executor);
    rows.join(*this);
  }

 private:
  // Tensors without memory yet: run() has it.
  template <class C> pairwise::softmax_rows<T> rows_of_prefix(const kv_cache_view<C>& cache) const {
    const auto& p = plain.p;
    const index_t queries = heed::detail::product(p.q.extent(0), p.q.extent(2));  // of extents not checked yet
    const tensor_view<const T, 4> q(nullptr, {1, p.query_heads, queries, p.d}, {0, 0, 0, 1});
    const tensor_view<T, 4> o(nullptr, {1, p.heads, queries, p.e}, {0, 0, 0, 1});
    return pairwise::softmax_rows_of_cache(pairwise::query_rows_of(q, o), cache, prefix_cache);
  }
  template <class C>
  pairwise::softmax_rows<T> rows_of_own(pairwise::query_rows<T> x, const kv_cache_view<C>& cache) const {
    const auto& p = plain.p;
    x.o = heed::detail::output_tensor(
        tensor_view<T, 4>(nullptr, {p.q.extent(0), p.heads, p.q.extent(2), p.e}, {0, 0, 0, 1}));
    x.o_format = &tile::row_format_of<T, T>;
    return pairwise::softmax_rows_of_cache(x, cache, own_cache);
  }

  // Whether no option keeps a query from any of the prefix, and no score depends on places
  bool options_allow() const {
    const auto& p = plain.p;
    const bool by_place = p.scores.slopes.set() || p.scores.has_bias() || p.scores.has_function();
    return p.q.extent(0) > 1 && !by_place && !p.align.has_first &&
           (p.mask.present & ~static_cast<unsigned>(p.mask.causal)) == 0;
  }
  // Whether there is a prefix, and all queries are behind it
  bool lengths_allow() const {
    const auto& p = plain.p;
    bool all = p.prefix.length > 0;
    plain.cache.own.each(*plain.cache.own.lengths, [&](index_t, index_t, index_t n) {
      all = all && (!p.mask.has(p.mask.causal) || n >= p.q.extent(2) - 1);
    });
    return all;
  }

  struct scratch {
    scratch(const shared_prefix_call& call, heed::detail::arena& memory) {
      const auto& p = call.plain.p;
      const index_t b = p.q.extent(0), n = p.q.extent(2);
      q = take(1, p.query_heads, b * n, p.d, memory), o1 = take(1, p.heads, b * n, p.e, memory);
      o2 = take(b, p.heads, n, p.e, memory);
      lse1 = memory.take<T>(b * p.heads * n), lse2 = memory.take<T>(b * p.heads * n);
    }
    static row_block<T> take(index_t batch, index_t heads, index_t queries, index_t columns,
                             heed::detail::arena& memory) {
      const index_t stride = tile::whole_vectors<T>(columns);
      return {memory.take<T>(batch * heads * queries * stride), heads, queries, stride, columns};
    }

    // Copies the queries, those of all sequences one behind the other, and points the two calls to the scratch.
    void place(shared_prefix_call& call) const {
      const auto& p = call.plain.p;
      const index_t b = p.q.extent(0), n = p.q.extent(2);
      for (index_t s = 0; s < b; ++s)
        for (index_t h = 0; h < p.query_heads; ++h)
          for (index_t i = 0; i < n; ++i)
            p.q_format->read(p.q.row(s, h, i), 0, 1, p.d, q.row(0, h, s * n + i), q.stride);
      call.prefix.p.q = heed::detail::input_tensor(tensor_view<const T, 4>(q.view(1)));
      call.prefix.p.o = heed::detail::output_tensor(o1.view(1)), call.own.p.o = heed::detail::output_tensor(o2.view(b));
      call.prefix.p.lse = {lse1, {1, p.heads, b * n}, {0, b * n, 1}};
      call.own.p.lse = {lse2, {b, p.heads, n}, {p.heads * n, n, 1}};
    }

    static tile::row_state<T> state_of(T lse) {
      if (heed::detail::equals(lse, -std::numeric_limits<T>::infinity())) return {};
      return {lse * static_cast<T>(std::numbers::log2e), T(1)};
    }
    void join(const shared_prefix_call& call) const {
      const simd::flush_to_zero numbers;
      const auto& p = call.plain.p;
      const index_t n = p.q.extent(2);
      for (index_t s = 0; s < p.q.extent(0); ++s)
        for (index_t h = 0; h < p.heads; ++h)
          for (index_t i = 0; i < n; ++i) {
            tile::row_state<T> all = state_of(lse1[(h * p.q.extent(0) + s) * n + i]);
            const tile::row_state<T> x = state_of(lse2[(s * p.heads + h) * n + i]);
            T* const acc = o1.row(0, h, s * n + i);
            const T* const add = o2.row(s, h, i);
            const auto [f, g] = all.merge(x, [](T d) { return std::exp2(d); });
            for (index_t c = 0; c < p.e; ++c) acc[c] = f * acc[c] + g * add[c];
            pairwise::finish_row<T>(p, p.sequence_at(s), {h, i}, all, T(1), acc);
          }
    }

    row_block<T> q, o1, o2;
    T *lse1, *lse2;
  };
};

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
