// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What one call computes: its views, the sizes derived from them, and the checks that they fit together.

#include <cmath>
#include <cstdint>
#include <limits>

#include "heed/core/message.hpp"
#include "heed/core/view.hpp"
#include "heed/softmax/options.hpp"
#include "heed/tile/positions.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> struct problem {
  tensor_view<const T, 4> q, k, v;
  tensor_view<T, 4> o;
  const options<T>& opt;
  index_t batch = 0, query_heads = 0, kv_heads = 0, heads = 0;  // heads: of o, max(query_heads, kv_heads)
  index_t group = 1;                                            // compute heads that share a key/value head
  index_t n = 0, m = 0, d = 0, e = 0;
  index_t rows = 0;  // n * group: queries that share keys and values
  T factor = 0;      // scale * log2(e)

  // Row r of k/v head h: query r / group of compute head h * group + r % group
  HEED_INLINE const T* query(index_t b, index_t head, index_t i) const {
    return q.data() + b * q.stride(0) + head / (heads / query_heads) * q.stride(1) + i * q.stride(2);
  }
  HEED_INLINE T* output(index_t b, index_t head, index_t i) const {
    return o.data() + b * o.stride(0) + head * o.stride(1) + i * o.stride(2);
  }
  HEED_INLINE const T* key(index_t b, index_t kv_head, index_t j) const {
    return k.data() + b * k.stride(0) + kv_head * k.stride(1) + j * k.stride(2);
  }
  HEED_INLINE const T* value(index_t b, index_t kv_head, index_t j) const {
    return v.data() + b * v.stride(0) + kv_head * v.stride(1) + j * v.stride(2);
  }
  HEED_INLINE T* lse(index_t b, index_t head, index_t i) const {
    return opt.lse.data() + b * opt.lse.stride(0) + head * opt.lse.stride(1) + i * opt.lse.stride(2);
  }
};

template <class T>
problem<T> make_problem(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                        tensor_view<T, 4> o, const options<T>& opt) {
  problem<T> p{.q = q, .k = k, .v = v, .o = o, .opt = opt};
  p.batch = q.extent(0);
  p.query_heads = q.extent(1), p.kv_heads = k.extent(1);
  p.heads = p.query_heads == 0 ? 0 : std::max(p.query_heads, p.kv_heads);
  p.n = q.extent(2), p.m = k.extent(2), p.d = q.extent(3), p.e = v.extent(3);
  p.group = p.kv_heads > 0 && p.query_heads > p.kv_heads ? p.query_heads / p.kv_heads : 1;
  p.rows = p.n * p.group;
  const double scale = opt.scale ? *opt.scale : 1 / std::sqrt(static_cast<double>(p.d));
  p.factor = static_cast<T>(scale * 1.4426950408889634);
  return p;
}

// The first thing that is wrong with a call, written into `problem` as text; true if nothing is.
class checker {
 public:
  explicit checker(heed::detail::problem_text& text) : text_(text) {}

  template <class... Parts> bool require(bool holds, const Parts&... otherwise) {
    if (!holds && ok_) {
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
      require(x.extent(Rank - 1) <= 1 || x.stride(Rank - 1) == 1, name, " has stride ", x.stride(Rank - 1),
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

inline void check_lengths(checker& check, const char* name, lengths n, index_t batch, index_t keys) {
  check.require(static_cast<index_t>(n.size()) == batch, name, " has ", n.size(), " entries, q has batch ", batch);
  for (std::size_t b = 0; check.ok() && b < n.size(); ++b)
    check.require(n[b] >= 0 && n[b] <= keys, name, "[", b, "] is ", n[b], ", must be 0 to ", keys, " (the keys of k)");
}

inline void check_mask(checker& check, const heed::detail::mask_parts& mask, index_t batch, index_t keys) {
  using kind = heed::detail::mask_parts;
  check.require(mask.conflict == nullptr, mask.conflict != nullptr ? mask.conflict : "");
  if (mask.has(kind::window)) {
    check.require(mask.left >= -1, "window: left is ", mask.left, ", must be at least -1");
    check.require(mask.right >= -1, "window: right is ", mask.right, ", must be at least -1");
    check.require(mask.keep_first >= 0, "window: keep_first is ", mask.keep_first, ", must be at least 0");
  }
  if (mask.has(kind::key_lengths)) check_lengths(check, "key_lengths", mask.lengths, batch, keys);
  const auto later = [&](kind::kind k, const char* name) {
    check.require(!mask.has(k), "mask: ", name, " is not supported yet");
  };
  later(kind::packed, "packed"), later(kind::prefix_lm, "prefix_lm"), later(kind::segments, "segments");
  later(kind::keep, "keep"), later(kind::visible_if, "visible_if");
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
  check_mask(check, heed::detail::parts(p.opt.mask), p.batch, p.m);
  if (const auto& align = heed::detail::parts(p.opt.align); align.has_first)
    check.require(static_cast<index_t>(align.first.size()) == p.batch, "first_place has ", align.first.size(),
                  " entries, q has batch ", p.batch);
  check.require(p.opt.softcap >= 0, "softcap is ", p.opt.softcap, ", must be at least 0");
  check.require(p.opt.softcap == 0, "softcap = ", p.opt.softcap, " is not supported yet");
  check.require(!p.opt.alibi_slopes.set(), "alibi_slopes is not supported yet");
  check.require(p.opt.bias.data() == nullptr, "bias is not supported yet");
  check.require(heed::detail::parts(p.opt.score).map_value == nullptr, "score is not supported yet");
  check.require(!p.opt.sink_logits.set(), "sink_logits is not supported yet");
  return check.ok();
}

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
