// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <type_traits>

#include "heed/core/call.hpp"
#include "heed/core/context.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/softmax/options.hpp"
#ifdef HEED_DISPATCH
#include "heed/dispatch/prepared.hpp"
#else
#include "heed/softmax/prepare_decode_call.hpp"
#endif

namespace heed::softmax {
inline namespace HEED_ISA {

// A call of decode that has been checked and given its scratch, for the steps of a loop. It keeps copies of the cache's
// view and of the options; what these view (tensors, arrays of lengths, block tables, lse, bias, ...) and the context's
// executor and workspace must live as long as it. Lengths and block tables may change between runs, up to the cache's
// capacity: each run reads and checks them anew, and allocates nothing.
template <class T, class View> class prepared_decode {
 public:
  template <class Rows>
  HEED_INLINE prepared_decode(const options<T>& opt, const context& context, const View& cache, const Rows& x)
      : call_(opt, context, cache, x) {}
  prepared_decode(const prepared_decode&) = delete;
  prepared_decode& operator=(const prepared_decode&) = delete;

  // Runs on the memory of the run before.
  void operator()() { call_(); }

  // Runs on q and o with the extents, strides and types of those that the call was prepared with.
  template <viewable Q, viewable O> void operator()(const Q& q, O&& o) {
    static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
    static_assert(std::is_same_v<acc_of<Q>, T> && std::is_same_v<acc_of<O>, T>,
                  "heed: the call was prepared for another element type");
    call_(detail::prepared_queries(q, o));
  }

 private:
  detail::prepared_cache_call<T, View> call_;
};

// Checks a call of decode once, so that it can run at every step of a loop while the cache grows. Throws heed::error
// where decode would. Scratch for the cache's capacity is taken here: runs allocate nothing.
template <viewable Q, class Cache, viewable O>
  requires heed::detail::cache_argument<Cache>
[[nodiscard]] auto prepare_decode(const Q& q, const Cache& cache, O&& o, const options<acc_of<Q>>& opt = {},
                                  const context& context = {})
    -> prepared_decode<acc_of<Q>, heed::detail::cache_view_t<Cache>> {
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  static_assert(heed::detail::decode_tensors<Q, Cache, O>());
  static_assert(std::is_same_v<heed::detail::cache_view_t<Cache>, kv_cache_view<heed::detail::cache_element_t<Cache>>>,
                "heed: prepare_decode takes one cache, without a shared prefix");
  return prepared_decode<acc_of<Q>, heed::detail::cache_view_t<Cache>>(
      opt, context, heed::detail::view_of_cache(cache), detail::prepared_queries(q, o));
}

}  // namespace HEED_ISA
}  // namespace heed::softmax
