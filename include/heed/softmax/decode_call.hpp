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
template <class T, class C>
shared_prefix_call<T> call_of_decode(const pairwise::query_rows<T>& x, const prefixed_cache_view<C>& cache,
                                     const options<T>& opt, const pairwise::cache_shapes& shapes) {
  return {x, cache, opt, shapes};
}
template <class T, class C>
decode_call<T> call_of_decode(const pairwise::query_rows<T>& x, const kv_cache_view<C>& cache, const options<T>& opt,
                              const pairwise::cache_shapes& shapes) {
  decode_call<T> call{{opt, pairwise::softmax_rows_of_cache(x, cache, shapes)}, shapes};
  pairwise::set_cache(call.p, cache, shapes);
  return call;
}

// f(call), which lives as long as that
template <class T, class View, class F>
auto with_decode(const pairwise::query_rows<T>& x, const View& cache, const options<T>& opt, F f) {
  const pairwise::cache_shapes shapes(cache, x.q.extent(0));
  return f(call_of_decode(x, cache, opt, shapes));
}
template <class Q, class Cache, class O, class F>
HEED_INLINE auto with_decode(const Q& q, const Cache& cache, O& o, const options<acc_of<Q>>& opt, F f) {
  return with_decode(pairwise::query_rows_of(q, o), heed::detail::view_of_cache(cache), opt, f);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
