// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A cache as the engine sees it: its tensors as (sequence, head, token, dim), the map from tokens to rows, and what
// must hold of it.

#include <algorithm>
#include <limits>

#include "heed/core/kv_cache.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/tile/row_format.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// A cache without its element type. It refers to the view that it was made of.
struct cache_shapes {
  template <class C>
  cache_shapes(const kv_cache_view<C>& x, index_t batch)
      : k("cache k", x.k),
        v("cache v", x.v),
        k_scale("cache k_scale", x.k_scale),
        v_scale("cache v_scale", x.v_scale),
        blocks("cache blocks", x.blocks),
        block_table(x.blocks),
        lengths(&x.lengths),
        oldest(&x.oldest),
        layout(x.layout),
        scaled(std::is_same_v<C, std::int8_t>),
        keep_first(x.keep_first),
        sequences(batch),
        most_keys(capacity()) {}

  const char* layout_name() const {
    return layout == cache_layout::contiguous ? "contiguous" : layout == cache_layout::ring ? "ring" : "paged";
  }
  // Tokens that a sequence can have at once
  index_t capacity() const {
    const index_t rows = std::max<index_t>(k.extent(2), 0);
    if (layout != cache_layout::paged) return rows;
    const double all = static_cast<double>(rows) * static_cast<double>(blocks.extent(1));
    return static_cast<index_t>(std::min(all, double{std::numeric_limits<std::int32_t>::max()}));
  }
  // Whether there is a number for each sequence, or for each of its heads
  bool counts_fit(const cache_lengths& x) const {
    if (x.per_head()) return x.of_heads().extent(0) == sequences && x.of_heads().extent(1) == k.extent(1);
    return static_cast<index_t>(x.of_sequences().size()) == sequences;
  }
  template <class F> void each_length(const cache_lengths& x, F f) const {
    for (index_t b = 0; b < sequences; ++b)
      for (index_t h = 0; h < (x.per_head() ? k.extent(1) : 1); ++h) f(b, h, x.at(b, h));
  }
  index_t longest() const {
    index_t most = 0;
    if (counts_fit(*lengths)) each_length(*lengths, [&](index_t, index_t, index_t n) { most = std::max(most, n); });
    return most;
  }

  heed::detail::named_tensor k, v, k_scale, v_scale, blocks;
  tensor_view<const std::int32_t, 2> block_table;
  const cache_lengths *lengths, *oldest;
  cache_layout layout;
  bool scaled;
  index_t keep_first, sequences, most_keys;  // sequences: of q
};

HEED_NOINLINE inline void check_counts(heed::detail::checker& check, const char* name, const cache_lengths& x,
                                       const cache_shapes& c) {
  if (x.per_head()) {
    const index_t full[] = {c.sequences, c.k.extent(1)};
    const heed::detail::named_tensor counts(name, x.of_heads());
    check.tensor(counts, false), check.extents(counts, full, false);
  } else {
    check.require(static_cast<index_t>(x.of_sequences().size()) == c.sequences, "% has % entries, q has % in its batch",
                  name, x.of_sequences().size(), c.sequences);
  }
}

// The pages of the tokens that a sequence has
HEED_NOINLINE inline void check_blocks(heed::detail::checker& check, const cache_shapes& c) {
  const index_t page = c.k.extent(2), pages = c.k.extent(0);
  c.each_length(*c.lengths, [&](index_t b, index_t, index_t n) {
    for (index_t i = 0; check.ok() && i * page < n; ++i) {
      const index_t at = c.block_table(b, i);
      check.require(at >= 0 && at < pages, "cache blocks(%, %) is page %, must be 0 to % (cache k has % pages)", b, i,
                    at, pages - 1, pages);
    }
  });
}

// O(sequences + blocks in use); reads no tensor data
HEED_NOINLINE inline void check_cache(heed::detail::checker& check, const cache_shapes& c) {
  const bool paged = c.layout == cache_layout::paged;
  check.tensor(c.k, true), check.tensor(c.v, true);
  check.equal(c.k, c.v, 0, paged ? "pages" : "batch"), check.equal(c.k, c.v, 1, "heads");
  check.equal(c.k, c.v, 2, paged ? "rows a page" : "rows");
  for (const heed::detail::named_tensor* const x : {&c.k_scale, &c.v_scale})
    if (c.scaled) check.tensor(*x, false), check.extents(*x, c.k.extents, false);
  if (paged)
    check.tensor(c.blocks, false), check.require(c.blocks.extent(0) == c.sequences, "cache blocks has % sequences, q has batch %", c.blocks.extent(0), c.sequences);
  else
    check.require(c.k.extent(0) == c.sequences, "cache k has batch %, q has batch %", c.k.extent(0), c.sequences);
  if (c.layout == cache_layout::ring)
    check.require(c.keep_first >= 0 && c.keep_first <= std::max<index_t>(0, c.k.extent(2) - 1),
                  "cache keep_first is %, must be 0 to % (cache k has % rows)", c.keep_first,
                  std::max<index_t>(0, c.k.extent(2) - 1), c.k.extent(2));
  if (!check.ok()) return;
  check_counts(check, "cache lengths", *c.lengths, c);
  const bool has_oldest = c.oldest->size() > 0;
  if (has_oldest) check_counts(check, "cache oldest", *c.oldest, c);
  if (!check.ok()) return;
  const index_t most = c.layout == cache_layout::ring ? std::numeric_limits<std::int32_t>::max() : c.most_keys;
  c.each_length(*c.lengths, [&](index_t b, index_t h, index_t n) {
    check.require(n >= 0 && n <= most, "cache lengths of sequence %, head % is %, must be 0 to % (the capacity)", b, h, n,
                  most);
    if (has_oldest && check.ok())
      check.require(c.oldest->at(b, h) >= 0 && c.oldest->at(b, h) <= n,
                    "cache oldest of sequence %, head % is %, must be 0 to % (the length)", b, h,
                    index_t{c.oldest->at(b, h)}, n);
  });
  if (paged && check.ok()) check_blocks(check, c);
}

// Refuses what a cache says already, or has no meaning with it.
HEED_NOINLINE inline void check_cache_options(heed::detail::checker& check, const heed::detail::mask_parts& mask,
                                              const heed::detail::alignment_parts& align) {
  check.require(!mask.has(mask.key_lengths), "key_lengths in the mask of decode: the cache has its lengths");
  check.require(!mask.has(mask.packed), "packed in the mask of decode: sequences of a cache are batch entries");
  check.require(!align.top_left, "align is top_left, decode takes bottom_right or first_place");
  check.require(!align.end_of_lengths, "align is end_of_lengths, decode takes bottom_right (the same) or first_place");
}

// The tensors of a call with a cache: k and v count tokens, up to those of the longest sequence.
template <class Q, class C, class O>
HEED_INLINE tile::call_rows<acc_of<Q>> rows_of_cache(const Q& q, const kv_cache_view<C>& x, O& o, index_t longest) {
  using T = acc_of<Q>;
  using heed::detail::input_tensor, heed::detail::value_t;
  const tensor_view<const value_t<Q>, 4> rows(q);
  const tensor_view<const value_t<O>, 4> out(o);
  const tensor_view<value_t<O>, 4> written(const_cast<value_t<O>*>(out.data()), out.extents(), out.strides());
  const auto tokens = [&](const tensor_view<const C, 4>& t) {
    return input_tensor(t).with_extents({rows.extent(0), t.extent(1), longest, t.extent(3)});
  };
  return {{input_tensor(rows), tokens(x.k), tokens(x.v), heed::detail::output_tensor(written),
           heed::detail::one_axis<Q, tensor_view<C, 4>, tensor_view<C, 4>, O>},
          &tile::row_format_of<T, value_t<Q>>,
          &tile::row_format_of<T, C>,
          &tile::row_format_of<T, value_t<O>>};
}
template <class Q, class C, class O>
HEED_INLINE softmax_rows<acc_of<Q>> softmax_rows_of_cache(const Q& q, const kv_cache_view<C>& x, O& o,
                                                          const cache_shapes& shapes) {
  return {rows_of_cache(q, x, o, shapes.longest()), &few_rows_format_of<acc_of<Q>, C>, nullptr};
}
template <class T, class C> HEED_INLINE void set_cache(attention<T>& p, const kv_cache_view<C>& x) {
  p.lengths = &x.lengths, p.oldest = &x.oldest;
  p.cache = {x.layout, x.k.extent(2), std::max<index_t>(x.keep_first, 0), x.blocks,
             heed::detail::with_canonical_strides(x.k_scale), heed::detail::with_canonical_strides(x.v_scale)};
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
