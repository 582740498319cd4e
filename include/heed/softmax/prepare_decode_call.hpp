// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A prepared call of softmax::decode.

#include <algorithm>

#include "heed/softmax/decode_call.hpp"
#include "heed/softmax/prepare_call.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T, class View> class prepared_cache_call {
 public:
  prepared_cache_call(const options<T>& opt, const context& context, const View& cache,
                      const pairwise::query_rows<T>& x)
      : options_(opt),
        view_(cache),
        shapes_(view_, x.q.extent(0)),
        context_(context),
        call_(call_of_decode(x, view_, options_, shapes_)),
        work_(measure_prepared(call_, context_)),
        memory_(context.workspace, work_) {}
  prepared_cache_call(const prepared_cache_call&) = delete;
  prepared_cache_call& operator=(const prepared_cache_call&) = delete;

  void operator()() {
    check_again();
    tile::workload work = work_;
    work.slots = std::min(work.slots, context_.executor.concurrency());
    call_.run(work, memory_, context_.executor);
  }
  void operator()(const pairwise::query_rows<T>& x) {
    take(x);
    (*this)();
  }

 private:
  // Lengths and tables have changed, and with them how keys are split and which options fit.
  void check_again() {
    call_.p.k = call_.p.k.with_extents(with_tokens(call_.p.k.extents()));
    call_.p.v = call_.p.v.with_extents(with_tokens(call_.p.v.extents()));
    heed::detail::problem_text problem;
    problem[0] = 0;
    heed::detail::checker check(problem);
    using kind = heed::detail::mask_parts;
    const bool by_key = (call_.p.mask.present & (kind::keep | kind::segments)) != 0 || call_.p.scores.has_bias();
    by_key || reads_numbers() ? call_.check(check) : pairwise::check_cache(check, shapes_);
    if (!check.ok()) heed::detail::fail(problem.data());
    call_.cut = {}, call_.sizes = {}, call_.splits = 1;
    work_.tasks = call_.measure(work_.slots).tasks;
  }
  std::array<index_t, 4> with_tokens(std::array<index_t, 4> extents) const {
    extents[2] = shapes_.longest();
    return extents;
  }
  bool reads_numbers() const {
    return call_.p.mask.has(heed::detail::mask_parts::prefix_lm) || call_.p.align.has_first ||
           call_.p.scores.slopes.one_each() || call_.p.sink_logits.one_each();
  }

  void take(const pairwise::query_rows<T>& x) {
    auto& p = call_.p;
    heed::detail::problem_text problem;
    problem[0] = 0;
    heed::detail::checker check(problem);
    const heed::detail::named_tensor q("q", x.q), o("o", x.o);
    if (!same_shape(x.q, p.q)) check_same_shape(check, q, {"q", p.q});
    if (!same_shape(x.o, p.o)) check_same_shape(check, o, {"o", p.o});
    check.require(x.q_format == p.q_format, "q holds %, was prepared with %", x.q_format->name, p.q_format->name);
    check.require(x.o_format == p.o_format, "o holds %, was prepared with %", x.o_format->name, p.o_format->name);
    const heed::detail::named_tensor lse("lse", p.lse), bias("bias", p.scores.bias);
    const heed::detail::named_tensor slopes("alibi_slopes", p.scores.slopes), sinks("sink_logits", p.sink_logits);
    pairwise::check_apart(check, {&o, &lse}, shapes_.own);
    check.distinct({&o, &lse}, {&q}), check.distinct({&o}, {&lse, &bias, &slopes, &sinks});
    if (!check.ok()) heed::detail::fail(problem.data());
    p.q = x.q, p.o = x.o;
  }

  options<T> options_;
  View view_;
  pairwise::cache_shapes shapes_;
  context context_;
  decode_call<T> call_;
  tile::workload work_;
  tile::call_memory memory_;
};

template <class Q, class O> HEED_INLINE pairwise::query_rows<acc_of<Q>> prepared_queries(const Q& q, O& o) {
  return pairwise::query_rows_of(q, o);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
