// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The tokens of key/value caches, one after the other in double, by what the layouts mean:
//
//   contiguous  token t is row t
//   ring        of C rows, s = keep_first: token t < s is row t, t >= s is row s + (t - s) % (C - s); of the tokens
//               from s on the last C - s are left
//   paged       token t is row t % size of page blocks(sequence, t / size)
//   std::int8_t a number is the stored one times the scale of its token and head
//
// It shares no code with the kernels: see reference/rules.hpp.

#include <algorithm>
#include <array>

#include "heed/core/kv_cache.hpp"
#include "heed/reference/rules.hpp"

namespace heed::reference::detail {
inline namespace HEED_ISA {

// The entry of the tensors and its row that hold a token
template <class C>
std::array<index_t, 2> slot_of(const kv_cache_view<C>& cache, index_t sequence, index_t token) {
  const index_t rows = cache.k.extent(2), kept = cache.keep_first;
  if (cache.layout == cache_layout::paged) return {cache.blocks(sequence, token / rows), token % rows};
  if (cache.layout == cache_layout::ring && token >= kept) return {sequence, kept + (token - kept) % (rows - kept)};
  return {sequence, token};
}

// Tokens [keep_first, oldest) of a ring are gone: overwritten, or truncated after that.
template <class C> index_t oldest_of(const kv_cache_view<C>& cache, index_t sequence, index_t kv_head) {
  if (cache.layout != cache_layout::ring) return 0;
  const index_t length = cache.lengths.at(sequence, kv_head), left = cache.k.extent(2) - cache.keep_first;
  const bool given = cache.oldest.per_head() ? cache.oldest.of_heads().data() != nullptr
                                             : !cache.oldest.of_sequences().empty();
  return std::max({cache.keep_first, length - left, given ? index_t{cache.oldest.at(sequence, kv_head)} : 0});
}

// All tokens of a sequence and key/value head; zeros where they are gone
struct cached {
  row_major keys, values;
};

// Writes the tokens of one cache to rows [first, ...) of `all`.
template <class C>
void gather(const kv_cache_view<C>& cache, index_t sequence, index_t kv_head, index_t first, cached& all) {
  const index_t length = cache.lengths.at(sequence, kv_head), oldest = oldest_of(cache, sequence, kv_head);
  for (index_t t = 0; t < length; ++t) {
    if (t >= cache.keep_first && t < oldest) continue;
    const auto [entry, row] = slot_of(cache, sequence, t);
    all.keys.row(first + t) = row_of(cache.k, entry, kv_head, row).transpose();
    all.values.row(first + t) = row_of(cache.v, entry, kv_head, row).transpose();
    if (cache.k_scale.data() == nullptr) continue;
    all.keys.row(first + t) *= number(cache.k_scale(entry, kv_head, row));
    all.values.row(first + t) *= number(cache.v_scale(entry, kv_head, row));
  }
}

// Calls visit(sequence, head, query head, tokens) for every sequence and every head of o, max(H, Hk) of them. The keys
// of the sequence are its tokens in that head, those of a shared prefix first. Cache: a view
template <class Q, class Cache, class Visit>
void each_cached_head(const tensor_view<Q, 4>& q, const Cache& cache, const mask& mask, const Visit& visit) {
  if (const char* conflict = heed::detail::parts(mask).conflict) heed::detail::fail(conflict);
  const auto& own = heed::detail::own_tokens(cache);
  const auto* const prefix = heed::detail::prefix_tokens(cache);
  const index_t kv_heads = own.k.extent(1), before = prefix != nullptr ? index_t{prefix->lengths.at(0, 0)} : 0;
  if (q.extent(1) == 0 || kv_heads == 0) return;
  const index_t group = std::max<index_t>(q.extent(1) / kv_heads, 1);   // heads of o with the tokens of one
  const index_t shared = std::max<index_t>(kv_heads / q.extent(1), 1);  // heads of o with one query head
  for (index_t b = 0; b < q.extent(0); ++b)
    for (index_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      const index_t keys = before + own.lengths.at(b, kv_head), kept = std::max<index_t>(own.keep_first, 0);
      const sequence s{b, b, 0, q.extent(2), 0, keys, before + kept, before + oldest_of(own, b, kv_head)};
      cached tokens{row_major::Zero(keys, own.k.extent(3)), row_major::Zero(keys, own.v.extent(3))};
      if (prefix != nullptr) gather(*prefix, 0, kv_head, 0, tokens);
      gather(own, b, kv_head, before, tokens);
      for (index_t head = kv_head * group; head < (kv_head + 1) * group; ++head) visit(s, head, head / shared, tokens);
    }
}

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
