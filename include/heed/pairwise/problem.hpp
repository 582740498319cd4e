// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the kernels with softmax weights are asked: tensors, mask, places and score mods of one call.

#include <algorithm>
#include <limits>

#include "heed/core/alignment.hpp"
#include "heed/core/check.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/message.hpp"
#include "heed/pairwise/score_mods.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// One batch entry, or one of the sequences that packed() cuts the only batch entry into.
struct sequence : sequence_origin {
  index_t queries = 0, keys = 0;
};

// The tensors hold numbers of type Storage; all arithmetic is in Acc.
template <class Acc, class Storage = Acc> struct attention {
  tensor_view<const Storage, 4> q, k, v;
  tensor_view<Storage, 4> o;
  tensor_view<Acc, 3> lse;
  const heed::detail::mask_parts& mask;
  const heed::detail::alignment_parts& align;
  double scale = 0, softcap = 0;                     // as given; scale 0 where none is
  index_t query_heads = 0, kv_heads = 0, heads = 0;  // heads: of o, max(query_heads, kv_heads)
  index_t group = 1;                                 // compute heads that share a key/value head
  index_t repeat = 1;                                // compute heads that share a query head
  index_t d = 0, e = 0;
  score_mod_rules<Acc> scores = {};
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
    return double{sizeof(Storage)} * static_cast<double>(k.extent(2)) * static_cast<double>(d + e);
  }

  HEED_INLINE const Storage* query(const sequence& s, index_t head, index_t i) const {
    return &q(s.batch, repeat == 1 ? head : head / repeat, s.first_query + i, 0);
  }
  HEED_INLINE Storage* output(const sequence& s, index_t head, index_t i) const {
    return &o(s.batch, head, s.first_query + i, 0);
  }
  HEED_INLINE const Storage* key(const sequence& s, index_t kv_head, index_t j) const {
    return &k(s.batch, kv_head, s.first_key + j, 0);
  }
  HEED_INLINE const Storage* value(const sequence& s, index_t kv_head, index_t j) const {
    return &v(s.batch, kv_head, s.first_key + j, 0);
  }
  HEED_INLINE Acc* lse_at(const sequence& s, index_t head, index_t i) const {
    return &lse(s.batch, head, s.first_query + i);
  }
};

template <class T, class Options>
attention<T> make_attention(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                            tensor_view<T, 4> o, const Options& opt, unsigned one_axis = 0) {
  using heed::detail::with_canonical_strides;
  attention<T> p{.q = with_canonical_strides(q),
                 .k = with_canonical_strides(k),
                 .v = with_canonical_strides(v),
                 .o = with_canonical_strides(o),
                 .lse = with_canonical_strides(opt.lse),
                 .mask = heed::detail::parts(opt.mask),
                 .align = heed::detail::parts(opt.align),
                 .scale = opt.scale ? *opt.scale : 0,
                 .softcap = opt.softcap};
  p.query_heads = q.extent(1), p.kv_heads = k.extent(1);
  p.heads = p.query_heads == 0 ? 0 : std::max(p.query_heads, p.kv_heads);
  p.d = q.extent(3), p.e = v.extent(3);
  p.group = p.kv_heads > 0 && p.query_heads > p.kv_heads ? p.query_heads / p.kv_heads : 1;
  p.repeat = p.query_heads > 0 && p.kv_heads > p.query_heads ? p.kv_heads / p.query_heads : 1;
  p.scores = make_score_mod_rules<T>(opt, p.d);
  p.one_axis = one_axis;
  return p;
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

template <class T> struct softmax_problem : attention<T> {
  heed::detail::per_head_view sink_logits = {};

  // What a row starts from: nothing, or the sink
  HEED_INLINE tile::row_state<T> init_row(index_t head) const {
    constexpr double none = -std::numeric_limits<double>::infinity();
    const double sink = sink_logits.set() ? sink_logits.at(head) : none;
    if (heed::detail::equals(sink, none)) return {};
    return {finite_factor<T>(sink, std::numbers::log2e), T(1)};
  }
};

template <class T, class Options>
softmax_problem<T> make_softmax_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                                        tensor_view<T, 4> o, const Options& opt, unsigned one_axis = 0) {
  return {make_attention<T>(q, k, v, o, opt, one_axis), opt.sink_logits};
}

template <class T> void name_options(heed::detail::message& text, const softmax_problem<T>& p) {
  name_options(text, static_cast<const attention<T>&>(p));
  if (p.sink_logits.set()) text << "; sums start from sink_logits";
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
