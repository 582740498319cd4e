// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What contiguous caches and rings have in common: rows of its own for each sequence and head. A contiguous cache is a
// ring that refuses to wrap.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "heed/cache/append.hpp"
#include "heed/cache/memory.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/simd/float_control.hpp"

namespace heed {

namespace cache {
// Whether all heads of a sequence have as many tokens, or each its own number.
enum class lengths_per : unsigned char { sequence, kv_head };
}  // namespace cache

namespace detail {

template <class T> struct sequence_memory : cache_memory<T> {
  HEED_INLINE sequence_memory(const cache_shape& of, cache_layout how, index_t keep, cache::lengths_per per)
      : cache_memory<T>(of),
        layout(how),
        keep_first(keep),
        per_head(per == cache::lengths_per::kv_head),
        lengths(of.entries * (per_head ? of.kv_heads : 1)),
        oldest(lengths.size()) {
    for (index_t i = 0; i < oldest.size(); ++i) oldest[i] = static_cast<std::int32_t>(keep);
  }
  HEED_INLINE sequence_memory(sequence_memory&&) noexcept = default;
  HEED_INLINE sequence_memory& operator=(sequence_memory&&) noexcept = default;
  HEED_INLINE ~sequence_memory() {}

  // Where the numbers of a head are in lengths and oldest
  HEED_INLINE index_t counter(index_t sequence, index_t head) const {
    return per_head ? sequence * this->shape.kv_heads + head : sequence;
  }
  // Counters of a sequence
  HEED_INLINE index_t counters() const { return per_head ? this->shape.kv_heads : 1; }
  HEED_INLINE cache_lengths counted(const zeros<std::int32_t>& each) const {
    const index_t n = this->shape.entries, heads = this->shape.kv_heads;
    if (per_head) return tensor_view<const std::int32_t, 2>(each.data(), {n, heads}, {heads, 1});
    return heed::lengths(each.data(), static_cast<std::size_t>(n));
  }

  cache_layout layout;
  index_t keep_first;
  bool per_head;
  zeros<std::int32_t> lengths, oldest;  // tokens [keep_first, oldest) are gone
};

inline namespace HEED_ISA {

// Calls f(sequence, head, length) for each number of tokens that a part of a cache has.
template <class T, class F> void each_length(const sequence_memory<T>& c, const cache_part& part, const F& f) {
  const index_t heads = c.per_head ? part.heads : std::min<index_t>(part.heads, 1);
  for (index_t b = part.first_sequence; b < part.first_sequence + part.sequences; ++b)
    for (index_t h = part.first_head; h < part.first_head + heads; ++h) f(b, h, c.lengths[c.counter(b, h)]);
}

template <class T>
void check_append(const sequence_memory<T>& c, const cache_part& part, const input_tensor& k, const input_tensor& v) {
  problem_text problem;
  problem[0] = 0;
  checker check(problem);
  check_tokens(check, c, part, k, v);
  const index_t n = k.extent(2), most = c.layout == cache_layout::ring ? most_tokens : c.shape.rows;
  each_length(c, part, [&](index_t b, index_t h, index_t length) {
    if (!c.per_head)
      check.require(n <= most - length, "append: k has % tokens, sequence % has room for %", n, b, most - length);
    else
      check.require(n <= most - length, "append: k has % tokens, head % of sequence % has room for %", n, h, b,
                    most - length);
  });
  if (!check.ok()) fail(problem.data());
}

// Writes the tokens of a head that stay: the sinks, and as many of the last as there are other rows.
template <class T, class A>
void append_to_head(const sequence_memory<T>& c, index_t sequence, index_t head, const new_tokens<A>& x,
                    token_run run) {
  const index_t first = c.lengths[c.counter(sequence, head)], end = first + x.count();
  const index_t keep = c.keep_first, window = c.shape.rows - keep;
  for (index_t t = first; t < end; t += run.count) {
    if (t >= keep) t = std::max(t, end - window);
    if (t == end) break;
    const index_t row = t < keep ? t : keep + (t - keep) % window;
    run.first = t - first, run.count = std::min(end - t, c.shape.rows - row);
    store_tokens(c, x, run, c.shape.row(sequence, head, row));
  }
}

template <class T, class A>
void append_tokens(const sequence_memory<T>& c, const cache_part& part, const new_tokens<A>& x) {
  check_append(c, part, x.k, x.v);
  const simd::flush_to_zero numbers;
  for (index_t b = 0; b < part.sequences; ++b)
    for (index_t h = 0; h < part.heads; ++h)
      append_to_head(c, part.first_sequence + b, part.first_head + h, x, {b, h, 0, 0});
  each_length(c, part, [&](index_t b, index_t h, index_t length) {
    const index_t i = c.counter(b, h), now = length + x.count(), window = c.shape.rows - c.keep_first;
    c.lengths[i] = static_cast<std::int32_t>(now);
    c.oldest[i] = static_cast<std::int32_t>(std::max<index_t>(c.oldest[i], now - window));
  });
}

// Takes the last tokens back; those that had been overwritten stay gone.
template <class T> void truncate_tokens(const sequence_memory<T>& c, const cache_part& part, index_t length) {
  each_length(c, part, [&](index_t b, index_t h, index_t now) {
    if (length >= 0 && length <= now) return;
    if (c.per_head) fail("truncate: length is %, must be 0 to % (head % of sequence %)", length, now, h, b);
    fail("truncate: length is %, must be 0 to % (sequence %)", length, now, b);
  });
  each_length(c, part, [&](index_t b, index_t h, index_t) {
    const index_t i = c.counter(b, h);
    c.lengths[i] = static_cast<std::int32_t>(length);
    c.oldest[i] = static_cast<std::int32_t>(std::clamp<index_t>(length, c.keep_first, c.oldest[i]));
  });
}

template <class T> void release_tokens(const sequence_memory<T>& c, index_t first, index_t count) {
  const index_t n = c.counters();
  for (index_t i = first * n; i < (first + count) * n; ++i)
    c.lengths[i] = 0, c.oldest[i] = static_cast<std::int32_t>(c.keep_first);
}

template <class T> void fork_rows(const sequence_memory<T>& c, index_t from, index_t to) {
  check_fork(from, to, c.shape.entries);
  for (index_t h = 0; h < c.shape.kv_heads; ++h) {
    const index_t i = c.counter(from, h), j = c.counter(to, h);
    const index_t rows = std::min<index_t>(c.lengths[i], c.shape.rows);
    copy_cache_rows(c, c.shape.row(from, h, 0), c.shape.row(to, h, 0), rows);
    c.lengths[j] = c.lengths[i], c.oldest[j] = c.oldest[i];
  }
}

}  // namespace HEED_ISA
}  // namespace detail

namespace cache {

// The members of contiguous and ring. No member allocates. One thread at a time may change a cache.
template <class T> class sequence_cache {
 public:
  // Appends n tokens to every sequence: k (B, Hk, n, D), v (B, Hk, n, E), of one storage type, with any strides.
  // A cache of double takes double; all others take float, bf16 and f16, which are rounded once. Throws heed::error
  // where shapes differ, where a sequence has no room, and where k or v is the cache's own memory; then nothing
  // has changed.
  template <viewable K, viewable V> HEED_INLINE void append(const K& k, const V& v) {
    detail::append_tokens(memory_, {0, sequences(), 0, kv_heads()}, detail::tokens_to_append<T>(k, v));
  }
  // Appends n tokens to one sequence: k (1, Hk, n, D), v (1, Hk, n, E).
  template <viewable K, viewable V> HEED_INLINE void append(index_t sequence, const K& k, const V& v) {
    detail::check_index("append", "sequence", sequence, sequences());
    detail::append_tokens(memory_, {sequence, 1, 0, kv_heads()}, detail::tokens_to_append<T>(k, v));
  }
  // Appends n tokens to one head: k (1, 1, n, D), v (1, 1, n, E). The cache must have lengths_per::kv_head.
  template <viewable K, viewable V>
  HEED_INLINE void append(index_t sequence, index_t kv_head, const K& k, const V& v) {
    check_head("append", sequence, kv_head);
    detail::append_tokens(memory_, {sequence, 1, kv_head, 1}, detail::tokens_to_append<T>(k, v));
  }

  // Takes the tokens from `length` on back, in all heads of a sequence or in one.
  HEED_INLINE void truncate(index_t sequence, index_t length) {
    detail::check_index("truncate", "sequence", sequence, sequences());
    detail::truncate_tokens(memory_, {sequence, 1, 0, kv_heads()}, length);
  }
  HEED_INLINE void truncate(index_t sequence, index_t kv_head, index_t length) {
    check_head("truncate", sequence, kv_head);
    detail::truncate_tokens(memory_, {sequence, 1, kv_head, 1}, length);
  }

  // Copies a sequence over another one.
  HEED_INLINE void fork(index_t from, index_t to) { detail::fork_rows(memory_, from, to); }
  // Empties a sequence (all sequences).
  HEED_INLINE void release(index_t sequence) {
    detail::check_index("release", "sequence", sequence, sequences());
    detail::release_tokens(memory_, sequence, 1);
  }
  HEED_INLINE void reset() { detail::release_tokens(memory_, 0, sequences()); }

  // Tokens of a sequence, also those that a ring has overwritten; of its longest head where lengths differ.
  HEED_INLINE index_t length(index_t sequence) const {
    detail::check_index("length", "sequence", sequence, sequences());
    index_t longest = 0;
    for (index_t i = 0; i < memory_.counters(); ++i)
      longest = std::max<index_t>(longest, memory_.lengths[sequence * memory_.counters() + i]);
    return longest;
  }
  HEED_INLINE index_t length(index_t sequence, index_t kv_head) const {
    detail::check_index("length", "sequence", sequence, sequences());
    detail::check_index("length", "kv_head", kv_head, kv_heads());
    return memory_.lengths[memory_.counter(sequence, kv_head)];
  }

  HEED_INLINE index_t sequences() const noexcept { return memory_.shape.entries; }
  HEED_INLINE index_t kv_heads() const noexcept { return memory_.shape.kv_heads; }
  HEED_INLINE index_t capacity() const noexcept { return memory_.shape.rows; }  // rows of a sequence
  HEED_INLINE index_t dim() const noexcept { return memory_.shape.dim; }
  HEED_INLINE index_t value_dim() const noexcept { return memory_.shape.value_dim; }

  // The cache as decode takes it. It refers to arrays of the cache, the lengths among them: made once, it shows every
  // later append, truncate and fork, as long as the cache (or what it was moved to) lives.
  HEED_INLINE kv_cache_view<T> view() const& noexcept {
    kv_cache_view<T> x = memory_.view(memory_.layout);
    x.lengths = memory_.counted(memory_.lengths);
    if (memory_.layout == cache_layout::ring)
      x.keep_first = memory_.keep_first, x.oldest = memory_.counted(memory_.oldest);
    return x;
  }
  kv_cache_view<T> view() const&& = delete;  // its memory would be gone
  HEED_INLINE operator kv_cache_view<T>() const& noexcept { return view(); }
  operator kv_cache_view<T>() const&& = delete;

 protected:
  HEED_INLINE sequence_cache(const detail::cache_shape& shape, cache_layout layout, index_t keep_first,
                             lengths_per per)
      : memory_(shape, layout, keep_first, per) {}
  HEED_INLINE sequence_cache(sequence_cache&&) noexcept = default;
  HEED_INLINE sequence_cache& operator=(sequence_cache&&) noexcept = default;
  HEED_INLINE ~sequence_cache() {}

 private:
  HEED_INLINE void check_head(const char* call, index_t sequence, index_t kv_head) const {
    detail::check_index(call, "sequence", sequence, sequences());
    detail::check_index(call, "kv_head", kv_head, kv_heads());
    if (!memory_.per_head)
      detail::fail("%: kv_head is given, the cache counts tokens per sequence (lengths_per::kv_head counts both)",
                   call);
  }

  detail::sequence_memory<T> memory_;
};

}  // namespace cache
}  // namespace heed
