// SPDX-License-Identifier: BSD-3-Clause

// softmax and mixture_of_head: most of what there is to compile is in both.

#include "heed/mixture_of_head/backward_call.hpp"
#include "heed/mixture_of_head/decode_call.hpp"
#include "heed/mixture_of_head/forward_call.hpp"
#include "heed/softmax/backward_call.hpp"
#include "heed/softmax/decode_call.hpp"
#include "heed/softmax/forward_call.hpp"
#include "heed/softmax/merge_call.hpp"
#include "heed/softmax/prepare_call.hpp"
#include "heed/softmax/prepare_decode_call.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

HEED_REQUEST(softmax_forward) {
  answer_call(softmax::detail::forward_call<T>{{x.options, softmax_rows<T>(x.rows)}}, where, out, problem);
}
HEED_REQUEST(softmax_backward) {
  answer_call(softmax::detail::backward_call<T>{{softmax::detail::backward_problem<T>(
                  x.options, gradient_rows<T>(x.rows, x.dout), x.wanted)}},
              where, out, problem);
}
HEED_REQUEST(softmax_decode) {
  visit_cache<T>(x.rows, [&](const auto& ends, const auto& cache) {
    softmax::detail::with_decode(ends, cache, x.options, [&](auto&& call) { answer_call(call, where, out, problem); });
  });
}

HEED_REQUEST(softmax_merge) {
  static_cast<void>(where), static_cast<void>(out);
  guarded(problem, [&] { softmax::detail::merge<T>(x.o, x.lse, x.part, x.part_lse, x.log_weight); });
}

namespace {

template <class T> struct kept_forward final : kept_call<rows> {
  softmax::detail::prepared_forward<T> call;

  kept_forward(const softmax_forward<T>& x, const context& where) : call(x.options, where, softmax_rows<T>(x.rows)) {}
  void run(const rows* on) override { on == nullptr ? call() : call(softmax_rows<T>(*on)); }
};

template <class T, class View> struct kept_decode final : kept_call<query_rows> {
  softmax::detail::prepared_cache_call<T, View> call;

  kept_decode(const softmax_decode<T>& x, const View& cache, const context& where)
      : call(x.options, where, cache, ends<T>(x.rows)) {}
  void run(const query_rows* on) override { on == nullptr ? call() : call(ends<T>(*on)); }
};

}  // namespace

template <class T> void* make_prepared(const softmax_forward<T>& x, const context& where, failure& problem) {
  kept_call<rows>* made = nullptr;
  guarded(problem, [&] { made = new kept_forward<T>(x, where); });
  return made;
}
template <class T> void* make_prepared(const softmax_decode<T>& x, const context& where, failure& problem) {
  kept_call<query_rows>* made = nullptr;
  guarded(problem, [&] {
    visit_cache<T>(x.rows, [&]<class View>(const auto&, const View& cache) {
      using one_cache = kv_cache_view<heed::detail::cache_element_t<View>>;
      if constexpr (std::is_same_v<View, one_cache>) made = new kept_decode<T, View>(x, cache, where);
    });
  });
  return made;
}
template void* make_prepared(const softmax_forward<float>&, const context&, failure&);
template void* make_prepared(const softmax_forward<double>&, const context&, failure&);
template void* make_prepared(const softmax_decode<float>&, const context&, failure&);
template void* make_prepared(const softmax_decode<double>&, const context&, failure&);

HEED_ANSWER(softmax_decode)
HEED_ANSWER(softmax_merge)
HEED_ANSWER(softmax_forward)
HEED_ANSWER(softmax_backward)

HEED_REQUEST(mixture_forward) {
  answer_call(mixture_of_head::detail::forward_call<T>{{x.gates, x.options, softmax_rows<T>(x.rows)}}, where, out,
              problem);
}
HEED_REQUEST(mixture_backward) {
  answer_call(mixture_of_head::detail::backward_call<T>(x.options, gradient_rows<T>(x.rows, x.dout), x.gates, x.wanted),
              where, out, problem);
}
HEED_REQUEST(mixture_decode) {
  visit_cache<T>(x.rows, [&](const auto& ends, const auto& cache) {
    mixture_of_head::detail::with_decode(ends, cache, x.gates, x.options,
                                         [&](auto&& call) { answer_call(call, where, out, problem); });
  });
}

HEED_ANSWER(mixture_decode)
HEED_ANSWER(mixture_forward)
HEED_ANSWER(mixture_backward)

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
