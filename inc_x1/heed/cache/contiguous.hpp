// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/cache/sequence_cache.hpp"

namespace heed {

namespace detail {
inline namespace HEED_ISA {

HEED_NOINLINE inline cache_shape contiguous_shape(const cache_shape& s) {
  check_cache("cache::contiguous",
              {{"sequences", s.entries, 0, most_tokens},
               {"kv_heads", s.kv_heads, 0, most_tokens},
               {"capacity", s.rows, 0, most_tokens},
               {"dim", s.dim, 1, most_tokens},
               {"value_dim", s.value_dim, 1, most_tokens}},
              s);
  return s;
}

}  // namespace HEED_ISA
}  // namespace detail

namespace cache {

// Owns keys and values of B sequences, token j in row j: k (B, Hk, capacity, D), v (B, Hk, capacity, E). The
// constructor allocates all memory and writes zeros to it. T: float, double, bf16_t, f16_t, or std::int8_t with one
// scale per token and head (see quantize). Throws heed::error where a size is negative or the bytes cannot be counted.
template <class T> class contiguous : public sequence_cache<T> {
 public:
  HEED_INLINE contiguous(index_t sequences, index_t kv_heads, index_t capacity, index_t dim, index_t value_dim,
                         lengths_per per = lengths_per::sequence)
      : sequence_cache<T>(detail::contiguous_shape({sequences, kv_heads, capacity, dim, value_dim}),
                          cache_layout::contiguous, 0, per) {}
  HEED_INLINE contiguous(contiguous&&) noexcept = default;
  HEED_INLINE contiguous& operator=(contiguous&&) noexcept = default;
  HEED_INLINE ~contiguous() {}
};

}  // namespace cache
}  // namespace heed
