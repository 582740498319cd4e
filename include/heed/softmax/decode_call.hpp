// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of softmax::decode.

#include "heed/pairwise/decode.hpp"
#include "heed/softmax/options.hpp"
#include "heed/softmax/shared_prefix.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> using decode_call = pairwise::decode_call<T, pairwise::softmax_problem<T>, pairwise::every_row>;

// With a shared prefix: both ways to read it
template <class Q, class C, class O>
shared_prefix_call<acc_of<Q>> call_of_decode(const Q& q, const prefixed_cache_view<C>& cache, O& o,
                                             const options<acc_of<Q>>& opt, const pairwise::cache_shapes& shapes) {
  return {q, cache, o, opt, shapes};
}
template <class Q, class View, class O>
decode_call<acc_of<Q>> call_of_decode(const Q& q, const View& cache, O& o, const options<acc_of<Q>>& opt,
                                      const pairwise::cache_shapes& shapes) {
  using T = acc_of<Q>;
  decode_call<T> call{{opt, pairwise::softmax_rows_of_cache(q, cache, o, shapes)}, shapes};
  pairwise::set_cache(call.p, cache, shapes);
  return call;
}

// f(call), which lives as long as that
template <class Q, class Cache, class O, class F>
auto with_decode(const Q& q, const Cache& cache, O& o, const options<acc_of<Q>>& opt, F f) {
  const auto& view = heed::detail::view_of_cache(cache);
  const pairwise::cache_shapes shapes(view, tensor_view<const heed::detail::value_t<Q>, 4>(q).extent(0));
  return f(call_of_decode(q, view, o, opt, shapes));
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
