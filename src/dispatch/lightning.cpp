// SPDX-License-Identifier: BSD-3-Clause

#include "heed/lightning/backward_call.hpp"
#include "heed/lightning/decode_call.hpp"
#include "heed/lightning/forward_call.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

HEED_REQUEST(lightning_forward) {
  answer_call(recurrent::chunk_call<T, lightning::detail::kernel>{lightning::detail::make_problem(
                  x.decay, x.options, call_rows<T>(x.rows))},
              where, out, problem);
}
HEED_REQUEST(lightning_backward) {
  const recurrent::output_gradient<T> dout{input<T>(x.rows.o), format<T>(x.rows.o)};
  recurrent::backward_problem<T> p(lightning::detail::make_problem(x.decay, x.options, call_rows<T>(x.rows)), dout,
                                   x.wanted);
  p.dslopes = heed::detail::with_canonical_strides(x.wanted.dslopes);
  p.dlog_gates = heed::detail::with_canonical_strides(x.wanted.dlog_gates);
  answer_call(recurrent::backward_call<T, lightning::detail::backward_kernel>{p, x.options.final_state}, where, out,
              problem);
}
HEED_REQUEST(lightning_decode) {
  answer_call(lightning::detail::decode_call(x.memory, x.decay, x.options, call_rows<T>(x.rows)), where, out, problem);
}

HEED_ANSWER(lightning_forward)
HEED_ANSWER(lightning_backward)
HEED_ANSWER(lightning_decode)

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
