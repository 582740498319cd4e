// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// plan_call and run_call of tile/verb.hpp for calls into the compiled library.

#include "heed/dispatch/verbs.hpp"

namespace heed::dispatch {

template <class T, class Request> struct call {
  using type = T;
  verb<Request> verbs<T>::*function;
  Request request;
};

}  // namespace heed::dispatch

namespace heed::tile {
inline namespace HEED_ISA {

template <class T, class Request>
HEED_INLINE plan plan_call(const dispatch::call<T, Request>& x, const context& context) noexcept {
  plan out{};
  dispatch::failure problem;
  (dispatch::chosen<T>().*x.function)(x.request, context, &out, problem);
  return out;
}
template <class T, class Request>
HEED_INLINE void run_call(const dispatch::call<T, Request>& x, const context& context) {
  dispatch::failure problem;
  (dispatch::chosen<T>().*x.function)(x.request, context, nullptr, problem);
  problem.raise();
}

}  // namespace HEED_ISA
}  // namespace heed::tile
