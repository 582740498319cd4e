// SPDX-License-Identifier: BSD-3-Clause

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

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
