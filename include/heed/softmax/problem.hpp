// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What one call computes: its views, the sizes derived from them, and the checks that they fit together.

#include <cmath>
#include <cstdint>
#include <limits>

#include "heed/core/message.hpp"
#include "heed/core/view.hpp"
#include "heed/softmax/options.hpp"
#include "heed/tile/pair_mask.hpp"
#include "heed/tile/positions.hpp"
#include "heed/tile/scores.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

// One batch entry, or one of the pieces that packed() cuts the only batch entry into.
struct sequence : tile::sequence_origin {
  index_t queries = 0, keys = 0;
};

template <class T> struct problem {
  tensor_view<const T, 4> q, k, v;
  tensor_view<T, 4> o;
  const options<T>& opt;
  const heed::detail::mask_parts& mask;
  index_t query_heads = 0, kv_heads = 0, heads = 0;  // heads: of o, max(query_heads, kv_heads)
  index_t group = 1;                                 // compute heads that share a key/value head
  index_t d = 0, e = 0;
  tile::score_rules<T> scores = {};

  bool packed() const { return mask.has(mask.packed); }
  bool calls_functions() const { return scores.has_function() || mask.has(mask.visible_if); }
  bool asks_pairs() const { return tile::pair_mask<T>::asked_by(mask); }
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

  // Compute head c reads query head c / (heads / query_heads)
  HEED_INLINE const T* query(const sequence& s, index_t head, index_t i) const {
    return q.data() + s.batch * q.stride(0) + head / (heads / query_heads) * q.stride(1) +
           (s.first_query + i) * q.stride(2);
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
  HEED_INLINE T* lse(const sequence& s, index_t head, index_t i) const {
    const auto& x = opt.lse;
    return x.data() + s.batch * x.stride(0) + head * x.stride(1) + (s.first_query + i) * x.stride(2);
  }

  // What the online softmax of a row starts from: nothing, or the sink. Units of log 2.
  HEED_INLINE void start(index_t head, T& top, T& sum) const {
    constexpr double none = -std::numeric_limits<double>::infinity();
    const double sink = opt.sink_logits.set() ? opt.sink_logits.at(head) : none;
    top = sink == none ? std::numeric_limits<T>::lowest() : tile::finite_factor<T>(sink, tile::log2e);
    sum = sink == none ? T(0) : T(1);
  }
};

template <class T>
problem<T> make_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                        tensor_view<T, 4> o, const options<T>& opt) {
  problem<T> p{.q = q, .k = k, .v = v, .o = o, .opt = opt, .mask = heed::detail::parts(opt.mask)};
  p.query_heads = q.extent(1), p.kv_heads = k.extent(1);
  p.heads = p.query_heads == 0 ? 0 : std::max(p.query_heads, p.kv_heads);
  p.d = q.extent(3), p.e = v.extent(3);
  p.group = p.kv_heads > 0 && p.query_heads > p.kv_heads ? p.query_heads / p.kv_heads : 1;
  p.scores = tile::make_score_rules<T>(opt, p.d);
  return p;
}

// The first thing that is wrong with a call, written into `problem` as text; true if nothing is.
class checker {
 public:
  explicit checker(heed::detail::problem_text& text) : text_(text) {}

  template <class... Parts> HEED_INLINE bool require(bool holds, Parts... otherwise) {
    if (!holds && ok_) [[unlikely]] {
      heed::detail::write(text_, otherwise...);
      ok_ = false;
    }
    return ok_;
  }
  bool ok() const { return ok_; }

  template <class T, int Rank> void tensor(const char* name, const tensor_view<T, Rank>& x, bool unit_last) {
    constexpr index_t most = std::numeric_limits<std::int32_t>::max();
    for (int axis = 0; axis < Rank; ++axis)
      require(x.extent(axis) >= 0 && x.extent(axis) <= most, name, " has extent ", x.extent(axis), " on axis ", axis,
              ", must be 0 to ", most);
    require(x.empty() || x.data() != nullptr, name, " is null but has elements");
    if (unit_last)
      require(x.empty() || x.extent(Rank - 1) <= 1 || x.stride(Rank - 1) == 1, name, " has stride ", x.stride(Rank - 1),
              " on its last axis, must be 1 (is it column-major?)");
  }
  template <class T, int Rank> void written(const char* name, const tensor_view<T, Rank>& x) {
    for (int axis = 0; axis < Rank; ++axis)
      require(x.extent(axis) <= 1 || x.stride(axis) != 0 || x.empty(), name, " is written but has stride 0 on axis ",
              axis, " of extent ", x.extent(axis));
  }
  void equal(const char* a, index_t x, const char* b, index_t y, const char* what) {
    require(x == y, a, " has ", what, " ", x, ", ", b, " has ", y);
  }

  template <class T, int R, class U, int S>
  void distinct(const char* a, const tensor_view<T, R>& x, const char* b, const tensor_view<U, S>& y) {
    require(x.empty() || y.empty() || static_cast<const void*>(x.data()) != static_cast<const void*>(y.data()), a,
            " is the same memory as ", b);
  }

 private:
  heed::detail::problem_text& text_;
  bool ok_ = true;
};

// name[b] in [0, keys of the sequence] for every sequence
template <class T> void check_lengths(checker& check, const char* name, lengths n, const problem<T>& p) {
  const char* const of = p.packed() ? "packed" : "q";
  check.require(static_cast<index_t>(n.size()) == p.sequences(), name, " has ", n.size(), " entries, ", of, " has ",
                p.sequences(), p.packed() ? " sequences" : " in its batch");
  for (std::size_t b = 0; check.ok() && b < n.size(); ++b) {
    const index_t keys = p.sequence_at(static_cast<index_t>(b)).keys;
    check.require(n[b] >= 0 && n[b] <= keys, name, "[", b, "] is ", n[b], ", must be 0 to ", keys, " (the keys of ",
                  p.packed() ? "its sequence)" : "k)");
  }
}

// Offsets that ascend from 0 and stay within count; whole: they end there
inline void check_offsets(checker& check, const char* name, lengths at, index_t count, bool whole) {
  check.require(!at.empty(), name, " is empty, must have at least 1 entry");
  for (std::size_t i = 0; check.ok() && i < at.size(); ++i) {
    const index_t least = i == 0 ? 0 : at[i - 1], most = i == 0 ? 0 : count;
    check.require(at[i] >= least && at[i] <= most, name, "[", i, "] is ", at[i], ", must be ", least, " to ", most);
  }
  if (whole && check.ok())
    check.require(at.back() == count, name, " ends at ", at.back(), ", must end at ", count, " (the queries of q)");
}

template <class T, int Rank>
void check_extents(checker& check, const char* name, const tensor_view<T, Rank>& x,
                   const std::array<index_t, static_cast<std::size_t>(Rank)>& full, bool broadcasts) {
  for (int axis = 0; axis < Rank; ++axis) {
    const index_t extent = x.extent(axis), needed = full[static_cast<std::size_t>(axis)];
    check.require(extent == needed || (broadcasts && extent == 1), name, " has extent ", extent, " on axis ", axis,
                  ", must be ", broadcasts ? "1 or " : "", needed);
  }
}

template <class T> void check_mask(checker& check, const problem<T>& p) {
  using kind = heed::detail::mask_parts;
  const kind& mask = p.mask;
  const index_t batch = p.q.extent(0), queries = p.q.extent(2), keys = p.k.extent(2);
  check.require(mask.conflict == nullptr, mask.conflict != nullptr ? mask.conflict : "");
  if (mask.has(kind::packed)) {
    check.require(batch == 1, "packed: q has batch ", batch, ", must be 1");
    check_offsets(check, "packed query_offsets", mask.query_offsets, queries, true);
    check_offsets(check, "packed key_offsets", mask.key_offsets, keys, false);
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
    check_extents(check, "segments query_ids", mask.query_ids, {batch, queries}, false);
    check_extents(check, "segments key_ids", mask.key_ids, {batch, keys}, false);
  }
  if (mask.has(kind::keep)) {
    check.tensor("keep", mask.keep_tensor, false);
    check_extents(check, "keep", mask.keep_tensor, {batch, p.heads, queries, keys}, true);
  }
}

// Numbers per head: how many, and each finite or -inf and at least `least`
template <class T>
void check_per_head(checker& check, const char* name, const per_head& x, const problem<T>& p, double least) {
  if (!x.set()) return;
  check.require(!x.one_each() || x.size() == p.heads, name, " has ", x.size(), " entries, o has ", p.heads, " heads");
  for (index_t h = 0; check.ok() && h < (x.one_each() ? p.heads : 1); ++h)
    check.require(x.at(h) >= least && x.at(h) <= std::numeric_limits<double>::max(), name, "[", h, "] is ", x.at(h),
                  ", must be ", least, " or more, and less than infinity");
}

// O(1) in the tensors, O(size) in the arrays of lengths; reads no tensor data.
template <class T> bool check_call(const problem<T>& p, heed::detail::problem_text& text) {
  checker check(text);
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
  if (p.opt.lse.data() != nullptr) {
    const auto& lse = p.opt.lse;
    check.tensor("lse", lse, false), check.written("lse", lse);
    check.equal("lse", lse.extent(0), "o", p.o.extent(0), "batch");
    check.equal("lse", lse.extent(1), "o", p.o.extent(1), "heads");
    check.equal("lse", lse.extent(2), "o", p.o.extent(2), "queries");
    check.distinct("lse", lse, "q", p.q), check.distinct("lse", lse, "k", p.k), check.distinct("lse", lse, "v", p.v),
        check.distinct("lse", lse, "o", p.o);
  }
  check.require(!p.opt.scale || !std::isnan(*p.opt.scale), "scale is NaN, must be a number");
  check.require(p.opt.softcap >= 0, "softcap is ", p.opt.softcap, ", must be at least 0");
  if (!check.ok()) return false;
  check_mask(check, p);
  if (const auto& align = heed::detail::parts(p.opt.align); align.has_first)
    check.require(static_cast<index_t>(align.first.size()) == p.sequences(), "first_place has ", align.first.size(),
                  " entries, ", p.packed() ? "packed has " : "q has batch ", p.sequences());
  check_per_head(check, "alibi_slopes", p.opt.alibi_slopes, p, 0);
  check_per_head(check, "sink_logits", p.opt.sink_logits, p, -std::numeric_limits<double>::infinity());
  if (p.opt.bias.data() != nullptr) {
    check.tensor("bias", p.opt.bias, false);
    check_extents(check, "bias", p.opt.bias, {p.q.extent(0), p.heads, p.q.extent(2), p.k.extent(2)}, true);
    check.distinct("o", p.o, "bias", p.opt.bias);
    if (p.opt.lse.data() != nullptr) check.distinct("lse", p.opt.lse, "bias", p.opt.bias);
  }
  return check.ok();
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
