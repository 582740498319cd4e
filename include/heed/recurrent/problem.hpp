// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of a recurrent kernel: its tensors, mask, decay, feature map and states.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "heed/core/alignment.hpp"
#include "heed/core/call.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/state.hpp"
#include "heed/tile/row_format.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// keys: without those that key_lengths hides. place: of the first query, on the key axis.
struct sequence : heed::detail::sequence {
  index_t place = 0;
};

// The causal mask of a sequence: every query sees the first prefix_keys keys. The first leading_queries queries see no
// other key. Then query leading_queries + i and key prefix_keys + i come in pairs. What follows the pairs are queries
// that see all keys, or keys that no query sees.
struct causal_split {
  index_t prefix_keys = 0, leading_queries = 0, pairs = 0;
};

// What a call asks for, whatever its types
struct recurrence_rules {
  const heed::detail::alignment_parts* align = &heed::detail::parts(bottom_right);
  double scale, eps = 0;  // scale: without q_scale, see derive_sizes()
  index_t chunk;          // as given
  index_t states;         // heads of the state
  bool causal = true, normalize = false;
  bool in_place = false;  // decode: before and after are the state it updates
  index_t queries_per_state = 1, states_per_kv_head = 1, features = 0;
};

template <class T> struct recurrence : heed::detail::tensors, recurrence_rules {
  // Takes what the options of these kernels have in common; derive_sizes() comes when the kernel has set the rest.
  template <class Options>
  HEED_INLINE recurrence(const Options& opt, const tile::call_rows<T>& x)
      : heed::detail::tensors(opt.mask, x),
        recurrence_rules{.scale = opt.scale, .chunk = opt.chunk, .states = kv_heads},
        q_format(x.q_format),
        kv_format(x.kv_format),
        o_format(x.o_format),
        before{heed::detail::with_canonical_strides(opt.initial_state.s),
               heed::detail::with_canonical_strides(opt.initial_state.z)},
        after{heed::detail::with_canonical_strides(opt.final_state.s),
              heed::detail::with_canonical_strides(opt.final_state.z)} {}

  bool mapped() const { return map.map_value != nullptr || map.built_in != feature::identity; }
  bool writes_state() const { return after.s.data() != nullptr || (normalize && after.z.data() != nullptr); }
  bool taylor() const { return map.map_value == nullptr && map.built_in == feature::taylor; }
  recurrent::sequence sequence_at(index_t number) const {
    recurrent::sequence s{heed::detail::tensors::sequence_at(number)};
    const auto n = static_cast<std::size_t>(number);
    const index_t all = s.keys;
    if (mask.has(mask.key_lengths)) s.keys = mask.lengths[n];
    const index_t end = align->end_of_lengths ? s.keys : all;
    s.place = align->has_first ? align->first[n] : align->top_left ? 0 : end - s.queries;
    return s;
  }
  causal_split split(const recurrent::sequence& s) const {
    if (!causal) return {.prefix_keys = s.keys};
    const index_t keys = std::clamp<index_t>(s.place, 0, s.keys), queries = std::clamp<index_t>(-s.place, 0, s.queries);
    return {keys, queries, std::min(s.queries - queries, s.keys - keys)};
  }
  HEED_INLINE const T* gate(const recurrent::sequence& s, index_t state, index_t j) const {
    const auto& g = decay->log_gates;
    return g.data() + s.batch * g.stride(0) + state * g.stride(1) + (s.first_key + j) * g.stride(2);
  }

  const tile::row_format<T>*q_format, *kv_format, *o_format;
  heed::detail::feature_parts<T> map = {};
  const heed::detail::decay_parts<T>* decay = nullptr;  // null: none
  state_view<const T> before;                           // null: zeros
  state_view<T> after;                                  // null: not wanted
  T q_scale = T(1);                                     // factor of phi(q)
};

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
  p.queries_per_state = p.query_heads == 0 ? 0 : p.states > 0 ? std::max<index_t>(1, p.query_heads / p.states) : 1;
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
