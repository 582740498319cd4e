// SPDX-License-Identifier: BSD-3-Clause

#include "heed/mixture_of_head/backward_call.hpp"
#include "heed/mixture_of_head/decode_call.hpp"
#include "heed/mixture_of_head/forward_call.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

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
