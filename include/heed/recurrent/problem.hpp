// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the recurrent kernels are asked: tensors, mask, decay, feature map and states of one call.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "heed/core/alignment.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/state.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// One batch entry, or one of the sequences that packed() cuts the only batch entry into. keys: those that key_lengths
// does not hide. place: of the first query, on the key axis.
struct track {
  index_t number = 0, batch = 0, first_query = 0, queries = 0, first_key = 0, keys = 0, place = 0;
};

// Of a track in order: keys that every query sees come first, then queries that see no other key; then pairs, query
// blind + x with key all_see + x; then queries that see all keys, or keys that no query sees.
struct order {
  index_t all_see = 0, blind = 0, pairs = 0;
};

template <class T> struct recurrence {
  tensor_view<const T, 4> q, k, v;
  tensor_view<T, 4> o;
  const heed::detail::mask_parts& mask;
  heed::detail::alignment_parts align = {};
  heed::detail::feature_parts<T> map = {};
  const heed::detail::decay_parts<T>* decay = nullptr;  // null: none
  state_view<const T> before = {};                      // null: zeros
  state_view<T> after = {};                             // null: not wanted
  double scale = 1, eps = 0;                    // scale: without `early`, see complete()
  T early = T(1);                               // on phi(q)
  bool causal = true, normalize = false;
  bool in_place = false;                        // decode: before and after are its memory
  index_t chunk = 0;                            // as given
  index_t heads = 0, kv_heads = 0, states = 0;  // states: heads of the state
  index_t readers = 1, writers = 1;             // query heads that read a state; states that a k/v head writes
  index_t d = 0, e = 0, features = 0;
  unsigned one_axis = 0;  // of q, k, v, o: see heed::detail::one_axis

  bool packed() const { return mask.has(mask.packed); }
  bool mapped() const { return map.map_value != nullptr || map.built_in != feature::identity; }
  bool taylor() const { return map.map_value == nullptr && map.built_in == feature::taylor; }
  index_t sequences() const {
    return packed() ? std::max<index_t>(0, static_cast<index_t>(mask.query_offsets.size()) - 1) : q.extent(0);
  }
  track track_at(index_t number) const {
    track t{number, number, 0, q.extent(2), 0, k.extent(2)};
    const auto n = static_cast<std::size_t>(number);
    if (packed()) {
      const index_t query = mask.query_offsets[n], key = mask.key_offsets[n];
      t = {number, 0, query, mask.query_offsets[n + 1] - query, key, mask.key_offsets[n + 1] - key};
    }
    const index_t all = t.keys;
    if (mask.has(mask.key_lengths)) t.keys = mask.lengths[n];
    t.place = align.has_first ? align.first[n] : align.top_left ? 0 : (align.end_of_lengths ? t.keys : all) - t.queries;
    return t;
  }

  order order_of(const track& t) const {
    if (!causal) return {.all_see = t.keys};
    order x{.all_see = std::clamp<index_t>(t.place, 0, t.keys), .blind = std::clamp<index_t>(-t.place, 0, t.queries)};
    x.pairs = std::min(t.queries - x.blind, t.keys - x.all_see);
    return x;
  }

  HEED_INLINE const T* query(const track& t, index_t head, index_t i) const {
    return q.data() + t.batch * q.stride(0) + head * q.stride(1) + (t.first_query + i) * q.stride(2);
  }
  HEED_INLINE T* output(const track& t, index_t head, index_t i) const {
    return o.data() + t.batch * o.stride(0) + head * o.stride(1) + (t.first_query + i) * o.stride(2);
  }
  HEED_INLINE const T* key(const track& t, index_t kv_head, index_t j) const {
    return k.data() + t.batch * k.stride(0) + kv_head * k.stride(1) + (t.first_key + j) * k.stride(2);
  }
  HEED_INLINE const T* value(const track& t, index_t kv_head, index_t j) const {
    return v.data() + t.batch * v.stride(0) + kv_head * v.stride(1) + (t.first_key + j) * v.stride(2);
  }
  HEED_INLINE const T* gate(const track& t, index_t state, index_t j) const {
    const auto& g = decay->log_gates;
    return g.data() + t.batch * g.stride(0) + state * g.stride(1) + (t.first_key + j) * g.stride(2);
  }
};

// All that the options of these kernels have in common; then complete().
template <class T, class Options>
recurrence<T> make_recurrence(tensor_view<const T, 4> q, tensor_view<const T, 4> k, tensor_view<const T, 4> v,
                              tensor_view<T, 4> o, const Options& opt, unsigned one_axis = 0) {
  using heed::detail::with_canonical_strides;
  recurrence<T> p{.q = with_canonical_strides(q),
                  .k = with_canonical_strides(k),
                  .v = with_canonical_strides(v),
                  .o = with_canonical_strides(o),
                  .mask = heed::detail::parts(opt.mask)};
  p.before = {with_canonical_strides(opt.initial_state.s), with_canonical_strides(opt.initial_state.z)};
  p.after = {with_canonical_strides(opt.final_state.s), with_canonical_strides(opt.final_state.z)};
  p.scale = opt.scale, p.chunk = opt.chunk;
  p.heads = q.extent(1), p.kv_heads = k.extent(1), p.states = p.kv_heads;
  p.d = q.extent(3), p.e = v.extent(3);
  p.one_axis = one_axis;
  return p;
}
// Beyond it a call is refused: features, and products of them, are counted without overflow.
inline constexpr index_t most_dim = index_t{1} << 24;

// What follows from the feature map, the number of states and the scale: the largest power of 2 in a scale below 1 goes
// on phi(q), before the products that it may keep from overflow. It changes no bit but where numbers leave the range of
// T above or below; it takes at most half of the exponents below 1, so that a phi(q) that has the other half stays
// normal. Pairs of taylor features are no product of phi(q): their scale comes last. Without eps a normaliser cancels
// the scale.
template <class T> void complete(recurrence<T>& p) {
  if (p.normalize && heed::detail::equals(p.eps, 0) && std::abs(p.scale) > 0) p.scale = 1;
  if (std::abs(p.scale) > 0 && std::abs(p.scale) < 1 && !p.taylor()) {
    const int power = std::max(std::ilogb(p.scale), std::numeric_limits<T>::min_exponent / 2);
    p.early = std::ldexp(T(1), power), p.scale = std::ldexp(p.scale, -power);
  }
  p.features = heed::detail::feature_dim(p.map, std::clamp<index_t>(p.d, 0, most_dim));
  p.readers = p.states > 0 ? std::max<index_t>(1, p.heads / p.states) : 1;
  p.writers = p.kv_heads > 0 ? std::max<index_t>(1, p.states / p.kv_heads) : 1;
}

// What a sum of weighted values is multiplied with: with `first`, then with `gain`. A factor below the smallest normal
// number, which would be 0, is two; else first is 1.
template <class T> struct output_factors {
  T first, gain;
  HEED_INLINE bool two() const { return first < T(1); }
};
// below: the sum of the weights
template <class T> HEED_INLINE output_factors<T> output_gain(const recurrence<T>& p, T below) {
  const double under = p.normalize ? p.scale * static_cast<double>(below) + p.eps : 1.0;
  if (heed::detail::equals(under, 0)) return {T(1), T(0)};
  if (std::abs(p.scale) < double{std::numeric_limits<T>::min()} * std::abs(under)) [[unlikely]] {
    const double half = std::ldexp(1.0, std::numeric_limits<T>::min_exponent / 2);
    return {static_cast<T>(half), static_cast<T>(p.scale / half / under)};
  }
  return {T(1), static_cast<T>(p.scale / under)};
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
