// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Prepared calls of softmax in the compiled library: objects of its own.

#include "heed/dispatch/verbs.hpp"

namespace heed::dispatch {
inline namespace HEED_ISA {

template <class T, class Request, class Rows> class prepared {
 public:
  using table = prepared_verb<Request, Rows> verbs<T>::*;

  prepared(table verb, const Request& request, const context& context) : verb_(chosen<T>().*verb) {
    failure problem;
    call_ = verb_.make(request, context, problem);
    problem.raise();
  }
  prepared(const prepared&) = delete;
  prepared& operator=(const prepared&) = delete;
  ~prepared() { verb_.destroy(call_); }

  void operator()() { run(nullptr); }
  void operator()(const Rows& x) { run(&x); }

 private:
  void run(const Rows* on) {
    failure problem;
    verb_.run(call_, on, problem);
    problem.raise();
  }

  prepared_verb<Request, Rows> verb_;
  void* call_ = nullptr;
};

}  // namespace HEED_ISA
}  // namespace heed::dispatch

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> struct prepared_forward : dispatch::prepared<T, dispatch::softmax_forward<T>, dispatch::rows> {
  prepared_forward(const options<T>& opt, const context& context, const dispatch::rows& x)
      : prepared_forward::prepared(&dispatch::verbs<T>::prepared_softmax_forward, {x, opt}, context) {}
};
template <class Q, class K, class V, class O>
HEED_INLINE dispatch::rows prepared_rows(const Q& q, const K& k, const V& v, const O& o) {
  return dispatch::rows_of(q, k, v, o);
}

template <class T, class View>
struct prepared_cache_call : dispatch::prepared<T, dispatch::softmax_decode<T>, dispatch::query_rows> {
  prepared_cache_call(const options<T>& opt, const context& context, const View& cache, const dispatch::query_rows& x)
      : prepared_cache_call::prepared(&dispatch::verbs<T>::prepared_softmax_decode,
                                      {dispatch::rows_of_cache(x, cache), opt}, context) {}
};
template <class Q, class O> HEED_INLINE dispatch::query_rows prepared_queries(const Q& q, const O& o) {
  return dispatch::query_rows_of(q, o);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
