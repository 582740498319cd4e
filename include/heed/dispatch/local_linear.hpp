// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of local linear, into the compiled library.

#include "heed/dispatch/call.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class Q, class K, class V, class O>
HEED_INLINE auto forward_of(const Q& q, const K& k, const V& v, const per_head& ridge, const O& o,
                            const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::local_linear_forward<T>>{&dispatch::verbs<T>::local_linear_forward,
                                                              {dispatch::rows_of(q, k, v, o), ridge, opt}};
}

template <class Q, class K, class V, class Y, class O>
HEED_INLINE auto apply_of(const Q& q, const K& k, const V& v, const Y& slope, const O& o,
                          const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::local_linear_apply<T>>{&dispatch::verbs<T>::local_linear_apply,
                                                            {dispatch::rows_of(q, k, v, o), slope, opt}};
}

template <class Q, class K, class V, class D>
HEED_INLINE auto backward_of(const Q& q, const K& k, const V& v, const per_head& ridge, const D& dout,
                             const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::local_linear_backward<T>>{&dispatch::verbs<T>::local_linear_backward,
                                                               {dispatch::rows_of(q, k, v, dout), ridge, wanted, opt}};
}

// f(call), which lives as long as that
template <class Q, class Cache, class O, class F>
HEED_INLINE auto with_decode(const Q& q, const Cache& cache, const per_head& ridge, const O& o,
                             const options<acc_of<Q>>& opt, F f) {
  using T = acc_of<Q>;
  const auto& view = heed::detail::view_of_cache(cache);
  return f(dispatch::call<T, dispatch::local_linear_decode<T>>{
      &dispatch::verbs<T>::local_linear_decode,
      {dispatch::rows_of_cache(dispatch::query_rows_of(q, o), view), ridge, opt}});
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
