// SPDX-License-Identifier: BSD-3-Clause

// linear and lightning: most of what there is to compile is in both.

#include "heed/lightning/backward_call.hpp"
#include "heed/lightning/decode_call.hpp"
#include "heed/lightning/forward_call.hpp"
#include "heed/linear/backward_call.hpp"
#include "heed/linear/decode_call.hpp"
#include "heed/linear/forward_call.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

HEED_REQUEST(linear_forward) {
  answer_call(
      recurrent::chunk_call<T, linear::detail::kernel>{linear::detail::make_problem(x.options, call_rows<T>(x.rows))},
      where, out, problem);
}
HEED_REQUEST(linear_backward) {
  const recurrent::output_gradient<T> dout{input<T>(x.dout), format<T>(x.dout)};
  answer_call(
      recurrent::backward_call<T, linear::detail::backward_kernel>{
          recurrent::backward_problem<T>(linear::detail::make_problem(x.options, call_rows<T>(x.rows)), dout, x.wanted),
          x.options.final_state},
      where, out, problem);
}
HEED_REQUEST(linear_decode) {
  answer_call(linear::detail::decode_call(x.memory, x.options, call_rows<T>(x.rows)), where, out, problem);
}

HEED_ANSWER(linear_forward)
HEED_ANSWER(linear_backward)
HEED_ANSWER(linear_decode)

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
