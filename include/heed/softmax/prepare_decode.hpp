// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <type_traits>

#include "heed/softmax/decode_call.hpp"
#include "heed/softmax/prepare_call.hpp"

namespace heed::softmax {
inline namespace HEED_ISA {

// A call of decode that has been checked and given its scratch, for the steps of a loop. It keeps copies of the cache's
// view and of the options; what these view (tensors, arrays of lengths, block tables, lse, bias, ...) and the context's
// executor and workspace must live as long as it. Lengths and block tables may change between runs, up to the cache's
// capacity: each run reads and checks them anew, and allocates nothing.
template <class T, class View> class prepared_decode {
 public:
  template <class Q, class O>
  prepared_decode(const Q& q, const View& cache, O& o, const options<T>& opt, const context& context)
      : options_(opt),
        view_(cache),
        shapes_(view_, tensor_view<const heed::detail::value_t<Q>, 4>(q).extent(0)),
        context_(context),
        call_(detail::call_of_decode(pairwise::query_rows_of(q, o), view_, options_, shapes_)),
        work_(measure()),
        memory_(context.workspace, work_) {}
  prepared_decode(const prepared_decode&) = delete;
  prepared_decode& operator=(const prepared_decode&) = delete;

  // Runs on the memory of the run before.
  void operator()() {
    check_again();
    tile::workload work = work_;
    work.slots = std::min(work.slots, context_.executor.concurrency());
    call_.run(work, memory_, context_.executor);
  }
  // Runs on q and o with the extents, strides and types of those that the call was prepared with.
  template <viewable Q, viewable O> void operator()(const Q& q, O&& o) {
    static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
    static_assert(std::is_same_v<acc_of<Q>, T> && std::is_same_v<acc_of<O>, T>,
                  "heed: the call was prepared for another element type");
    take(pairwise::query_rows_of(q, o));
    (*this)();
  }

 private:
  tile::workload measure() {
    heed::detail::problem_text problem;
    problem[0] = 0;
    const tile::workload work = tile::measure_call(call_, problem, context_);
    if (problem[0] != 0) heed::detail::fail(problem.data());
    return work;
  }

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
    if (!detail::same_shape(x.q, p.q)) detail::check_same_shape(check, q, {"q", p.q});
    if (!detail::same_shape(x.o, p.o)) detail::check_same_shape(check, o, {"o", p.o});
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
  detail::decode_call<T> call_;
  tile::workload work_;
  tile::call_memory memory_;
};

// Checks a call of decode once, so that it can run at every step of a loop while the cache grows. Throws heed::error
// where decode would. Scratch for the cache's capacity is taken here: runs allocate nothing.
template <viewable Q, class Cache, viewable O>
  requires heed::detail::cache_argument<Cache>
[[nodiscard]] auto prepare_decode(const Q& q, const Cache& cache, O&& o, const options<acc_of<Q>>& opt = {},
                                  const context& context = {})
    -> prepared_decode<acc_of<Q>, heed::detail::cache_view_t<Cache>> {
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  static_assert(heed::detail::decode_tensors<Q, Cache, O>());
  static_assert(std::is_same_v<heed::detail::cache_view_t<Cache>, kv_cache_view<heed::detail::cache_element_t<Cache>>>,
                "heed: prepare_decode takes one cache, without a shared prefix");
  return prepared_decode<acc_of<Q>, heed::detail::cache_view_t<Cache>>(q, heed::detail::view_of_cache(cache), o, opt,
                                                                       context);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
