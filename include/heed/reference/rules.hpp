// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks, alignments and score modifications as their definitions read, one pair (query, key) at a time.
//
// From core/ the references take views, the parts of masks and options, errors, and the loops that call user functions:
// no arithmetic. From the kernels they take option types only.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/error.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/score_function.hpp"
#include "heed/reference/scalar.hpp"

namespace heed::reference::detail {
inline namespace HEED_ISA {

// One sequence: a batch entry, or one of the pieces that packed() cuts the only batch entry into. Queries and keys are
// counted from its start; the tensors have them from first_query and first_key on. Keys [lost, end_of_lost) are gone.
struct sequence {
  index_t number, batch, first_query, queries, first_key, keys, lost = 0, end_of_lost = 0;
};

inline std::vector<sequence> sequences_of(const mask& mask, index_t batches, index_t queries, index_t keys) {
  const heed::detail::mask_parts& m = heed::detail::parts(mask);
  if (m.conflict != nullptr) heed::detail::fail(m.conflict);
  std::vector<sequence> all;
  if (!m.has(m.packed)) {
    for (index_t b = 0; b < batches; ++b) all.push_back({b, b, 0, queries, 0, keys});
    return all;
  }
  const auto &q = m.query_offsets, &k = m.key_offsets;
  for (std::size_t s = 1; s < q.size(); ++s)
    all.push_back({static_cast<index_t>(s) - 1, 0, q[s - 1], q[s] - q[s - 1], k[s - 1], k[s] - k[s - 1]});
  return all;
}

// The sink logit of a head of o; -inf, which is as good as none, where there is none
template <class Options> double sink_of(const Options& options, index_t head) {
  return options.sink_logits.set() ? options.sink_logits.at(head) : -infinity;
}

// The rules of the options of a kernel: which keys a query sees and with which score
template <class Acc, class Options> struct pair_rules {
  const Options& options;
  index_t head_dim = 1;
  const heed::detail::mask_parts& mask = heed::detail::parts(options.mask);

  // Keys that key_lengths leaves
  index_t length(const sequence& s) const {
    return mask.has(mask.key_lengths) ? mask.lengths[static_cast<std::size_t>(s.number)] : s.keys;
  }
  // The position of the query on the key axis
  index_t place_of(const sequence& s, index_t query) const {
    const heed::detail::alignment_parts& align = heed::detail::parts(options.align);
    if (align.has_first) return align.first[static_cast<std::size_t>(s.number)] + query;
    if (align.end_of_lengths) return query + length(s) - s.queries;
    return align.top_left ? query : query + s.keys - s.queries;
  }
  position at(const sequence& s, index_t head, index_t query, index_t key) const {
    const auto number32 = [](index_t x) {
      using limit = std::numeric_limits<std::int32_t>;
      return static_cast<std::int32_t>(std::clamp<index_t>(x, limit::min(), limit::max()));
    };
    return {number32(s.number), number32(head), number32(query), number32(key), number32(place_of(s, query))};
  }

  bool visible(const sequence& s, const position& at) const {
    const index_t place = place_of(s, at.query), key = at.key, query_row = s.first_query + at.query,
                  key_row = s.first_key + key;
    if (key >= s.lost && key < s.end_of_lost) return false;
    if (mask.has(mask.causal) && key > place) return false;
    if (mask.has(mask.window)) {
      if (mask.left >= 0 && place - key > mask.left && key >= mask.keep_first) return false;
      if (mask.right >= 0 && key - place > mask.right) return false;
    }
    if (key >= length(s)) return false;
    if (mask.has(mask.prefix_lm) && key > place && key >= mask.prefix[static_cast<std::size_t>(s.number)]) return false;
    if (mask.has(mask.segments) && mask.query_ids(s.batch, query_row) != mask.key_ids(s.batch, key_row)) return false;
    if (mask.has(mask.keep) && !broadcast_element(mask.keep_tensor, s.batch, at.head, query_row, key_row)) return false;
    if (mask.has(mask.visible_if)) {
      Acc score = 0;
      heed::detail::hide(mask, tile_of(score, at));
      if (!heed::detail::equals(score, 0)) return false;  // -inf
    }
    return true;
  }

  // The score of a visible pair, from q_i.k_j
  double score(const sequence& s, const position& at, double dot) const {
    const double x = terms(s, at, dot);
    const auto& function = heed::detail::parts(options.score);
    if (function.map_value == nullptr) return x;
    Acc y = static_cast<Acc>(x);  // it takes and returns Acc
    heed::detail::map_value(function, tile_of(y, at));
    return static_cast<double>(y);
  }

  // The derivatives of that score: by the terms that are added, and by the scaled product that is soft-capped first.
  struct derivatives {
    double by_terms = 1, by_product = 1;
  };
  derivatives derivatives_of(const sequence& s, const position& at, double dot) const {
    derivatives d;
    const auto& function = heed::detail::parts(options.score);
    if (function.map_derivative != nullptr) {
      Acc y = static_cast<Acc>(terms(s, at, dot));
      heed::detail::map_derivative(function, tile_of(y, at));
      d.by_terms = static_cast<double>(y);
    }
    d.by_product = d.by_terms;
    if (soft_capped()) d.by_product /= std::pow(std::cosh(scale() * dot / options.softcap), 2);  // 1 - tanh^2
    return d;
  }
  double scale() const { return options.scale.value_or(1 / std::sqrt(static_cast<double>(head_dim))); }

  // What is an error of backward alone
  void check_derivative() const {
    const auto& function = heed::detail::parts(options.score);
    if (function.map_value != nullptr && function.map_derivative == nullptr)
      heed::detail::fail("score has no derivative, which backward needs: give it as score_function(f, df_ds)");
  }

 private:
  bool soft_capped() const { return options.softcap > 0 && options.softcap < infinity; }

  // The score of a visible pair before the caller's function
  double terms(const sequence& s, const position& at, double dot) const {
    double x = scale() * dot;
    if (soft_capped()) x = options.softcap * std::tanh(x / options.softcap);
    if (options.alibi_slopes.set()) {
      const index_t distance = place_of(s, at.query) - at.key;
      x -= options.alibi_slopes.at(at.head) * static_cast<double>(std::abs(distance));
    }
    if (options.bias.data() == nullptr) return x;
    const double bias =
        number(broadcast_element(options.bias, s.batch, at.head, s.first_query + at.query, s.first_key + at.key));
    return heed::detail::equals(bias, -infinity) ? bias : x + bias;  // it hides the key, whatever the key holds
  }

  // User functions are called per tile: here a tile of one pair.
  static heed::detail::score_tile<Acc> tile_of(Acc& score, const position& at) {
    return {&score, 1, at.key, 1, 1, at.batch, &at.head, &at.query, &at.place};
  }
};

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
