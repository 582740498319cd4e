// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstdint>

#include "heed/cache/append.hpp"
#include "heed/cache/memory.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/simd/float_control.hpp"

namespace heed {

namespace detail {

inline namespace HEED_ISA {

HEED_NOINLINE inline cache_shape paged_shape(const cache_shape& s, index_t most_sequences) {
  check_cache("cache::paged",
              {{"pages", s.entries, 0, most_tokens},
               {"page", s.rows, 1, most_tokens},
               {"kv_heads", s.kv_heads, 0, most_tokens},
               {"dim", s.dim, 1, most_tokens},
               {"value_dim", s.value_dim, 1, most_tokens},
               {"most_sequences", most_sequences, 0, most_tokens}},
              s);
  if (s.entries > most_tokens / s.rows)
    fail("cache::paged: % pages of % tokens, must be at most % tokens", s.entries, s.rows, most_tokens);
  check_cache("cache::paged block table", {}, {most_sequences, 1, s.entries, 1, 1});
  return s;
}

}  // namespace HEED_ISA

template <class T> struct paged_memory : cache_memory<T> {
  HEED_INLINE paged_memory(const cache_shape& of, index_t most_sequences)
      : cache_memory<T>(of),
        sequences(most_sequences),
        free(of.entries),
        lengths(most_sequences),
        blocks(most_sequences * of.entries),
        owners(of.entries),
        stack(of.entries),
        copies(most_sequences) {
    for (index_t i = 0; i < of.entries; ++i) stack[i] = static_cast<std::int32_t>(of.entries - 1 - i);
  }
  HEED_INLINE paged_memory(paged_memory&&) noexcept = default;
  HEED_INLINE paged_memory& operator=(paged_memory&&) noexcept = default;
  HEED_INLINE ~paged_memory() {}

  HEED_INLINE std::int32_t& block(index_t sequence, index_t number) const {
    return blocks[sequence * this->shape.entries + number];
  }
  HEED_INLINE index_t pages_of(index_t length) const { return (length + this->shape.rows - 1) / this->shape.rows; }
  HEED_INLINE std::int32_t take() {
    const std::int32_t page = stack[--free];
    owners[page] = 1;
    return page;
  }
  HEED_INLINE void give(std::int32_t page) {
    if (--owners[page] == 0) stack[free++] = page;
  }

  index_t sequences, free;  // pages in no use: stack[0 .. free)
  zeros<std::int32_t> lengths, blocks, owners, stack;  // owners: sequences that a page belongs to
  zeros<unsigned char> copies;                         // of an append: whether a sequence needs a copy of its last page
};

inline namespace HEED_ISA {

// Returns how many pages an append of n tokens takes, and notes which sequences need a copy of their last page: it is
// partly filled, and others own it after the earlier sequences of the call have made their copies.
template <class T> index_t pages_to_take(const paged_memory<T>& c, const cache_part& part, index_t n) {
  if (n == 0) return 0;
  index_t pages = 0;
  const auto last = [&](index_t b) -> std::int32_t& { return c.owners[c.block(b, c.lengths[b] / c.shape.rows)]; };
  for (index_t b = part.first_sequence; b < part.first_sequence + part.sequences; ++b) {
    c.copies[b] = c.lengths[b] % c.shape.rows != 0 && last(b) > 1;
    if (c.copies[b] != 0) --last(b), ++pages;
    pages += c.pages_of(c.lengths[b] + n) - c.pages_of(c.lengths[b]);
  }
  for (index_t b = part.first_sequence; b < part.first_sequence + part.sequences; ++b)
    if (c.copies[b] != 0) ++last(b);
  return pages;
}

template <class T> void copy_last_page(paged_memory<T>& c, index_t sequence) {
  const index_t length = c.lengths[sequence], rows = length % c.shape.rows;
  std::int32_t& block = c.block(sequence, length / c.shape.rows);
  const std::int32_t copy = c.take();
  for (index_t h = 0; h < c.shape.kv_heads; ++h)
    copy_cache_rows(c, c.shape.row(block, h, 0), c.shape.row(copy, h, 0), rows);
  c.give(block);
  block = copy;
}

template <class T, class A>
void append_tokens(paged_memory<T>& c, const cache_part& part, const new_tokens<A>& x) {
  problem_text problem;
  problem[0] = 0;
  checker check(problem);
  check_tokens(check, c, part, x.k, x.v);
  if (!check.ok()) fail(problem.data());
  const index_t n = x.count(), pages = pages_to_take(c, part, n);
  if (pages > c.free) fail("append: % tokens need % pages, % are free", n, pages, c.free);
  if (n == 0) return;
  const simd::flush_to_zero numbers;
  for (index_t i = 0; i < part.sequences; ++i) {
    const index_t b = part.first_sequence + i, first = c.lengths[b];
    if (c.copies[b] != 0) copy_last_page(c, b);
    for (index_t p = c.pages_of(first); p < c.pages_of(first + n); ++p) c.block(b, p) = c.take();
    for (index_t h = 0; h < part.heads; ++h)
      for (index_t t = 0, run = 0; t < n; t += run) {
        const index_t row = (first + t) % c.shape.rows;
        run = std::min(n - t, c.shape.rows - row);
        store_tokens(c, x, {i, h, t, run}, c.shape.row(c.block(b, (first + t) / c.shape.rows), h, row));
      }
    c.lengths[b] = static_cast<std::int32_t>(first + n);
  }
}

template <class T> void truncate_pages(paged_memory<T>& c, index_t sequence, index_t length) {
  const index_t now = c.lengths[sequence];
  if (length < 0 || length > now)
    fail("truncate: length is %, must be 0 to % (sequence %)", length, now, sequence);
  for (index_t p = c.pages_of(now); p-- > c.pages_of(length);) c.give(c.block(sequence, p));
  c.lengths[sequence] = static_cast<std::int32_t>(length);
}

template <class T> void fork_pages(paged_memory<T>& c, index_t from, index_t to) {
  check_fork(from, to, c.sequences);
  truncate_pages(c, to, 0);
  for (index_t p = 0; p < c.pages_of(c.lengths[from]); ++p) {
    const std::int32_t page = c.block(from, p);
    c.block(to, p) = page, ++c.owners[page];
  }
  c.lengths[to] = c.lengths[from];
}

}  // namespace HEED_ISA
}  // namespace detail

namespace cache {

// Owns pages of `page` tokens for up to most_sequences sequences, all empty at first: k (pages, Hk, page, D), v (pages,
// Hk, page, E), and a table (most_sequences, pages) of the pages of each sequence. Sequences share pages after a fork.
// Memory and T as for contiguous. No member allocates. One thread at a time may change a cache.
template <class T> class paged {
 public:
  HEED_INLINE paged(index_t pages, index_t page, index_t kv_heads, index_t dim, index_t value_dim,
                    index_t most_sequences)
      : memory_(detail::paged_shape({pages, kv_heads, page, dim, value_dim}, most_sequences), most_sequences) {}
  HEED_INLINE paged(paged&&) noexcept = default;
  HEED_INLINE paged& operator=(paged&&) noexcept = default;
  HEED_INLINE ~paged() {}

  // Appends n tokens to every sequence: k (most_sequences, Hk, n, D), v (most_sequences, Hk, n, E), types and strides
  // as for contiguous. A sequence takes pages as it needs them; where its last page is partly filled and shared, it
  // takes a copy first. Throws heed::error where shapes differ, where too few pages are free, and where k or v is the
  // cache's own memory; then nothing has changed.
  template <viewable K, viewable V> HEED_INLINE void append(const K& k, const V& v) {
    detail::append_tokens(memory_, {0, sequences(), 0, kv_heads()}, detail::tokens_to_append<T>(k, v));
  }
  // Appends n tokens to one sequence: k (1, Hk, n, D), v (1, Hk, n, E).
  template <viewable K, viewable V> HEED_INLINE void append(index_t sequence, const K& k, const V& v) {
    detail::check_index("append", "sequence", sequence, sequences());
    detail::append_tokens(memory_, {sequence, 1, 0, kv_heads()}, detail::tokens_to_append<T>(k, v));
  }

  // Takes the tokens from `length` on back, and returns the pages that only they needed.
  HEED_INLINE void truncate(index_t sequence, index_t length) {
    detail::check_index("truncate", "sequence", sequence, sequences());
    detail::truncate_pages(memory_, sequence, length);
  }
  // Makes `to` a sequence of the same tokens, which shares the pages of `from`; what `to` had is released.
  HEED_INLINE void fork(index_t from, index_t to) { detail::fork_pages(memory_, from, to); }
  // Empties a sequence (all sequences) and returns its pages.
  HEED_INLINE void release(index_t sequence) {
    detail::check_index("release", "sequence", sequence, sequences());
    detail::truncate_pages(memory_, sequence, 0);
  }
  HEED_INLINE void reset() {
    for (index_t b = 0; b < sequences(); ++b) detail::truncate_pages(memory_, b, 0);
  }

  HEED_INLINE index_t length(index_t sequence) const {
    detail::check_index("length", "sequence", sequence, sequences());
    return memory_.lengths[sequence];
  }
  HEED_INLINE index_t free_pages() const noexcept { return memory_.free; }
  HEED_INLINE index_t pages() const noexcept { return memory_.shape.entries; }
  HEED_INLINE index_t page() const noexcept { return memory_.shape.rows; }                   // tokens of one
  HEED_INLINE index_t capacity() const noexcept { return pages() * page(); }  // tokens of all pages
  HEED_INLINE index_t sequences() const noexcept { return memory_.sequences; }
  HEED_INLINE index_t kv_heads() const noexcept { return memory_.shape.kv_heads; }
  HEED_INLINE index_t dim() const noexcept { return memory_.shape.dim; }
  HEED_INLINE index_t value_dim() const noexcept { return memory_.shape.value_dim; }

  // The cache as decode takes it. It refers to arrays of the cache, lengths and block table among them: made once, it
  // shows every later append, truncate and fork, as long as the cache (or what it was moved to) lives.
  HEED_INLINE kv_cache_view<T> view() const& noexcept {
    kv_cache_view<T> x = memory_.view(cache_layout::paged);
    x.lengths = heed::lengths(memory_.lengths.data(), static_cast<std::size_t>(sequences()));
    x.blocks = {memory_.blocks.data(), {sequences(), pages()}, {pages(), 1}};
    return x;
  }
  kv_cache_view<T> view() const&& = delete;  // its memory would be gone
  HEED_INLINE operator kv_cache_view<T>() const& noexcept { return view(); }
  operator kv_cache_view<T>() const&& = delete;

 private:
  detail::paged_memory<T> memory_;
};

}  // namespace cache
}  // namespace heed
