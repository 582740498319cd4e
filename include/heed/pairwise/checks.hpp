// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The checks of a call of a kernel with softmax weights.

#include <cmath>
#include <limits>

#include "heed/core/check.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

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

template <class T> void check_softmax(heed::detail::checker& check, const softmax_problem<T>& p) {
  check_attention(check, p);
  if (check.ok()) check_per_head(check, "sink_logits", p.sink_logits, p, -std::numeric_limits<double>::infinity());
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
