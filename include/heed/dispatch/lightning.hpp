// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of lightning, into the compiled library.

#include "heed/dispatch/call.hpp"

namespace heed::lightning::detail {
inline namespace HEED_ISA {

template <class Q, class K, class V, class O>
HEED_INLINE auto forward_of(const Q& q, const K& k, const V& v, const heed::decay<acc_of<Q>>& decay, const O& o,
                            const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::lightning_forward<T>>{&dispatch::verbs<T>::lightning_forward,
                                                           {dispatch::rows_of(q, k, v, o), decay, opt}};
}

template <class Q, class K, class V, class O>
HEED_INLINE auto decode_of(const Q& q, const K& k, const V& v, const heed::decay<acc_of<Q>>& decay,
                           const state_view<acc_of<Q>>& memory, const O& o, const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::lightning_decode<T>>{&dispatch::verbs<T>::lightning_decode,
                                                          {dispatch::rows_of(q, k, v, o), decay, memory, opt}};
}

template <class Q, class K, class V, class D>
HEED_INLINE auto backward_of(const Q& q, const K& k, const V& v, const heed::decay<acc_of<Q>>& decay, const D& dout,
                             const gradients<acc_of<Q>>& wanted, const options<acc_of<Q>>& opt) {
  using T = acc_of<Q>;
  return dispatch::call<T, dispatch::lightning_backward<T>>{&dispatch::verbs<T>::lightning_backward,
                                                            {dispatch::rows_of(q, k, v, dout), decay, wanted, opt}};
}

}  // namespace HEED_ISA
}  // namespace heed::lightning::detail
