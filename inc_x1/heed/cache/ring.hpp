// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>

#include "heed/cache/sequence_cache.hpp"

namespace heed {

namespace detail {
inline namespace HEED_ISA {

HEED_NOINLINE inline cache_shape ring_shape(const cache_shape& s, index_t keep_first) {
  check_cache("cache::ring",
              {{"sequences", s.entries, 0, most_tokens},
               {"kv_heads", s.kv_heads, 0, most_tokens},
               {"capacity", s.rows, 0, most_tokens},
               {"dim", s.dim, 1, most_tokens},
               {"value_dim", s.value_dim, 1, most_tokens},
               {"keep_first", keep_first, 0, std::max<index_t>(s.rows - 1, 0)}},
              s);
  return s;
}

}  // namespace HEED_ISA
}  // namespace detail

namespace cache {

// Owns the last tokens of B sequences, and their first keep_first ones: token t < keep_first stays in row t, token
// t >= keep_first is in row keep_first + (t - keep_first) % (capacity - keep_first), over the one before it there. An
// append never lacks room; it may have more tokens than there are rows. Lengths count all that were appended, at most
// 2^31 - 1. After a truncate the tokens that had been overwritten stay gone: kv_cache_view::oldest says which.
// Memory, T and errors as for contiguous; keep_first is 0 to capacity - 1 (0 where capacity is).
template <class T> class ring : public sequence_cache<T> {
 public:
  HEED_INLINE ring(index_t sequences, index_t kv_heads, index_t capacity, index_t dim, index_t value_dim,
                   index_t keep_first = 0, lengths_per per = lengths_per::sequence)
      : sequence_cache<T>(detail::ring_shape({sequences, kv_heads, capacity, dim, value_dim}, keep_first),
                          cache_layout::ring, keep_first, per) {}
  HEED_INLINE ring(ring&&) noexcept = default;
  HEED_INLINE ring& operator=(ring&&) noexcept = default;
  HEED_INLINE ~ring() {}
};

}  // namespace cache
}  // namespace heed
