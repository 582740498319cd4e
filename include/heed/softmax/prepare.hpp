// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <type_traits>

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/softmax/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/prepared.hpp"
#else
#include "heed/softmax/prepare_call.hpp"
#endif

namespace heed::softmax {
inline namespace HEED_ISA {

// A call of forward that has been checked, measured and given its scratch. It runs as often as wanted, one run at a
// time, on the same memory or on other memory of the same shapes. It keeps a copy of the options; what they view (lse,
// bias, arrays of lengths, slopes, ...) and the context's executor and workspace must live as long as it. Their numbers
// may change between runs: lengths, offsets and numbers per head are read and checked anew.
template <class T> class prepared {
 public:
  template <class Rows>
  HEED_INLINE prepared(const options<T>& opt, const context& context, const Rows& x) : call_(opt, context, x) {}
  prepared(const prepared&) = delete;
  prepared& operator=(const prepared&) = delete;

  // Runs on the memory of the run before.
  void operator()() { call_(); }

  // Runs on q, k, v, o with the extents and strides of those that the call was prepared with. Throws heed::error,
  // before anything is written, where they differ, o is an input's memory, or numbers that the options view do not fit.
  template <viewable Q, viewable K, viewable V, viewable O> void operator()(const Q& q, const K& k, const V& v, O&& o) {
    static_assert(heed::detail::call_tensors<O, Q, K, V>());
    static_assert(std::is_same_v<acc_of<Q>, T>, "heed: the call was prepared for another element type");
    call_(detail::prepared_rows(q, k, v, o));
  }

 private:
  detail::prepared_forward<T> call_;
};

// Checks a call of forward once, so that it can run many times, as a loop over layers or tokens does. Throws
// heed::error where forward would. Scratch is taken here: runs allocate nothing.
template <viewable Q, viewable K, viewable V, viewable O>
[[nodiscard]] prepared<acc_of<Q>> prepare(const Q& q, const K& k, const V& v, O&& o, const options<acc_of<Q>>& opt = {},
                                          const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  return prepared<acc_of<Q>>(opt, context, detail::prepared_rows(q, k, v, o));
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
