// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the kernels with softmax weights are asked: tensors, mask, places and score mods of one call.

#include <algorithm>
#include <limits>

#include "heed/core/alignment.hpp"
#include "heed/core/call.hpp"
#include "heed/core/check.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/message.hpp"
#include "heed/pairwise/few_rows_dots.hpp"
#include "heed/pairwise/few_rows_format.hpp"
#include "heed/pairwise/score_mods.hpp"
#include "heed/tile/online_softmax.hpp"
#include "heed/tile/row_format.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

using heed::detail::sequence, heed::detail::token_rows;

// Rows of K and V that lie side by side, bytes apart, and their scales, or null
struct kv_piece {
  const std::byte *k, *v;
  index_t k_row, v_row, count;
  const float *k_scale, *v_scale;
  index_t k_scale_row, v_scale_row;
};
HEED_INLINE kv_piece piece_of(const heed::detail::input_tensor& k, const heed::detail::input_tensor& v,
                              const token_rows& rows, const token_rows::place& at, index_t kv_head) {
  kv_piece x{k.row(at.entry, kv_head, at.row),
             v.row(at.entry, kv_head, at.row),
             k.row_bytes(),
             v.row_bytes(),
             at.count,
             nullptr,
             nullptr,
             0,
             0};
  if (rows.k_scale.data() == nullptr) return x;
  x.k_scale = &rows.k_scale(at.entry, kv_head, at.row), x.k_scale_row = rows.k_scale.stride(2);
  x.v_scale = &rows.v_scale(at.entry, kv_head, at.row), x.v_scale_row = rows.v_scale.stride(2);
  return x;
}

// The first tokens of all sequences, in a cache of one sequence
struct shared_prefix {
  heed::detail::input_tensor k{tensor_view<const float, 4>()}, v{tensor_view<const float, 4>()};
  token_rows rows = {};
  index_t length = 0;
};

// One call. All arithmetic is in Acc, whatever the tensors hold.
template <class Acc> struct attention : heed::detail::tensors {
  template <class Options>
  HEED_INLINE attention(const Options& opt, const tile::call_rows<Acc>& x)
      : heed::detail::tensors(opt.mask, x),
        q_format(x.q_format),
        kv_format(x.kv_format),
        o_format(x.o_format),
        lse(heed::detail::with_canonical_strides(opt.lse)),
        align(heed::detail::parts(opt.align)),
        scale(opt.scale ? *opt.scale : 0),
        softcap(opt.softcap),
        heads(query_heads == 0 ? 0 : std::max(query_heads, kv_heads)),
        group(kv_heads > 0 && heads > kv_heads ? heads / kv_heads : 1),
        repeat(query_heads > 0 && heads > query_heads ? heads / query_heads : 1),
        scores(make_score_mod_rules<Acc>(opt, d)) {}

  bool calls_functions() const { return scores.has_function() || mask.has(mask.visible_if); }
  index_t rows(const sequence& s) const { return s.queries * group; }  // queries that share keys and values

  // Keys of a cache are counted by its lengths, which may differ from head to head.
  sequence sequence_at(index_t number, index_t kv_head = 0) const {
    sequence s = heed::detail::tensors::sequence_at(number);
    if (lengths != nullptr) s.keys = prefix.length + lengths->at(number, kv_head);
    return s;
  }
  // Tokens [first, end) that a ring has overwritten: as if they did not exist
  struct lost_tokens {
    index_t first = 0, end = 0;
  };
  lost_tokens lost(const sequence& s, index_t kv_head) const {
    if (cache.layout != cache_layout::ring) return {};
    index_t end = cache.oldest(s.keys - prefix.length);
    if (oldest->size() > 0) end = std::max<index_t>(end, oldest->at(s.number, kv_head));
    if (end <= cache.keep_first) return {};
    return {prefix.length + cache.keep_first, prefix.length + end};
  }
  // Where the rows of K and V of keys from j on are
  HEED_INLINE kv_piece piece_at(const sequence& s, index_t kv_head, index_t j) const {
    if (!in_pieces()) return piece_of(k, v, cache, {s.batch, s.first_key + j, s.keys - j}, kv_head);
    if (j >= prefix.length) return piece_of(k, v, cache, cache.at(s.batch, j - prefix.length), kv_head);
    token_rows::place at = prefix.rows.at(0, j);
    at.count = std::min(at.count, prefix.length - j);
    return piece_of(prefix.k, prefix.v, prefix.rows, at, kv_head);
  }
  // Whether a tile of keys may lie in pieces
  bool in_pieces() const { return cache.layout != cache_layout::contiguous || prefix.length > 0; }
  bool scaled() const { return kv_format->element == 1; }  // std::int8_t

  // Of the longest sequence and one head, as far as shapes say
  double key_value_bytes() const {
    return static_cast<double>(kv_format->element) * static_cast<double>(k.extent(2)) * static_cast<double>(d + e);
  }

  // head: of o
  HEED_INLINE const std::byte* query(const sequence& s, index_t head, index_t i) const {
    return heed::detail::tensors::query(s, repeat == 1 ? head : head / repeat, i);
  }
  HEED_INLINE Acc* lse_at(const sequence& s, index_t head, index_t i) const {
    return &lse(s.batch, head, s.first_query + i);
  }

  const tile::row_format<Acc>*q_format, *kv_format, *o_format;
  tensor_view<Acc, 3> lse;
  const heed::detail::alignment_parts& align;
  double scale, softcap;  // as given; scale 0 where none is
  index_t heads;          // of o, max(query_heads, kv_heads)
  index_t group;          // heads of o that share a key/value head
  index_t repeat;         // heads of o that share a query head
  score_mod_rules<Acc> scores;
  const cache_lengths *lengths = nullptr, *oldest = nullptr;  // of a cache, else null
  shared_prefix prefix = {};                                  // in front of the cache's own tokens
  token_rows cache = {};  // k.extent(2) counts tokens of the longest sequence, not rows
};

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
  if (places && p.heads > 0)
    heed::detail::name_places(text, p.sequences(), [&](index_t number) {
      const sequence s = p.sequence_at(number);
      return first_place(p.align, p.mask, number, s.queries, s.keys);
    });
}

template <class T> struct unit_driver;

// The tensors of a call that softmax's drivers run
template <class T> struct softmax_rows : tile::call_rows<T> {
  const few_rows_format<T>* few_format;
  const unit_driver<T>* on_unit;               // null where the tensors are not for a matrix unit
  const few_rows_dots<T>* few_dots = nullptr;  // null: rows of 16 bits are widened
};

// What a row starts from: nothing, or the sink
template <class T> tile::row_state<T> init_row(const heed::detail::per_head_view& sink_logits, index_t head) {
  constexpr double none = -std::numeric_limits<double>::infinity();
  const double sink = sink_logits.set() ? sink_logits.at(head) : none;
  if (heed::detail::equals(sink, none)) return {};
  return {finite_factor<T>(sink, std::numbers::log2e), T(1)};
}

template <class T> struct softmax_problem : attention<T> {
  template <class Options>
  HEED_INLINE softmax_problem(const Options& opt, const softmax_rows<T>& x)
      : attention<T>(opt, x),
        few_format(x.few_format),
        few_dots(x.few_dots),
        on_unit(x.on_unit),
        sink_logits(opt.sink_logits) {}

  HEED_INLINE tile::row_state<T> init_row(index_t head) const { return pairwise::init_row<T>(sink_logits, head); }

  const few_rows_format<T>* few_format;
  const few_rows_dots<T>* few_dots;  // null: rows of 16 bits are widened
  const unit_driver<T>* on_unit;     // null: many rows run in the float engine
  heed::detail::per_head_view sink_logits;
};

template <class T> void name_options(heed::detail::message& text, const softmax_problem<T>& p) {
  name_options(text, static_cast<const attention<T>&>(p));
  if (p.sink_logits.set()) text << "; sums start from sink_logits";
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
