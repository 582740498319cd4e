// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the kernels with softmax weights are asked: tensors, mask, places and score steps of one call, and their checks.

#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/core/alignment.hpp"
#include "heed/core/check.hpp"
#include "heed/core/mask.hpp"
#include "heed/tile/scores.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// One batch entry, or one of the sequences that packed() cuts the only batch entry into.
struct sequence : sequence_origin {
  index_t queries = 0, keys = 0;
};

template <class T> struct attention {
  tensor_view<const T, 4> q, k, v;
  tensor_view<T, 4> o;
  tensor_view<T, 3> lse;
  const heed::detail::mask_parts& mask;
  const heed::detail::alignment_parts& align;
  double scale = 0, softcap = 0;                     // as given; scale 0 where none is
  index_t query_heads = 0, kv_heads = 0, heads = 0;  // heads: of o, max(query_heads, kv_heads)
  index_t group = 1;                                 // compute heads that share a key/value head
  index_t repeat = 1;                                // compute heads that share a query head
  index_t d = 0, e = 0;
  score_rules<T> scores = {};
  unsigned one_axis = 0;  // of q, k, v, o: see heed::detail::one_axis

  bool packed() const { return mask.has(mask.packed); }
  bool calls_functions() const { return scores.has_function() || mask.has(mask.visible_if); }
  index_t sequences() const {
    return packed() ? std::max<index_t>(0, static_cast<index_t>(mask.query_offsets.size()) - 1) : q.extent(0);
  }
  sequence sequence_at(index_t number) const {
    if (!packed()) return {{number, number, 0, 0}, q.extent(2), k.extent(2)};
    const auto n = static_cast<std::size_t>(number);
    const index_t query = mask.query_offsets[n], key = mask.key_offsets[n];
    return {{number, 0, query, key}, mask.query_offsets[n + 1] - query, mask.key_offsets[n + 1] - key};
  }
  index_t rows(const sequence& s) const { return s.queries * group; }  // queries that share keys and values

  // Of the longest sequence and one head, as far as shapes say
  double key_value_bytes() const {
    return double{sizeof(T)} * static_cast<double>(k.extent(2)) * static_cast<double>(d + e);
  }

  HEED_INLINE const T* query(const sequence& s, index_t head, index_t i) const {
    const index_t query_head = repeat == 1 ? head : head / repeat;
    return q.data() + s.batch * q.stride(0) + query_head * q.stride(1) + (s.first_query + i) * q.stride(2);
  }
  HEED_INLINE T* output(const sequence& s, index_t head, index_t i) const {
    return o.data() + s.batch * o.stride(0) + head * o.stride(1) + (s.first_query + i) * o.stride(2);
  }
  HEED_INLINE const T* key(const sequence& s, index_t kv_head, index_t j) const {
    return k.data() + s.batch * k.stride(0) + kv_head * k.stride(1) + (s.first_key + j) * k.stride(2);
  }
  HEED_INLINE const T* value(const sequence& s, index_t kv_head, index_t j) const {
    return v.data() + s.batch * v.stride(0) + kv_head * v.stride(1) + (s.first_key + j) * v.stride(2);
  }
  HEED_INLINE T* lse_at(const sequence& s, index_t head, index_t i) const {
    return lse.data() + s.batch * lse.stride(0) + head * lse.stride(1) + (s.first_query + i) * lse.stride(2);
  }
};

template <class T, class Options>
attention<T> make_attention(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                            tensor_view<T, 4> o, const Options& opt, unsigned one_axis = 0) {
  using heed::detail::settled;
  attention<T> p{.q = settled(q),
                 .k = settled(k),
                 .v = settled(v),
                 .o = settled(o),
                 .lse = settled(opt.lse),
                 .mask = heed::detail::parts(opt.mask),
                 .align = heed::detail::parts(opt.align),
                 .scale = opt.scale ? *opt.scale : 0,
                 .softcap = opt.softcap};
  p.query_heads = q.extent(1), p.kv_heads = k.extent(1);
  p.heads = p.query_heads == 0 ? 0 : std::max(p.query_heads, p.kv_heads);
  p.d = q.extent(3), p.e = v.extent(3);
  p.group = p.kv_heads > 0 && p.query_heads > p.kv_heads ? p.query_heads / p.kv_heads : 1;
  p.repeat = p.query_heads > 0 && p.kv_heads > p.query_heads ? p.kv_heads / p.query_heads : 1;
  p.scores = make_score_rules<T>(opt, p.d);
  p.one_axis = one_axis;
  return p;
}

template <class Q, class... Others> constexpr bool attention_types() {
  using T = heed::detail::value_t<Q>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "heed: this kernel takes float or double (16-bit storage is planned)");
  static_assert((std::is_same_v<T, heed::detail::value_t<Others>> && ...),
                "heed: q, k, v and the other tensors of a call have one element type");
  return true;
}
template <class... Tensors> constexpr bool attention_storage() {
  static_assert((heed::detail::tensor_argument<Tensors>() && ...));
  return attention_types<Tensors...>();
}

// o of a plan is not written, whatever the caller's constness
template <class T, viewable O> tensor_view<T, 4> as_output(const O& o) {
  const tensor_view<const T, 4> x(o);
  return {const_cast<T*>(x.data()),
          {x.extent(0), x.extent(1), x.extent(2), x.extent(3)},
          {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}

// For the `why` of a plan: which options change the scores, and which cut tiles.
template <class T> void name_options(heed::detail::message& text, const attention<T>& p) {
  using kind = heed::detail::mask_parts;
  const char* before = "; scores changed by ";
  const auto name = [&](bool holds, const char* option) {
    if (holds) text << before << option, before = ", ";
  };
  name(!heed::detail::equals(p.scores.cap, T(0)), "softcap"), name(p.scores.slopes.set(), "alibi_slopes");
  name(p.scores.has_bias(), "bias"), name(p.scores.has_function(), "score");
  before = "; tiles cut by ";
  name(p.mask.has(kind::causal), "causal"), name(p.mask.has(kind::window), "window");
  name(p.mask.has(kind::key_lengths), "key_lengths"), name(p.mask.has(kind::prefix_lm), "prefix_lm");
  name(p.mask.has(kind::segments), "segments"), name(p.mask.has(kind::keep), "keep");
  if (p.mask.has(kind::visible_if)) text << "; every pair tested by visible_if";
  const bool places = p.mask.has(kind::causal) || p.mask.has(kind::window) || p.mask.has(kind::prefix_lm) ||
                      p.scores.slopes.set() || p.calls_functions();
  if (places)
    heed::detail::name_places(text, p.sequences(), [&](index_t number) {
      const sequence s = p.sequence_at(number);
      return first_place(p.align, p.mask, number, s.queries, s.keys);
    });
}

// name[b] in [0, keys of the sequence] for every sequence
template <class T>
void check_lengths(heed::detail::checker& check, const char* name, lengths n, const attention<T>& p) {
  const char* const of = p.packed() ? "packed" : "q";
  check.require(static_cast<index_t>(n.size()) == p.sequences(), name, " has ", n.size(), " entries, ", of, " has ",
                p.sequences(), p.packed() ? " sequences" : " in its batch");
  for (std::size_t b = 0; check.ok() && b < n.size(); ++b) {
    const index_t keys = p.sequence_at(static_cast<index_t>(b)).keys;
    check.require(n[b] >= 0 && n[b] <= keys, name, "[", b, "] is ", n[b], ", must be 0 to ", keys, " (the keys of ",
                  p.packed() ? "its sequence)" : "k)");
  }
}

template <class T> void check_mask(heed::detail::checker& check, const attention<T>& p) {
  using kind = heed::detail::mask_parts;
  const kind& mask = p.mask;
  const index_t batch = p.q.extent(0), queries = p.q.extent(2), keys = p.k.extent(2);
  check.require(mask.conflict == nullptr, mask.conflict != nullptr ? mask.conflict : "");
  if (mask.has(kind::packed)) {
    check.require(batch == 1, "packed: q has batch ", batch, ", must be 1");
    heed::detail::check_offsets(check, "packed query_offsets", mask.query_offsets, queries, true);
    heed::detail::check_offsets(check, "packed key_offsets", mask.key_offsets, keys, false);
    check.require(mask.query_offsets.size() == mask.key_offsets.size(), "packed: query_offsets has ",
                  mask.query_offsets.size(), " entries, key_offsets has ", mask.key_offsets.size());
  }
  if (!check.ok()) return;
  if (mask.has(kind::window)) {
    check.require(mask.left >= -1, "window: left is ", mask.left, ", must be at least -1");
    check.require(mask.right >= -1, "window: right is ", mask.right, ", must be at least -1");
    check.require(mask.keep_first >= 0, "window: keep_first is ", mask.keep_first, ", must be at least 0");
  }
  if (mask.has(kind::key_lengths)) check_lengths(check, "key_lengths", mask.lengths, p);
  if (mask.has(kind::prefix_lm)) check_lengths(check, "prefix_lm", mask.prefix, p);
  if (mask.has(kind::segments)) {
    check.tensor("segments query_ids", mask.query_ids, false), check.tensor("segments key_ids", mask.key_ids, false);
    heed::detail::check_extents(check, "segments query_ids", mask.query_ids, {batch, queries}, false);
    heed::detail::check_extents(check, "segments key_ids", mask.key_ids, {batch, keys}, false);
  }
  if (mask.has(kind::keep)) {
    check.tensor("keep", mask.keep_tensor, false);
    heed::detail::check_extents(check, "keep", mask.keep_tensor, {batch, p.heads, queries, keys}, true);
  }
}

// Numbers per head: how many, and each finite or -inf and at least `least`
template <class T>
void check_per_head(heed::detail::checker& check, const char* name, const heed::detail::per_head_view& x,
                    const attention<T>& p, double least) {
  if (!x.set()) return;
  check.distinct("o", p.o, name, x), check.distinct("lse", p.lse, name, x);
  check.require(!x.one_each() || x.size() == p.heads, name, " has ", x.size(), " entries, o has ", p.heads, " heads");
  for (index_t h = 0; check.ok() && h < (x.one_each() ? p.heads : 1); ++h)
    check.require(x.at(h) >= least && x.at(h) <= std::numeric_limits<double>::max(), name, "[", h, "] is ", x.at(h),
                  ", must be ", least, " or more, and less than infinity");
}

// All that the options of these kernels have in common. O(1) in the tensors, O(size) in the arrays of lengths; reads no
// tensor data.
template <class T> void check_attention(heed::detail::checker& check, const attention<T>& p) {
  heed::detail::check_one_axis(check, p);
  check.tensor("q", p.q, true), check.tensor("k", p.k, true), check.tensor("v", p.v, true),
      check.tensor("o", p.o, true);
  check.written("o", p.o);
  check.equal("q", p.q.extent(0), "k", p.k.extent(0), "batch");
  check.equal("q", p.q.extent(0), "v", p.v.extent(0), "batch");
  check.equal("q", p.q.extent(0), "o", p.o.extent(0), "batch");
  check.equal("k", p.k.extent(1), "v", p.v.extent(1), "heads");
  check.equal("k", p.k.extent(2), "v", p.v.extent(2), "keys");
  check.equal("q", p.q.extent(2), "o", p.o.extent(2), "queries");
  check.require(p.d > 0, "q has head dim ", p.d, ", must be at least 1");
  check.require(p.e > 0, "v has head dim ", p.e, ", must be at least 1");
  check.equal("q", p.q.extent(3), "k", p.k.extent(3), "head dim");
  check.equal("v", p.v.extent(3), "o", p.o.extent(3), "head dim");
  const index_t fewer = std::min(p.query_heads, p.kv_heads);
  check.require(p.heads == 0 || (fewer > 0 && p.heads % fewer == 0), "q has ", p.query_heads, " heads, k has ",
                p.kv_heads, ", one must divide the other");
  const double rows =
      static_cast<double>(p.q.extent(0)) * static_cast<double>(p.heads) * static_cast<double>(p.q.extent(2));
  check.require(rows < 9e18, "q has ", rows, " rows in all heads, must have less than 9e18");
  check.require(p.o.extent(1) == p.heads, "o has heads ", p.o.extent(1), ", needs ", p.heads,
                " (the larger of q's and k's)");
  check.distinct("o", p.o, "q", p.q), check.distinct("o", p.o, "k", p.k), check.distinct("o", p.o, "v", p.v);
  if (p.lse.data() != nullptr) {
    const auto& lse = p.lse;
    check.tensor("lse", lse, false), check.written("lse", lse);
    check.equal("lse", lse.extent(0), "o", p.o.extent(0), "batch");
    check.equal("lse", lse.extent(1), "o", p.o.extent(1), "heads");
    check.equal("lse", lse.extent(2), "o", p.o.extent(2), "queries");
    check.distinct("lse", lse, "q", p.q), check.distinct("lse", lse, "k", p.k), check.distinct("lse", lse, "v", p.v),
        check.distinct("lse", lse, "o", p.o);
  }
  check.require(!std::isnan(p.scale), "scale is NaN, must be a number");
  check.require(p.softcap >= 0, "softcap is ", p.softcap, ", must be at least 0");
  if (!check.ok()) return;
  check_mask(check, p);
  if (p.align.has_first)
    check.require(static_cast<index_t>(p.align.first.size()) == p.sequences(), "first_place has ", p.align.first.size(),
                  " entries, ", p.packed() ? "packed has " : "q has batch ", p.sequences());
  heed::detail::check_ends(check, p.align, p.mask);
  check_per_head(check, "alibi_slopes", p.scores.slopes, p, 0);
  if (p.scores.bias.data() != nullptr) {
    check.tensor("bias", p.scores.bias, false);
    heed::detail::check_extents(check, "bias", p.scores.bias, {p.q.extent(0), p.heads, p.q.extent(2), p.k.extent(2)},
                                true);
    check.distinct("o", p.o, "bias", p.scores.bias);
    if (p.lse.data() != nullptr) check.distinct("lse", p.lse, "bias", p.scores.bias);
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
