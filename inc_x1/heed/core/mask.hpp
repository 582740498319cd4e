// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Which keys a query sees. A mask is a small set of rules, one of each kind; `&` is their intersection.

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/opaque.hpp"
#include "heed/core/per_sequence.hpp"
#include "heed/core/score_tile.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {

struct mask_parts {
  enum kind : unsigned {
    causal = 1,
    window = 2,
    key_lengths = 4,
    packed = 8,
    prefix_lm = 16,
    segments = 32,
    keep = 64,
    visible_if = 128,
  };

  unsigned present = 0;                               // bits of kind; a member below counts only where its bit is set
  index_t left = -1, right = -1, keep_first = 0;      // window; left, right as given: -1 is no limit, less is an error
  per_sequence lengths = {};                          // key_lengths
  per_sequence query_offsets = {}, key_offsets = {};  // packed
  per_sequence prefix = {};                           // prefix_lm
  tensor_view<const std::int32_t, 2> query_ids = {}, key_ids = {};  // segments
  tensor_view<const bool, 4> keep_tensor = {};                      // keep
  function_bytes predicate = {};                                    // visible_if, and its loops over a tile
  tile_function<float> hide_float = nullptr;
  tile_function<double> hide_double = nullptr;
  const char* conflict = nullptr;  // why `&` could not join; the call reports it

  HEED_INLINE mask_parts() noexcept {}  // written out: a compiler's own would be a symbol without the tag at -O0
  HEED_INLINE constexpr bool has(kind k) const noexcept { return (present & k) != 0; }
};

// What is written in place of a mask by mistake: causal without (), true, a pointer, a function without visible_if.
template <class X>
concept mistaken_mask =
    std::is_scalar_v<bare<X>> || std::is_function_v<bare<X>> || std::is_array_v<bare<X>> || predicate<bare<X>>;

}  // namespace detail

class [[nodiscard]] mask : public detail::opaque<detail::mask_parts> {
 public:
  HEED_INLINE mask() noexcept {}  // every key visible

 private:
  template <class X>
    requires detail::mistaken_mask<X>
  mask(X&&) {
    static_assert(!detail::mistaken_mask<X>,
                  "heed: a mask is what a call returns: heed::causal(), heed::window(255), heed::visible_if(f), ...");
  }
};

namespace detail {

// Score tile of hidden positions to -inf; only where visible_if is present.
HEED_INLINE void hide(const mask_parts& m, const score_tile<float>& tile) { m.hide_float(m.predicate.bytes, tile); }
HEED_INLINE void hide(const mask_parts& m, const score_tile<double>& tile) { m.hide_double(m.predicate.bytes, tile); }

inline namespace HEED_ISA {

// A mask of one kind, whose other members are to be set.
inline mask mask_of(mask_parts::kind kind) noexcept {
  mask m;
  parts_to_set(m).present = kind;
  return m;
}

// Equal numbers, wherever they are: same memory, or compared now.
inline bool equal(lengths a, lengths b) noexcept {
  if (a.size() != b.size()) return false;
  if (a.data() == b.data()) return true;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) return false;
  return true;
}

// The smaller of two limits, where -1 is none.
inline index_t narrower(index_t a, index_t b) noexcept {
  if (a == -1) return b;
  if (b == -1) return a;
  return a < b ? a : b;
}

// Both windows as one. keep_first only widens a left limit: without one it has no meaning and cannot conflict.
inline bool join_windows(mask_parts& a, const mask_parts& b) noexcept {
  const bool joins = a.left == -1 || b.left == -1 || a.keep_first == b.keep_first;
  if (a.left == -1) a.keep_first = b.keep_first;
  a.left = narrower(a.left, b.left);
  a.right = narrower(a.right, b.right);
  return joins;
}

// a = the intersection of both
inline void intersect(mask_parts& a, const mask_parts& b) noexcept {
  using kind = mask_parts;
  const unsigned common = a.present & b.present, added = b.present & ~a.present;
  const auto must = [&a](bool joins, const char* otherwise) {
    if (!joins && a.conflict == nullptr) a.conflict = otherwise;
  };
  a.present |= b.present;
  if (a.conflict == nullptr) a.conflict = b.conflict;

  if (added & kind::window) {
    a.left = b.left;
    a.right = b.right;
    a.keep_first = b.keep_first;
  }
  if (added & kind::key_lengths) a.lengths = b.lengths;
  if (added & kind::packed) {
    a.query_offsets = b.query_offsets;
    a.key_offsets = b.key_offsets;
  }
  if (added & kind::prefix_lm) a.prefix = b.prefix;
  if (added & kind::segments) {
    a.query_ids = b.query_ids;
    a.key_ids = b.key_ids;
  }
  if (added & kind::keep) a.keep_tensor = b.keep_tensor;
  if (added & kind::visible_if) {
    a.predicate = b.predicate;
    a.hide_float = b.hide_float;
    a.hide_double = b.hide_double;
  }

  if (common & kind::window) must(join_windows(a, b), "two windows with different keep_first in one mask");
  if (common & kind::key_lengths) must(equal(a.lengths, b.lengths), "two different key_lengths in one mask");
  if (common & kind::packed)
    must(equal(a.query_offsets, b.query_offsets) && equal(a.key_offsets, b.key_offsets),
         "two different packed in one mask");
  if (common & kind::prefix_lm) must(equal(a.prefix, b.prefix), "two different prefix_lm in one mask");
  if (common & kind::segments)
    must(same(a.query_ids, b.query_ids) && same(a.key_ids, b.key_ids), "two different segments in one mask");
  if (common & kind::keep) must(same(a.keep_tensor, b.keep_tensor), "two different keep in one mask");
  if (common & kind::visible_if) must(false, "two visible_if in one mask");
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Intersection. Two parts of one kind join where that is exact: causal; windows (the narrower side of each; one
// keep_first); lengths, offsets and prefixes with equal numbers (compared here where the memory differs); segments and
// keep over the same memory. Anything else is an error of the call that takes the mask.
inline mask operator&(const mask& a, const mask& b) noexcept {
  mask both;  // copies the parts that are there, not the room for all
  detail::intersect(detail::parts_to_set(both), detail::parts(a));
  detail::intersect(detail::parts_to_set(both), detail::parts(b));
  return both;
}

// key <= place
inline mask causal() noexcept { return detail::mask_of(detail::mask_parts::causal); }

// (place - left <= key or key < keep_first) and key <= place + right; -1: no limit
inline mask window(index_t left, index_t right = 0, index_t keep_first = 0) noexcept {
  mask m = detail::mask_of(detail::mask_parts::window);
  detail::mask_parts& parts = detail::parts_to_set(m);
  parts.left = left, parts.right = right, parts.keep_first = keep_first;
  return m;
}

// key < n[b]; does not move the alignment
inline mask key_lengths(const per_sequence& n) noexcept {
  mask m = detail::mask_of(detail::mask_parts::key_lengths);
  detail::parts_to_set(m).lengths = n;
  return m;
}

// Sequences end to end in one batch entry, sequence b from offset b to offset b + 1; every rule holds per sequence.
inline mask packed(const per_sequence& query_offsets, const per_sequence& key_offsets) noexcept {
  mask m = detail::mask_of(detail::mask_parts::packed);
  detail::parts_to_set(m).query_offsets = query_offsets;
  detail::parts_to_set(m).key_offsets = key_offsets;
  return m;
}

// key <= place or key < prefix[b]
inline mask prefix_lm(const per_sequence& prefix) noexcept {
  mask m = detail::mask_of(detail::mask_parts::prefix_lm);
  detail::parts_to_set(m).prefix = prefix;
  return m;
}

// Query and key of one document: equal ids; (batch, seq) each.
inline mask segments(tensor_view<const std::int32_t, 2> query_ids,
                     tensor_view<const std::int32_t, 2> key_ids) noexcept {
  mask m = detail::mask_of(detail::mask_parts::segments);
  detail::parts_to_set(m).query_ids = query_ids;
  detail::parts_to_set(m).key_ids = key_ids;
  return m;
}

// true: visible; (batch, head, query, key), axes of extent 1 broadcast
inline mask keep(tensor_view<const bool, 4> visible) noexcept {
  mask m = detail::mask_of(detail::mask_parts::keep);
  detail::parts_to_set(m).keep_tensor = visible;
  return m;
}

// bool f(const position&), at most 32 bytes, trivially copyable, stored by value: what it refers to must live until the
// call.
template <class F>
  requires detail::predicate<F>
mask visible_if(F f) noexcept {
  mask m = detail::mask_of(detail::mask_parts::visible_if);
  detail::mask_parts& parts = detail::parts_to_set(m);
  parts.predicate = detail::store(f);
  parts.hide_float = &detail::hide_scores<F, float>;
  parts.hide_double = &detail::hide_scores<F, double>;
  return m;
}
template <class F>
  requires(!detail::predicate<F>)
mask visible_if(F) {
  static_assert(detail::predicate<F>,
                "heed: visible_if takes a const function of (const heed::position&), trivially copyable, at most 32 "
                "bytes");
  return {};
}

}  // namespace HEED_ISA
}  // namespace heed
