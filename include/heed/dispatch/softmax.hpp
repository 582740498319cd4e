// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of softmax, into the compiled library.

#include "heed/dispatch/call.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class Q, class K, class V, class O>
HEED_INLINE auto forward_of(const Q& q, const K& k, const V& v, const O& o, const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::softmax_forward<T>>{&dispatch::verbs<T>::softmax_forward,
                                                         {dispatch::rows_of(q, k, v, o), opt}};
}

template <class Q, class K, class V, class O, class D>
HEED_INLINE auto backward_of(const Q& q, const K& k, const V& v, const O& o, const D& dout,
                             const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::softmax_backward<T>>{
      &dispatch::verbs<T>::softmax_backward, {dispatch::rows_of(q, k, v, o), dispatch::any(dout), wanted, opt}};
}

template <class T>
HEED_INLINE void merge(const tensor_view<T, 4>& o, const tensor_view<T, 3>& lse, const tensor_view<const T, 4>& part,
                       const tensor_view<const T, 3>& part_lse, double log_weight) {
  tile::run_call(dispatch::call<T, dispatch::softmax_merge<T>>{&dispatch::verbs<T>::softmax_merge,
                                                               {o, lse, part, part_lse, log_weight}},
                 {});
}

// f(call), which lives as long as that
template <class Q, class Cache, class O, class F>
HEED_INLINE auto with_decode(const Q& q, const Cache& cache, const O& o, const options<acc_of<Q>>& opt, F f) {
  using T = acc_of<Q>;
  const auto& view = heed::detail::view_of_cache(cache);
  return f(dispatch::call<T, dispatch::softmax_decode<T>>{
      &dispatch::verbs<T>::softmax_decode, {dispatch::rows_of_cache(dispatch::query_rows_of(q, o), view), opt}});
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
