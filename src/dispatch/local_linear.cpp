// SPDX-License-Identifier: BSD-3-Clause

#include "heed/local_linear/backward_call.hpp"
#include "heed/local_linear/decode_call.hpp"
#include "heed/local_linear/forward_call.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

HEED_REQUEST(local_linear_forward) {
  answer_call(local_linear::detail::forward_call<T>(x.options, call_rows<T>(x.rows), x.ridge), where, out, problem);
}
HEED_REQUEST(local_linear_apply) {
  answer_call(local_linear::detail::apply_call<T>(x.options, call_rows<T>(x.rows), x.slope), where, out, problem);
}
HEED_REQUEST(local_linear_backward) {
  const index_t query_heads = x.rows.q.extents[1];
  const index_t heads = query_heads == 0 ? 0 : std::max(query_heads, x.rows.k.extents[1]);
  rows all = x.rows;  // o is not read, and need not be there
  all.one_axis &= 7u;
  all.o =
      tensor(local_linear::detail::shape_of_output<T>({all.q.extents[0], heads, all.q.extents[2], all.v.extents[3]}));
  local_linear::detail::backward_call<T> call{{x.options, x.wanted, gradient_rows<T>(all, x.rows.o)}};
  call.p.ridge = x.ridge;
  answer_call(call, where, out, problem);
}
HEED_REQUEST(local_linear_decode) {
  visit_cache<T>(x.rows, [&](const auto& ends, const auto& cache) {
    local_linear::detail::with_decode(ends, cache, x.ridge, x.options,
                                      [&](auto&& call) { answer_call(call, where, out, problem); });
  });
}

HEED_ANSWER(local_linear_decode)
HEED_ANSWER(local_linear_forward)
HEED_ANSWER(local_linear_apply)
HEED_ANSWER(local_linear_backward)

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
