// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Local linear attention of new tokens with a cache: forward's tiles, with the rows of the cache.

#include "heed/local_linear/forward_call.hpp"
#include "heed/pairwise/cache.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> struct decode_call : call<T> {
  const pairwise::cache_shapes& cache;

  // Enough for any lengths. A ring never has more tokens than rows, however many were appended.
  tile::workload measure(index_t workers) {
    const index_t longest = this->p.k.extent(2), capacity = cache.capacity();
    count_keys(capacity);
    const std::size_t most = call<T>::measure(workers).slot_bytes;
    count_keys(std::min(longest, capacity));
    tile::workload work = call<T>::measure(workers);
    work.slot_bytes = std::max(work.slot_bytes, most);
    return work;
  }

  void check(heed::detail::checker& check) const {
    pairwise::check_cache_call(check, this->p, cache);
    if (check.ok()) check_call(check, this->p);
  }

 private:
  void count_keys(index_t count) {
    std::array<index_t, 4> extents = this->p.k.extents();
    extents[2] = count;
    this->p.k = this->p.k.with_extents(extents);
  }
};

// f(call), which lives as long as that
template <class T, class View, class F>
auto with_decode(const pairwise::query_rows<T>& x, const View& cache, const per_head& ridge, const options<T>& opt,
                 F f) {
  const pairwise::cache_shapes shapes(cache, x.q.extent(0));
  decode_call<T> call{{{opt, pairwise::rows_of_cache(x, cache, shapes.longest())}}, shapes};
  call.p.ridge = ridge;
  pairwise::set_cache(call.p, cache, shapes);
  return f(call);
}
template <class Q, class Cache, class O, class F>
HEED_INLINE auto with_decode(const Q& q, const Cache& cache, const per_head& ridge, O& o, const options<acc_of<Q>>& opt,
                             F f) {
  return with_decode(pairwise::query_rows_of(q, o), heed::detail::view_of_cache(cache), ridge, opt, f);
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
