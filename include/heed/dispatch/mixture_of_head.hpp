// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of mixture of head, into the compiled library.

#include "heed/dispatch/call.hpp"

namespace heed::mixture_of_head::detail {
inline namespace HEED_ISA {

template <class Q, class K, class V, class G, class O>
HEED_INLINE auto forward_of(const Q& q, const K& k, const V& v, const G& gates, const O& o,
                            const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::mixture_forward<T>>{&dispatch::verbs<T>::mixture_forward,
                                                         {dispatch::rows_of(q, k, v, o), gates, opt}};
}

template <class Q, class K, class V, class G, class O, class D>
HEED_INLINE auto backward_of(const Q& q, const K& k, const V& v, const G& gates, const O& o, const D& dout,
                             const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::mixture_backward<T>>{
      &dispatch::verbs<T>::mixture_backward, {dispatch::rows_of(q, k, v, o), gates, dispatch::any(dout), wanted, opt}};
}

// f(call), which lives as long as that
template <class Q, class Cache, class G, class O, class F>
HEED_INLINE auto with_decode(const Q& q, const Cache& cache, const G& gates, const O& o, const options<acc_of<Q>>& opt,
                             F f) {
  using T = acc_of<Q>;
  const auto& view = heed::detail::view_of_cache(cache);
  return f(dispatch::call<T, dispatch::mixture_decode<T>>{
      &dispatch::verbs<T>::mixture_decode, {dispatch::rows_of_cache(dispatch::query_rows_of(q, o), view), gates, opt}});
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head::detail
