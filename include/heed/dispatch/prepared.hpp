// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Prepared calls of softmax in the compiled library: an object of its own, made, run and destroyed there.

#include "heed/dispatch/verbs.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> class prepared_forward {
 public:
  prepared_forward(const options<T>& opt, const context& context, const dispatch::rows& x) {
    call_ = checked([&](heed::detail::problem_text& problem) {
      return table().make({x, opt}, context, problem);
    });
  }
  prepared_forward(const prepared_forward&) = delete;
  prepared_forward& operator=(const prepared_forward&) = delete;
  ~prepared_forward() { table().destroy(call_); }

  void operator()() {
    checked([&](heed::detail::problem_text& problem) { table().run(call_, nullptr, problem); });
  }
  void operator()(const dispatch::rows& x) {
    checked([&](heed::detail::problem_text& problem) { table().run(call_, &x, problem); });
  }

 private:
  static const dispatch::prepared_verbs<T>& table() { return dispatch::chosen<T>().prepared; }
  template <class F> static auto checked(F f) {
    heed::detail::problem_text problem;
    problem[0] = 0;
    struct report {
      heed::detail::problem_text& text;
      void operator()() const {
        if (text[0] != 0) heed::detail::fail(text.data());
      }
    } const fail_if{problem};
    if constexpr (std::is_void_v<decltype(f(problem))>) {
      f(problem), fail_if();
    } else {
      auto result = f(problem);
      return fail_if(), result;
    }
  }

  void* call_ = nullptr;
};

template <class Q, class K, class V, class O>
HEED_INLINE dispatch::rows prepared_rows(const Q& q, const K& k, const V& v, const O& o) {
  return dispatch::rows_of(q, k, v, o);
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
