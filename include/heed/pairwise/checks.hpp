// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The checks that the kernels with a score for every pair share.

#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/core/check.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// A call without its element types
struct attention_shapes : heed::detail::call_shapes {
  template <class T>
  explicit attention_shapes(const attention<T>& p)
      : call_shapes(p),
        lse("lse", p.lse),
        bias("bias", p.scores.bias),
        align(p.align),
        slopes(p.scores.slopes),
        scale(p.scale),
        softcap(p.softcap),
        heads(p.heads) {
    cached = p.lengths != nullptr;
  }

  // How many keys a tensor with one number per key needs: with a cache it may have more.
  index_t keys_for(const heed::detail::named_tensor& x, int axis) const {
    return cached ? std::max(sequences.keys, x.extent(axis)) : sequences.keys;
  }

  heed::detail::named_tensor lse, bias;
  const heed::detail::alignment_parts& align;
  const heed::detail::per_head_view& slopes;
  double scale, softcap;
  index_t heads;
};

inline void check_mask(heed::detail::checker& check, const attention_shapes& p) {
  using kind = heed::detail::mask_parts;
  const heed::detail::sequence_counts& s = p.sequences;
  const kind& mask = s.mask;
  check.require(mask.conflict == nullptr, "%", mask.conflict != nullptr ? mask.conflict : "");
  heed::detail::check_packed(check, s);
  if (!check.ok()) return;
  if (mask.has(kind::window)) {
    check.require(mask.left >= -1, "window: left is %, must be at least -1", mask.left);
    check.require(mask.right >= -1, "window: right is %, must be at least -1", mask.right);
    check.require(mask.keep_first >= 0, "window: keep_first is %, must be at least 0", mask.keep_first);
  }
  if (mask.has(kind::key_lengths)) heed::detail::check_lengths(check, "key_lengths", mask.lengths, s);
  if (mask.has(kind::prefix_lm)) {
    heed::detail::sequence_counts prefix = s;
    if (p.cached) prefix.keys = std::numeric_limits<std::int32_t>::max();  // it may be longer than what is cached yet
    heed::detail::check_lengths(check, "prefix_lm", mask.prefix, prefix);
  }
  if (mask.has(kind::segments)) {
    const heed::detail::named_tensor query("segments query_ids", mask.query_ids), key("segments key_ids", mask.key_ids);
    const index_t queries[] = {s.batch, s.queries}, keys[] = {s.batch, p.keys_for(key, 1)};
    check.tensor(query, false), check.tensor(key, false);
    check.extents(query, queries, false), check.extents(key, keys, false);
  }
  if (mask.has(kind::keep)) {
    const heed::detail::named_tensor keep("keep", mask.keep_tensor);
    const index_t pairs[] = {s.batch, p.heads, s.queries, p.keys_for(keep, 3)};
    check.tensor(keep, false), check.extents(keep, pairs, true);
  }
}

// Numbers per head: how many, and each at least `least` and less than infinity
inline void check_per_head(heed::detail::checker& check, const char* name, const heed::detail::per_head_view& x,
                           const attention_shapes& p, double least) {
  if (!x.set()) return;
  if (!p.o_is_read) check.distinct(p.o, {name, x}), check.distinct(p.lse, {name, x});
  check.require(!x.one_each() || x.size() == p.heads, "% has % entries, o has % heads", name, x.size(), p.heads);
  for (index_t h = 0; check.ok() && h < (x.one_each() ? p.heads : 1); ++h)
    check.require(x.at(h) >= least && x.at(h) <= std::numeric_limits<double>::max(),
                  "%[%] is %, must be % or more, and less than infinity", name, h, x.at(h), least);
}

// All that the options of these kernels have in common. O(1) in the tensors, O(size) in the arrays of lengths; reads no
// tensor data.
inline void check_attention(heed::detail::checker& check, const attention_shapes& p) {
  heed::detail::check_tensors(check, p);
  const index_t fewer = std::min(p.q.extent(1), p.k.extent(1));
  check.require(p.heads == 0 || (fewer > 0 && p.heads % fewer == 0),
                "q has % heads, k has %, one must divide the other", p.q.extent(1), p.k.extent(1));
  check.require(p.o.extent(1) == p.heads, "o has heads %, needs % (the larger of q's and k's)", p.o.extent(1), p.heads);
  if (p.lse.data != nullptr) {
    check.tensor(p.lse, false);
    check.equal(p.lse, p.o, 0, "batch"), check.equal(p.lse, p.o, 1, "heads"), check.equal(p.lse, p.o, 2, "queries");
    if (!p.o_is_read) check.written(p.lse), check.distinct({&p.lse}, {&p.q, &p.k, &p.v, &p.o});
  }
  check.require(!std::isnan(p.scale), "scale is NaN, must be a number");
  check.require(p.softcap >= 0, "softcap is %, must be at least 0", p.softcap);
  if (!check.ok()) return;
  check_mask(check, p);
  heed::detail::check_alignment(check, p.align, p.sequences);
  check_per_head(check, "alibi_slopes", p.slopes, p, 0);
  if (p.bias.data == nullptr) return;
  const index_t pairs[] = {p.q.extent(0), p.heads, p.q.extent(2), p.keys_for(p.bias, 3)};
  check.tensor(p.bias, false), check.extents(p.bias, pairs, true);
  if (p.o_is_read) return;
  check.distinct(p.o, p.bias);
  if (p.lse.data != nullptr) check.distinct(p.lse, p.bias);
}

template <class T> void check_softmax(heed::detail::checker& check, const softmax_problem<T>& p) {
  const attention_shapes shapes(p);
  check_attention(check, shapes);
  if (check.ok()) check_per_head(check, "sink_logits", p.sink_logits, shapes, -std::numeric_limits<double>::infinity());
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
