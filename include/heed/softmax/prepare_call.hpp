// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A prepared call of softmax::forward.

#include <algorithm>

#include "heed/softmax/forward_call.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

// Whether a tensor has memory, and the extents and strides of another.
template <class Byte>
HEED_INLINE bool same_shape(const heed::detail::stored_tensor<Byte>& a, const heed::detail::stored_tensor<Byte>& b) {
  index_t differences = 0;
  for (int axis = 0; axis < 4; ++axis)
    differences |= (a.extent(axis) ^ b.extent(axis)) | (a.stride(axis) ^ b.stride(axis));
  return differences == 0 && a.data() != nullptr;
}

// Checks that a tensor can take the place of the one that a call was prepared with.
HEED_NOINLINE inline void check_same_shape(heed::detail::checker& check, const heed::detail::named_tensor& x,
                                           const heed::detail::named_tensor& prepared) {
  for (int axis = 0; axis < x.rank; ++axis) {
    check.require(x.extent(axis) == prepared.extent(axis), "% has extent % on axis %, was prepared with %", x.name,
                  x.extent(axis), axis, prepared.extent(axis));
    check.require(x.stride(axis) == prepared.stride(axis), "% has stride % on axis %, was prepared with %", x.name,
                  x.stride(axis), axis, prepared.stride(axis));
  }
  check.require(x.data != nullptr || x.empty(), "% is null but has elements", x.name);
}

// Says how much a call has to do; throws heed::error where it cannot run.
template <class Call> tile::workload measure_prepared(Call& call, const context& context) {
  heed::detail::problem_text problem;
  problem[0] = 0;
  const tile::workload work = tile::measure_call(call, problem, context);
  if (problem[0] != 0) heed::detail::fail(problem.data());
  return work;
}

template <class T> class prepared_forward {
 public:
  HEED_INLINE prepared_forward(const options<T>& opt, const context& context, const pairwise::softmax_rows<T>& x)
      : options_(opt),
        context_(context),
        call_{{options_, x}},
        work_(measure_prepared(call_, context_)),
        memory_(context.workspace, work_) {}
  prepared_forward(const prepared_forward&) = delete;
  prepared_forward& operator=(const prepared_forward&) = delete;

  void operator()() {
    if (reads_arrays()) check_again();
    run();
  }
  void operator()(const pairwise::softmax_rows<T>& x) {
    take(x);
    (*this)();
  }

 private:
  bool reads_arrays() const {
    using kind = heed::detail::mask_parts;
    const pairwise::softmax_problem<T>& p = call_.p;
    return (p.mask.present & (kind::key_lengths | kind::packed | kind::prefix_lm)) != 0 || p.align.has_first ||
           p.scores.slopes.one_each() || p.sink_logits.one_each();
  }

  // Offsets may cut the call anew; it must do with the scratch that it has.
  void check_again() {
    call_.cut = {};
    const tile::workload work = measure_prepared(call_, context_);
    if (work.slot_bytes > work_.slot_bytes)
      heed::detail::fail("packed: a task of these offsets needs % bytes of scratch, the call was prepared with %",
                         work.slot_bytes, work_.slot_bytes);
    if (work.shared_bytes > work_.shared_bytes)
      heed::detail::fail("packed: these offsets need % bytes of scratch for all tasks, the call was prepared with %",
                         work.shared_bytes, work_.shared_bytes);
    work_.tasks = work.tasks;
  }

  void take(const pairwise::softmax_rows<T>& x) {
    pairwise::softmax_problem<T>& p = call_.p;
    const bool fits = same_shape(x.q, p.q) && same_shape(x.k, p.k) && same_shape(x.v, p.v) && same_shape(x.o, p.o) &&
                      x.q_format == p.q_format && x.kv_format == p.kv_format && x.o_format == p.o_format;
    const void *const to = x.o.data(), *const lse = p.lse.data();
    bool apart = to != lse && to != p.scores.bias.data() && to != p.scores.slopes.data() && to != p.sink_logits.data();
    for (const std::byte* const from : {x.q.data(), x.k.data(), x.v.data()}) apart = apart && to != from && lse != from;
    if (!fits || !apart) [[unlikely]]
      check_memory(x);
    p.q = x.q, p.k = x.k, p.v = x.v, p.o = x.o;
  }

  // Says what is wrong with other memory, if anything is: tensors without elements may share a pointer.
  HEED_NOINLINE void check_memory(const pairwise::softmax_rows<T>& x) const {
    const pairwise::softmax_problem<T>& p = call_.p;
    const heed::detail::named_tensor q("q", x.q), k("k", x.k), v("v", x.v), o("o", x.o);
    heed::detail::problem_text problem;
    problem[0] = 0;
    heed::detail::checker check(problem);
    const heed::detail::named_tensor lse("lse", p.lse), bias("bias", p.scores.bias);
    const heed::detail::named_tensor slopes("alibi_slopes", p.scores.slopes), sinks("sink_logits", p.sink_logits);
    check_same_shape(check, q, {"q", p.q}), check_same_shape(check, k, {"k", p.k});
    check_same_shape(check, v, {"v", p.v}), check_same_shape(check, o, {"o", p.o});
    check_same_format(check, "q", *x.q_format, *p.q_format), check_same_format(check, "k", *x.kv_format, *p.kv_format);
    check_same_format(check, "o", *x.o_format, *p.o_format);
    check.distinct({&o, &lse}, {&q, &k, &v});
    check.distinct({&o}, {&lse, &bias, &slopes, &sinks});
    if (!check.ok()) heed::detail::fail(problem.data());
  }

  static void check_same_format(heed::detail::checker& check, const char* name, const tile::row_format<T>& format,
                                const tile::row_format<T>& prepared) {
    check.require(&format == &prepared, "% holds %, was prepared with %", name, format.name, prepared.name);
  }

  void run() {
    tile::workload work = work_;
    work.slots = std::min(work.slots, context_.executor.concurrency());
    call_.run(work, memory_, context_.executor);
  }

  options<T> options_;
  context context_;
  forward_call<T> call_;
  tile::workload work_;
  tile::call_memory memory_;
};

template <class Q, class K, class V, class O>
HEED_INLINE pairwise::softmax_rows<acc_of<Q>> prepared_rows(const Q& q, const K& k, const V& v, O& o) {
  return pairwise::rows_of_softmax(q, k, v, o);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
