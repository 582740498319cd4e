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
    double x = options.scale.value_or(1 / std::sqrt(static_cast<double>(head_dim))) * dot;
    if (options.softcap > 0 && options.softcap < infinity) x = options.softcap * std::tanh(x / options.softcap);
    if (options.alibi_slopes.set()) {
      const index_t distance = place_of(s, at.query) - at.key;
      x -= options.alibi_slopes.at(at.head) * static_cast<double>(std::abs(distance));
    }
    if (options.bias.data() != nullptr) {
      const double bias =
          number(broadcast_element(options.bias, s.batch, at.head, s.first_query + at.query, s.first_key + at.key));
      x = heed::detail::equals(bias, -infinity) ? bias : x + bias;  // it hides the key, whatever the key holds
    }
    const auto& function = heed::detail::parts(options.score);
    if (function.map_value == nullptr) return x;
    Acc y = static_cast<Acc>(x);  // it takes and returns Acc
    heed::detail::map_value(function, tile_of(y, at));
    return static_cast<double>(y);
  }

 private:
  // User functions are called per tile: here a tile of one pair.
  static heed::detail::score_tile<Acc> tile_of(Acc& score, const position& at) {
    return {&score, 1, at.key, 1, 1, at.batch, &at.head, &at.query, &at.place};
  }
};

}  // namespace HEED_ISA
}  // namespace heed::reference::detail
