// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A cache as the engine sees it: its tensors as (sequence, head, token, dim), the map from tokens to rows, and what
// must hold of it.

#include <algorithm>
#include <limits>

#include "heed/core/kv_cache.hpp"
#include "heed/pairwise/checks.hpp"
#include "heed/tile/row_format.hpp"
#include "heed/tile/unit_choice.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// One cache without its element type. It refers to the view that it was made of.
struct cache_tensors {
  template <class C>
  cache_tensors(const kv_cache_view<C>& x, const char* const (&names)[5], index_t batch)
      : k(names[0], x.k),
        v(names[1], x.v),
        k_scale(names[2], x.k_scale),
        v_scale(names[3], x.v_scale),
        blocks(names[4], x.blocks),
        block_table(x.blocks),
        lengths(&x.lengths),
        oldest(&x.oldest),
        layout(x.layout),
        scaled(std::is_same_v<C, std::int8_t>),
        keep_first(x.keep_first),
        sequences(batch) {}

  // Tokens that a sequence can have at once
  index_t capacity() const {
    const index_t rows = std::max<index_t>(k.extent(2), 0);
    if (layout != cache_layout::paged) return rows;
    const double all = static_cast<double>(rows) * static_cast<double>(blocks.extent(1));
    return static_cast<index_t>(std::min(all, double{std::numeric_limits<std::int32_t>::max()}));
  }
  // Whether there is a number for each sequence, or for each of its heads
  bool counts_fit(const cache_lengths& x) const {
    if (x.data() == nullptr && x.size() != 0) return false;
    if (x.per_head()) return x.of_heads().extent(0) == sequences && x.of_heads().extent(1) == k.extent(1);
    return static_cast<index_t>(x.of_sequences().size()) == sequences;
  }
  // f(sequence, head, number)
  template <class F> void each(const cache_lengths& x, F f) const {
    for (index_t b = 0; b < sequences; ++b)
      for (index_t h = 0; h < (x.per_head() ? k.extent(1) : 1); ++h) f(b, h, index_t{x.at(b, h)});
  }
  index_t longest() const {
    index_t most = 0;
    if (counts_fit(*lengths)) each(*lengths, [&](index_t, index_t, index_t n) { most = std::max(most, n); });
    return most;
  }

  heed::detail::named_tensor k, v, k_scale, v_scale, blocks;
  tensor_view<const std::int32_t, 2> block_table;
  const cache_lengths *lengths, *oldest;
  cache_layout layout;
  bool scaled;
  index_t keep_first, sequences;
};

// The cache of a call, and the prefix that its sequences share, if they do
struct cache_shapes {
  template <class View>
  cache_shapes(const View& x, index_t batch)
      : own(heed::detail::own_tokens(x), own_names, batch),
        prefix(
            heed::detail::prefix_tokens(x) == nullptr ? heed::detail::own_tokens(x) : *heed::detail::prefix_tokens(x),
            prefix_names, 1),
        has_prefix(heed::detail::prefix_tokens(x) != nullptr) {}

  index_t prefix_length() const { return has_prefix ? prefix.longest() : 0; }
  index_t longest() const { return prefix_length() + own.longest(); }
  index_t capacity() const { return (has_prefix ? prefix.capacity() : 0) + own.capacity(); }
  const char* layout_name() const {
    return own.layout == cache_layout::contiguous ? "contiguous" : own.layout == cache_layout::ring ? "ring" : "paged";
  }

  static constexpr const char* own_names[5] = {"cache k", "cache v", "cache k_scale", "cache v_scale", "cache blocks"};
  static constexpr const char* prefix_names[5] = {"prefix k", "prefix v", "prefix k_scale", "prefix v_scale",
                                                  "prefix blocks"};
  cache_tensors own, prefix;
  bool has_prefix;
};

HEED_NOINLINE inline void check_counts(heed::detail::checker& check, const char* name, const cache_lengths& x,
                                       const cache_tensors& c) {
  if (x.per_head()) {
    const index_t full[] = {c.sequences, c.k.extent(1)};
    const heed::detail::named_tensor counts(name, x.of_heads());
    check.tensor(counts, false), check.extents(counts, full, false);
  } else {
    check.require(static_cast<index_t>(x.of_sequences().size()) == c.sequences, "% has % entries, must have % (%)",
                  name, x.of_sequences().size(), c.sequences, "one per sequence");
    check.require(x.data() != nullptr || x.size() == 0, "% is null but has % elements", name, x.size());
  }
}

// The pages of the tokens that a sequence has
HEED_NOINLINE inline void check_blocks(heed::detail::checker& check, const cache_tensors& c) {
  const index_t page = c.k.extent(2), pages = c.k.extent(0);
  c.each(*c.lengths, [&](index_t b, index_t, index_t n) {
    for (index_t i = 0; check.ok() && i * page < n; ++i) {
      const index_t at = c.block_table(b, i);
      check.require(at >= 0 && at < pages, "%(%, %) is page %, must be 0 to % (of % pages)", c.blocks.name, b, i, at,
                    pages - 1, pages);
    }
  });
}

HEED_NOINLINE inline void check_cache_shapes(heed::detail::checker& check, const cache_tensors& c) {
  const bool paged = c.layout == cache_layout::paged;
  check.tensor(c.k, true), check.tensor(c.v, true);
  check.equal(c.k, c.v, 0, paged ? "pages" : "batch"), check.equal(c.k, c.v, 1, "heads");
  check.equal(c.k, c.v, 2, paged ? "rows a page" : "rows");
  for (const heed::detail::named_tensor* const x : {&c.k_scale, &c.v_scale})
    if (c.scaled) check.tensor(*x, false), check.extents(*x, c.k.extents, false);
  if (paged) check.tensor(c.blocks, false);
  const heed::detail::named_tensor& sequences = paged ? c.blocks : c.k;
  check.require(sequences.extent(0) == c.sequences, "% has batch %, must have % (the sequences)", sequences.name,
                sequences.extent(0), c.sequences);
  const index_t rows = c.k.extent(2), most = std::max<index_t>(0, rows - 1);
  check.require(c.layout != cache_layout::ring || (c.keep_first >= 0 && c.keep_first <= most),
                "cache keep_first is %, must be 0 to % (% has % rows)", c.keep_first, most, c.k.name, rows);
}

// O(sequences + blocks in use); reads no tensor data
HEED_NOINLINE inline void check_cache(heed::detail::checker& check, const cache_tensors& c) {
  check_cache_shapes(check, c);
  if (!check.ok()) return;
  check_counts(check, "cache lengths", *c.lengths, c);
  if (c.oldest->size() > 0) check_counts(check, "cache oldest", *c.oldest, c);
  if (!check.ok()) return;
  const index_t most = c.layout == cache_layout::ring ? std::numeric_limits<std::int32_t>::max() : c.capacity();
  c.each(*c.lengths, [&](index_t b, index_t h, index_t n) {
    check.require(n >= 0 && n <= most, "cache lengths of sequence %, head % is %, must be 0 to % (the capacity)", b, h,
                  n, most);
    const index_t newest = std::max(n, c.keep_first);  // a ring that is not full has lost [keep_first, keep_first)
    if (c.oldest->size() > 0 && check.ok())
      check.require(c.oldest->at(b, h) >= 0 && c.oldest->at(b, h) <= newest,
                    "cache oldest of sequence %, head % is %, must be 0 to % (the length, or keep_first)", b, h,
                    index_t{c.oldest->at(b, h)}, newest);
  });
  if (c.layout == cache_layout::paged && check.ok()) check_blocks(check, c);
}
HEED_NOINLINE inline void check_cache(heed::detail::checker& check, const cache_shapes& c) {
  check_cache(check, c.own);
  if (!c.has_prefix || !check.ok()) return;
  check_cache(check, c.prefix);
  for (const int axis : {1, 3}) {
    check.equal(c.prefix.k, c.own.k, axis, axis == 1 ? "heads" : "head dim");
    check.equal(c.prefix.v, c.own.v, axis, axis == 1 ? "heads" : "head dim");
  }
  check.require(!c.prefix.lengths->per_head(), "prefix lengths has numbers for % heads, must have 1 number",
                c.prefix.k.extent(1));
  if (c.prefix.layout != cache_layout::ring || !check.ok()) return;
  check.require(c.prefix.longest() <= c.prefix.k.extent(2),
                "prefix lengths is %, must be at most % (a ring that has lost tokens is no prefix)", c.prefix.longest(),
                c.prefix.k.extent(2));
  if (c.prefix.oldest->size() == 0) return;
  c.prefix.each(*c.prefix.oldest, [&](index_t, index_t, index_t oldest) {
    check.require(oldest <= c.prefix.keep_first,
                  "prefix oldest is %, must be at most % (a ring that has lost tokens is no prefix)", oldest,
                  c.prefix.keep_first);
  });
}

// No output is the memory of a cache.
HEED_NOINLINE inline void check_apart(heed::detail::checker& check, heed::detail::checker::names outputs,
                                      const cache_tensors& c) {
  const heed::detail::named_tensor lengths("cache lengths", c.lengths->data()),
      oldest("cache oldest", c.oldest->data());
  check.distinct(outputs, {&c.k, &c.v, &c.k_scale, &c.v_scale, &c.blocks, &lengths, &oldest});
}

// Refuses what a cache says already, or has no meaning with it.
HEED_NOINLINE inline void check_cache_options(heed::detail::checker& check, const heed::detail::mask_parts& mask,
                                              const heed::detail::alignment_parts& align) {
  check.require(!mask.has(mask.key_lengths), "key_lengths in the mask of decode: the cache has its lengths");
  check.require(!mask.has(mask.packed), "packed in the mask of decode: sequences of a cache are batch entries");
  check.require(!align.top_left, "align is top_left, decode takes bottom_right or first_place");
  check.require(!align.end_of_lengths, "align is end_of_lengths, decode takes bottom_right (the same) or first_place");
}

// All of a cache that a call with it needs
template <class T>
void check_cache_call(heed::detail::checker& check, const attention<T>& p, const cache_shapes& cache) {
  check_cache(check, cache);
  check_cache_options(check, p.mask, p.align);
  const heed::detail::named_tensor o("o", p.o), lse("lse", p.lse);
  check_apart(check, {&o, &lse}, cache.own);
  if (cache.has_prefix) check_apart(check, {&o, &lse}, cache.prefix);
}

// q and o of a call with a cache
template <class T> struct query_rows {
  heed::detail::input_tensor q;
  heed::detail::output_tensor o;
  const tile::row_format<T>*q_format, *o_format;
  unsigned one_axis;
};
template <class Q, class O> HEED_INLINE query_rows<acc_of<Q>> query_rows_of(const Q& q, O& o) {
  using T = acc_of<Q>;
  using heed::detail::value_t;
  using four = tensor_view<T, 4>;  // k and v of a cache
  const tensor_view<const value_t<O>, 4> out(o);
  const tensor_view<value_t<O>, 4> written(const_cast<value_t<O>*>(out.data()), out.extents(), out.strides());
  return {heed::detail::input_tensor(tensor_view<const value_t<Q>, 4>(q)), heed::detail::output_tensor(written),
          &tile::row_format_of<T, value_t<Q>>, &tile::row_format_of<T, value_t<O>>,
          heed::detail::one_axis<Q, four, four, O>};
}

// The tensors of a call with a cache: k and v count tokens, up to those of the longest sequence.
template <class T, class View>
tile::call_rows<T> rows_of_cache(const query_rows<T>& x, const View& cache, index_t longest) {
  using C = heed::detail::cache_element_t<View>;
  const kv_cache_view<C>& own = heed::detail::own_tokens(cache);
  const auto tokens = [&](const tensor_view<const C, 4>& t) {
    return heed::detail::input_tensor(t).with_extents({x.q.extent(0), t.extent(1), longest, t.extent(3)});
  };
  return {{x.q, tokens(own.k), tokens(own.v), x.o, x.one_axis}, x.q_format, &tile::row_format_of<T, C>, x.o_format};
}
template <class T, class View>
softmax_rows<T> softmax_rows_of_cache(const query_rows<T>& x, const View& cache, const cache_shapes& shapes) {
  using C = heed::detail::cache_element_t<View>;
  softmax_rows<T> rows{rows_of_cache(x, cache, shapes.longest()), &few_rows_format_of<T, C>, nullptr};
  const index_t kv_heads = std::max<index_t>(rows.k.extent(1), 1);
  const index_t sharing = rows.q.extent(2) * std::max<index_t>(rows.q.extent(1) / kv_heads, 1);
  if constexpr (std::is_same_v<C, bf16_t>)
    if (sharing > 4 && tile::has_fast_dots() && rows.k.extent(3) % 32 == 0 && rows.v.extent(3) % 32 == 0)
      rows.few_dots = few_rows_dots_of<T, C>();
  return rows;
}
template <class C> HEED_INLINE token_rows rows_of_tokens(const kv_cache_view<C>& x) {
  return {x.layout,
          x.k.extent(2),
          std::max<index_t>(x.keep_first, 0),
          x.blocks,
          heed::detail::with_canonical_strides(x.k_scale),
          heed::detail::with_canonical_strides(x.v_scale)};
}
template <class T, class View>
HEED_INLINE void set_cache(attention<T>& p, const View& cache, const cache_shapes& shapes) {
  const auto& own = heed::detail::own_tokens(cache);
  p.lengths = &own.lengths, p.oldest = &own.oldest, p.cache = rows_of_tokens(own);
  if (const auto* const prefix = heed::detail::prefix_tokens(cache); prefix != nullptr)
    p.prefix = {heed::detail::input_tensor(prefix->k), heed::detail::input_tensor(prefix->v), rows_of_tokens(*prefix),
                shapes.prefix_length()};
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
