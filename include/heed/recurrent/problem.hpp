// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of a recurrent kernel: its tensors, mask, decay, feature map and states.

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

// One batch entry, or one of the sequences that packed() cuts the only batch entry into. keys: without those that
// key_lengths hides. place: of the first query, on the key axis.
struct sequence {
  index_t number = 0, batch = 0, first_query = 0, queries = 0, first_key = 0, keys = 0, place = 0;
};

// The causal mask of a sequence: every query sees the first prefix_keys keys. The first leading_queries queries see no
// other key. Then query leading_queries + i and key prefix_keys + i come in pairs. What follows the pairs are queries
// that see all keys, or keys that no query sees.
struct causal_split {
  index_t prefix_keys = 0, leading_queries = 0, pairs = 0;
};

template <class T> struct recurrence {
  tensor_view<const T, 4> q, k, v;
  tensor_view<T, 4> o;
  const heed::detail::mask_parts& mask;
  const heed::detail::alignment_parts* align = &heed::detail::parts(bottom_right);
  heed::detail::feature_parts<T> map = {};
  const heed::detail::decay_parts<T>* decay = nullptr;  // null: none
  state_view<const T> before = {};                      // null: zeros
  state_view<T> after = {};                             // null: not wanted
  double scale = 1, eps = 0;                            // scale: without q_scale, see derive_sizes()
  T q_scale = T(1);                                     // factor of phi(q)
  bool causal = true, normalize = false;
  bool in_place = false;                        // decode: before and after are the state it updates
  index_t chunk = 0;                            // as given
  index_t heads = 0, kv_heads = 0, states = 0;  // states: heads of the state
  index_t queries_per_state = 1, states_per_kv_head = 1;
  index_t d = 0, e = 0, features = 0;
  unsigned one_axis = 0;  // of q, k, v, o: see heed::detail::one_axis

  bool packed() const { return mask.has(mask.packed); }
  bool mapped() const { return map.map_value != nullptr || map.built_in != feature::identity; }
  bool taylor() const { return map.map_value == nullptr && map.built_in == feature::taylor; }
  index_t sequences() const {
    return packed() ? std::max<index_t>(0, static_cast<index_t>(mask.query_offsets.size()) - 1) : q.extent(0);
  }
  sequence sequence_at(index_t number) const {
    sequence s{number, number, 0, q.extent(2), 0, k.extent(2)};
    const auto n = static_cast<std::size_t>(number);
    if (packed()) {
      const index_t query = mask.query_offsets[n], key = mask.key_offsets[n];
      s = {number, 0, query, mask.query_offsets[n + 1] - query, key, mask.key_offsets[n + 1] - key};
    }
    const index_t all = s.keys;
    if (mask.has(mask.key_lengths)) s.keys = mask.lengths[n];
    const index_t end = align->end_of_lengths ? s.keys : all;
    s.place = align->has_first ? align->first[n] : align->top_left ? 0 : end - s.queries;
    return s;
  }
  causal_split split(const sequence& s) const {
    if (!causal) return {.prefix_keys = s.keys};
    const index_t keys = std::clamp<index_t>(s.place, 0, s.keys), queries = std::clamp<index_t>(-s.place, 0, s.queries);
    return {keys, queries, std::min(s.queries - queries, s.keys - keys)};
  }

  const T* query(const sequence& s, index_t head, index_t i) const { return &q(s.batch, head, s.first_query + i, 0); }
  T* output(const sequence& s, index_t head, index_t i) const { return &o(s.batch, head, s.first_query + i, 0); }
  const T* key(const sequence& s, index_t kv_head, index_t j) const { return &k(s.batch, kv_head, s.first_key + j, 0); }
  const T* value(const sequence& s, index_t kv_head, index_t j) const {
    return &v(s.batch, kv_head, s.first_key + j, 0);
  }
  const T* gate(const sequence& s, index_t state, index_t j) const {
    return &decay->log_gates(s.batch, state, s.first_key + j);
  }
};

// Takes what the options of these kernels have in common; derive_sizes() comes when the kernel has set the rest.
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

// The largest head dim that is accepted: features and products of them are then counted without overflow.
inline constexpr index_t most_dim = index_t{1} << 24;

// Derives what follows from the feature map, the number of states and the scale. The largest power of 2 in a scale
// below 1 is applied to phi(q), before the products that it may keep from overflow; this changes bits only where
// numbers leave the range of T. It takes at most half of the exponents below 1, so that phi(q) stays normal. Weights of
// taylor features are no product with phi(q), so their scale comes last. Without eps a normaliser cancels the scale.
template <class T> void derive_sizes(recurrence<T>& p) {
  if (p.normalize && heed::detail::equals(p.eps, 0) && std::abs(p.scale) > 0) p.scale = 1;
  if (std::abs(p.scale) > 0 && std::abs(p.scale) < 1 && !p.taylor()) {
    const int power = std::max(std::ilogb(p.scale), std::numeric_limits<T>::min_exponent / 2);
    p.q_scale = std::ldexp(T(1), power), p.scale = std::ldexp(p.scale, -power);
  }
  p.features = heed::detail::feature_dim(p.map, std::clamp<index_t>(p.d, 0, most_dim));
  p.queries_per_state = p.states > 0 ? std::max<index_t>(1, p.heads / p.states) : 1;
  p.states_per_kv_head = p.kv_heads > 0 ? std::max<index_t>(1, p.states / p.kv_heads) : 1;
}

// The factors that turn a sum of weighted values into an output, one after the other. A factor that is smaller than the
// smallest normal number would be flushed to 0 and is split in two; else first is 1.
template <class T> struct output_factors {
  T first, last;
  HEED_INLINE bool two() const { return first < T(1); }
};
// Returns scale, or scale / (scale weight_sum + eps) where the kernel normalises; 0 where that denominator is 0.
template <class T> HEED_INLINE output_factors<T> output_factor(const recurrence<T>& p, T weight_sum) {
  const double denominator = p.normalize ? p.scale * static_cast<double>(weight_sum) + p.eps : 1.0;
  if (heed::detail::equals(denominator, 0)) return {T(1), T(0)};
  if (std::abs(p.scale) < double{std::numeric_limits<T>::min()} * std::abs(denominator)) [[unlikely]] {
    const double half = std::ldexp(1.0, std::numeric_limits<T>::min_exponent / 2);
    return {static_cast<T>(half), static_cast<T>(p.scale / half / denominator)};
  }
  return {T(1), static_cast<T>(p.scale / denominator)};
}

}  // namespace HEED_ISA
}  // namespace heed::recurrent
