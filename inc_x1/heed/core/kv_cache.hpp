// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Views of key/value caches: contiguous, as a ring, or in pages. Owning caches are in heed/cache.hpp.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "heed/core/config.hpp"
#include "heed/core/per_sequence.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

// How many tokens a cache has: one number per sequence, kept as per_sequence keeps them, or one per sequence and
// key/value head, a view (B, Hk).
class cache_lengths {
 public:
  HEED_INLINE constexpr cache_lengths() noexcept {}
  template <class X>
    requires(detail::sequence_numbers<X> && !std::same_as<detail::bare<X>, cache_lengths>)
  HEED_INLINE constexpr cache_lengths(X&& each) : each_(std::forward<X>(each)) {}
  HEED_INLINE cache_lengths(const per_sequence& each) : each_(each) {}
  HEED_INLINE cache_lengths(std::initializer_list<std::int32_t> each) : each_(each) {}
  template <class X>
    requires(detail::binds<X, const std::int32_t, 2> && detail::axes<X> == 2)
  HEED_INLINE constexpr cache_lengths(X&& each) noexcept : per_head_(each), of_heads_(true) {}
  HEED_INLINE constexpr cache_lengths(const tensor_view<const std::int32_t, 2>& each) noexcept
      : per_head_(each), of_heads_(true) {}

  HEED_INLINE constexpr bool per_head() const noexcept { return of_heads_; }
  HEED_INLINE constexpr index_t size() const noexcept {
    return of_heads_ ? per_head_.extent(0) * per_head_.extent(1) : static_cast<index_t>(each_.size());
  }
  HEED_INLINE constexpr const std::int32_t* data() const noexcept {
    return of_heads_ ? per_head_.data() : each_.data();
  }
  HEED_INLINE constexpr const tensor_view<const std::int32_t, 2>& of_heads() const noexcept { return per_head_; }
  HEED_INLINE constexpr const per_sequence& of_sequences() const noexcept { return each_; }
  HEED_INLINE constexpr std::int32_t at(index_t sequence, index_t kv_head) const noexcept {
    return of_heads_ ? per_head_(sequence, kv_head) : each_[static_cast<std::size_t>(sequence)];
  }

 private:
  per_sequence each_ = {};
  tensor_view<const std::int32_t, 2> per_head_ = {};
  bool of_heads_ = false;
};

enum class cache_layout : unsigned char { contiguous, ring, paged };

// Keys and values of B sequences and Hk heads, made by the factories below or by an owning cache. T: float, double,
// bf16_t, f16_t, or std::int8_t with one scale per token and head.
template <class T> struct kv_cache_view {
  tensor_view<const T, 4> k = {}, v = {};  // (B, Hk, capacity, D) and (..., E); paged: (pages, Hk, page size, D)
  cache_lengths lengths = {};              // tokens of each sequence; ring: all that were ever appended
  tensor_view<const std::int32_t, 2> blocks = {};          // paged: (B, blocks), the pages of each sequence in order
  index_t keep_first = -1;                                 // ring: so many first tokens are never overwritten
  tensor_view<const float, 3> k_scale = {}, v_scale = {};  // std::int8_t: k and v without their last axis
  cache_lengths oldest = {};                               // ring: tokens before are gone; empty: as the ring has it
  cache_layout layout = cache_layout::contiguous;
};

// A cache of one sequence, whose tokens come first in all sequences of another: made by shared_prefix.
template <class T> struct prefixed_cache_view {
  kv_cache_view<T> prefix = {}, own = {};
};

namespace detail {

template <class T> inline constexpr bool cache_storage = is_storage<T> || std::is_same_v<T, std::int8_t>;

template <class K, class V> constexpr bool cache_tensors() {
  static_assert(tensor_argument<K>() && tensor_argument<V>());
  static_assert(cache_storage<value_t<K>>,
                "heed: a cache holds float, double, heed::bf16_t, heed::f16_t or std::int8_t");
  static_assert(std::is_same_v<value_t<K>, value_t<V>>, "heed: k and v have one element type");
  return true;
}

template <class K, class V> HEED_INLINE kv_cache_view<value_t<K>> cache_view_of(const K& k, const V& v) {
  static_assert(cache_tensors<K, V>());
  static_assert(!std::is_same_v<value_t<K>, std::int8_t>, "heed: a cache of std::int8_t has k_scale and v_scale");
  kv_cache_view<value_t<K>> x{};
  x.k = tensor_view<const value_t<K>, 4>(k), x.v = tensor_view<const value_t<V>, 4>(v);
  return x;
}
template <class K, class V>
HEED_INLINE kv_cache_view<std::int8_t> cache_view_of(const K& k, const V& v, const tensor_view<const float, 3>& k_scale,
                                                     const tensor_view<const float, 3>& v_scale) {
  static_assert(cache_tensors<K, V>());
  static_assert(std::is_same_v<value_t<K>, std::int8_t>, "heed: k_scale and v_scale go with std::int8_t");
  kv_cache_view<std::int8_t> x{};
  x.k = tensor_view<const std::int8_t, 4>(k), x.v = tensor_view<const std::int8_t, 4>(v);
  x.k_scale = k_scale, x.v_scale = v_scale;
  return x;
}

}  // namespace detail

inline namespace HEED_ISA {

// A cache whose token j is row j: k (B, Hk, capacity, D), v (B, Hk, capacity, E), n tokens of each sequence.
template <viewable K, viewable V>
[[nodiscard]] auto contiguous_cache(const K& k, const V& v,
                                    const cache_lengths& n) -> kv_cache_view<detail::value_t<K>> {
  auto x = detail::cache_view_of(k, v);
  x.lengths = n;
  return x;
}
template <viewable K, viewable V>
[[nodiscard]] auto contiguous_cache(const K& k, const V& v, const tensor_view<const float, 3>& k_scale,
                                    const tensor_view<const float, 3>& v_scale,
                                    const cache_lengths& n) -> kv_cache_view<std::int8_t> {
  auto x = detail::cache_view_of(k, v, k_scale, v_scale);
  x.lengths = n;
  return x;
}

// A ring of `capacity` rows: token t < keep_first stays in row t, token t >= keep_first is in row
// keep_first + (t - keep_first) % (capacity - keep_first). appended: tokens of each sequence, also those overwritten.
// Keys and places are counted in tokens.
template <viewable K, viewable V>
[[nodiscard]] auto ring_cache(const K& k, const V& v, const cache_lengths& appended,
                              index_t keep_first = 0) -> kv_cache_view<detail::value_t<K>> {
  auto x = detail::cache_view_of(k, v);
  x.lengths = appended, x.keep_first = keep_first, x.layout = cache_layout::ring;
  return x;
}
template <viewable K, viewable V>
[[nodiscard]] auto ring_cache(const K& k, const V& v, const tensor_view<const float, 3>& k_scale,
                              const tensor_view<const float, 3>& v_scale, const cache_lengths& appended,
                              index_t keep_first = 0) -> kv_cache_view<std::int8_t> {
  auto x = detail::cache_view_of(k, v, k_scale, v_scale);
  x.lengths = appended, x.keep_first = keep_first, x.layout = cache_layout::ring;
  return x;
}

// Pages of any size: k (pages, Hk, page size, D), v (pages, Hk, page size, E); token j of sequence b is row
// j % size of page blocks(b, j / size). Sequences may share pages. Entries behind the last token are not read.
template <viewable K, viewable V>
[[nodiscard]] auto paged_cache(const K& k, const V& v, tensor_view<const std::int32_t, 2> blocks,
                               const cache_lengths& n) -> kv_cache_view<detail::value_t<K>> {
  auto x = detail::cache_view_of(k, v);
  x.lengths = n, x.blocks = blocks, x.layout = cache_layout::paged;
  return x;
}
template <viewable K, viewable V>
[[nodiscard]] auto paged_cache(const K& k, const V& v, const tensor_view<const float, 3>& k_scale,
                               const tensor_view<const float, 3>& v_scale, tensor_view<const std::int32_t, 2> blocks,
                               const cache_lengths& n) -> kv_cache_view<std::int8_t> {
  auto x = detail::cache_view_of(k, v, k_scale, v_scale);
  x.lengths = n, x.blocks = blocks, x.layout = cache_layout::paged;
  return x;
}

}  // namespace HEED_ISA

namespace detail {

// What decode takes as a cache: a view of one, or what has one (an owning cache)
template <class X> inline constexpr bool is_cache_view = false;
template <class T> inline constexpr bool is_cache_view<kv_cache_view<T>> = true;
template <class T> inline constexpr bool is_cache_view<prefixed_cache_view<T>> = true;
template <class X>
concept cache_argument =
    is_cache_view<bare<X>> || requires(const X& x) { requires is_cache_view<bare<decltype(x.view())>>; };
template <class X> HEED_INLINE decltype(auto) view_of_cache(const X& x) {
  if constexpr (is_cache_view<X>)
    return static_cast<const X&>(x);
  else
    return x.view();
}
template <class X> using cache_view_t = bare<decltype(view_of_cache(std::declval<const X&>()))>;
template <class X> struct cache_element;
template <class T> struct cache_element<kv_cache_view<T>> {
  using type = T;
};
template <class T> struct cache_element<prefixed_cache_view<T>> {
  using type = T;
};
template <class X> using cache_element_t = typename cache_element<cache_view_t<X>>::type;

// Whether tensors can be q and o of decode with a cache; a static_assert says why they cannot.
template <class Q, class Cache, class O> constexpr bool decode_tensors() {
  using C = cache_element_t<Cache>;
  static_assert(tensor_argument<Q>() && tensor_argument<O>());
  static_assert(cache_storage<C>, "heed: a cache holds float, double, heed::bf16_t, heed::f16_t or std::int8_t");
  static_assert(is_storage<value_t<Q>> && is_storage<value_t<O>>, "heed: q and o hold float, double or a 16-bit float");
  static_assert(std::is_same_v<acc_of<Q>, acc_of<O>> && std::is_same_v<acc_of<Q>, acc_t<C>>,
                "heed: double goes with double alone; float, 16-bit and 8-bit types go together");
  return true;
}

// The cache of the sequences' own tokens, and that of the tokens before them, or null
template <class T> HEED_INLINE const kv_cache_view<T>& own_tokens(const kv_cache_view<T>& x) { return x; }
template <class T> HEED_INLINE const kv_cache_view<T>& own_tokens(const prefixed_cache_view<T>& x) { return x.own; }
template <class T> HEED_INLINE const kv_cache_view<T>* prefix_tokens(const kv_cache_view<T>&) { return nullptr; }
template <class T> HEED_INLINE const kv_cache_view<T>* prefix_tokens(const prefixed_cache_view<T>& x) {
  return &x.prefix;
}

inline namespace HEED_ISA {

// Where a cache has its tokens, whatever they are stored as
struct token_rows {
  // Row `row` of entry `entry` (a sequence or a page) of k and v; `count` tokens from this one on are side by side.
  struct place {
    index_t entry, row, count;
  };

  HEED_INLINE place at(index_t sequence, index_t token) const {
    if (layout == cache_layout::paged) {
      const index_t number = token / rows, row = token - number * rows;
      return {blocks(sequence, number), row, rows - row};
    }
    if (token < rows) return {sequence, token, rows - token};
    const index_t row = keep_first + (token - keep_first) % (rows - keep_first);
    return {sequence, row, rows - row};
  }
  // Tokens [keep_first, oldest) are gone.
  HEED_INLINE index_t oldest(index_t length) const {
    if (layout != cache_layout::ring) return 0;
    return length <= rows ? keep_first : length - (rows - keep_first);
  }

  cache_layout layout = cache_layout::contiguous;
  index_t rows = 0;        // of an entry
  index_t keep_first = 0;  // ring
  tensor_view<const std::int32_t, 2> blocks = {};
  tensor_view<const float, 3> k_scale = {}, v_scale = {};  // null but for std::int8_t
};

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// The tokens of `prefix`, a cache of one sequence, in front of those of every sequence of `cache`: both of one element
// type, of any layout. Tokens and places count from the first of the prefix. decode reads the prefix once for all
// sequences where every query sees all of it.
template <class Prefix, class Cache>
  requires(detail::cache_argument<Prefix> && detail::cache_argument<Cache>)
[[nodiscard]] auto shared_prefix(const Prefix& prefix,
                                 const Cache& cache) -> prefixed_cache_view<detail::cache_element_t<Cache>> {
  return {detail::view_of_cache(prefix), detail::view_of_cache(cache)};
}

}  // namespace HEED_ISA
}  // namespace heed
