// SPDX-License-Identifier: BSD-3-Clause

#include "heed/softmax/backward_call.hpp"
#include "heed/softmax/decode_call.hpp"
#include "heed/softmax/forward_call.hpp"
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

HEED_ANSWER(softmax_decode)
HEED_ANSWER(softmax_forward)
HEED_ANSWER(softmax_backward)

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
