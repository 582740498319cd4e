// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention as the textbook has it, in double, one pair (query i, key j) after the other:
//
//   s_ij  = score(scale q_i.k_j, soft-capped, - slope |place_i - j|, + bias_ij);  -inf where a mask hides the pair
//   lse_i = log(sum_j exp(s_ij) + exp(sink))
//   o_i   = sum_j exp(s_ij - lse_i) v_j
//
// The kernels are tested against it. It takes the types of core/ from them and no code: masks, places and the head map
// are read here a second time. Slow on purpose.

#include "heed/reference/eigen.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/error.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/score_function.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/reference/subnormal.hpp"
#include "heed/softmax/options.hpp"

namespace heed::reference::softmax {
namespace detail {
inline namespace HEED_ISA {

using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
inline constexpr double infinity = std::numeric_limits<double>::infinity();

// 16-bit types widen to float exactly and have no way of their own from double.
template <class T> double to_double(const T& x) {
  if constexpr (sizeof(T) == 2)
    return reference::detail::normal_or_zero<T>(static_cast<double>(static_cast<float>(x)));
  else
    return reference::detail::normal_or_zero<T>(static_cast<double>(x));
}
template <class T> void store(T& to, double x) {
  x = reference::detail::normal_or_zero<T>(x);
  if constexpr (sizeof(T) == 2)
    to = T(static_cast<float>(x));
  else
    to = static_cast<T>(x);
}

template <class T> T& element(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t j) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + j * x.stride(3)];
}
template <class T> T& element(const tensor_view<T, 3>& x, index_t b, index_t h, index_t i) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2)];
}
// The same where axes of extent 1 hold for every index.
template <class T> T& broadcast_element(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t j) {
  return element(x, x.extent(0) == 1 ? 0 : b, x.extent(1) == 1 ? 0 : h, x.extent(2) == 1 ? 0 : i,
                 x.extent(3) == 1 ? 0 : j);
}

// One sequence: a batch entry, or one of the pieces that packed() cuts the only batch entry into. Queries and keys are
// counted from its start; the tensors have them from first_query and first_key on.
struct sequence {
  index_t number, batch, first_query, queries, first_key, keys;
};

// Rows of one head of one sequence.
template <class T>
row_major rows_of(const tensor_view<T, 4>& x, index_t batch, index_t head, index_t first, index_t count) {
  row_major rows(count, x.extent(3));
  for (index_t i = 0; i < count; ++i)
    for (index_t d = 0; d < x.extent(3); ++d) rows(i, d) = to_double(element(x, batch, head, first + i, d));
  return rows;
}

template <class Acc> struct problem {
  index_t batches, query_heads, kv_heads, queries, keys, head_dim;
  const heed::softmax::options<Acc>& options;
  const heed::detail::mask_parts& mask;

  // Compute head c reads query head c / (heads / query_heads) and key/value head c / (heads / kv_heads).
  index_t heads() const { return std::max(query_heads, kv_heads); }
  index_t query_head(index_t head) const { return head / (heads() / query_heads); }
  index_t kv_head(index_t head) const { return head / (heads() / kv_heads); }

  index_t sequences() const {
    return mask.has(mask.packed) ? static_cast<index_t>(mask.query_offsets.size()) - 1 : batches;
  }
  sequence sequence_at(index_t number) const {
    if (!mask.has(mask.packed)) return {number, number, 0, queries, 0, keys};
    const auto n = static_cast<std::size_t>(number);
    const index_t query = mask.query_offsets[n], key = mask.key_offsets[n];
    return {number, 0, query, mask.query_offsets[n + 1] - query, key, mask.key_offsets[n + 1] - key};
  }

  // Where the query sits on the key axis.
  index_t place_of(const sequence& s, index_t query) const {
    const heed::detail::alignment_parts& align = heed::detail::parts(options.align);
    if (align.has_first) return align.first[static_cast<std::size_t>(s.number)] + query;
    if (align.end_of_lengths) return query + mask.lengths[static_cast<std::size_t>(s.number)] - s.queries;
    return align.top_left ? query : query + s.keys - s.queries;
  }

  // Every rule of the mask as its definition reads.
  bool visible(const sequence& s, const position& at) const {
    const auto n = static_cast<std::size_t>(s.number);
    const index_t place = place_of(s, at.query), key = at.key, query_row = s.first_query + at.query,
                  key_row = s.first_key + key;
    if (mask.has(mask.causal) && key > place) return false;
    if (mask.has(mask.window)) {
      if (mask.left >= 0 && place - key > mask.left && key >= mask.keep_first) return false;
      if (mask.right >= 0 && key - place > mask.right) return false;
    }
    if (mask.has(mask.key_lengths) && key >= mask.lengths[n]) return false;
    if (mask.has(mask.prefix_lm) && key > place && key >= mask.prefix[n]) return false;
    if (mask.has(mask.segments)) {
      const auto &q = mask.query_ids, &k = mask.key_ids;
      const std::int32_t mine = q.data()[s.batch * q.stride(0) + query_row * q.stride(1)];
      const std::int32_t theirs = k.data()[s.batch * k.stride(0) + key_row * k.stride(1)];
      if (mine != theirs) return false;
    }
    if (mask.has(mask.keep) && !broadcast_element(mask.keep_tensor, s.batch, at.head, query_row, key_row)) return false;
    if (mask.has(mask.visible_if)) {
      Acc score = 0;
      heed::detail::hide(mask, one_pair(score, at));
      if (!heed::detail::equals(score, 0)) return false;  // -inf
    }
    return true;
  }

  // The score of a visible pair, from q_i.k_j.
  double score(const sequence& s, const position& at, double dot) const {
    double x = options.scale.value_or(1 / std::sqrt(static_cast<double>(head_dim))) * dot;
    if (options.softcap > 0 && options.softcap < infinity) x = options.softcap * std::tanh(x / options.softcap);
    if (options.alibi_slopes.set()) {
      const index_t distance = place_of(s, at.query) - at.key;
      x -= options.alibi_slopes.at(at.head) * static_cast<double>(std::abs(distance));
    }
    if (options.bias.data() != nullptr) {
      const double bias =
          to_double(broadcast_element(options.bias, s.batch, at.head, s.first_query + at.query, s.first_key + at.key));
      x = heed::detail::equals(bias, -infinity) ? bias : x + bias;  // it hides the key, whatever the key holds
    }
    const auto& function = heed::detail::parts(options.score);
    if (function.map_value != nullptr) {  // it takes and returns Acc
      Acc y = static_cast<Acc>(x);
      heed::detail::map_value(function, one_pair(y, at));
      x = static_cast<double>(y);
    }
    return x;
  }

  // User functions are called per tile: here a tile of one.
  static heed::detail::score_tile<Acc> one_pair(Acc& score, const position& at) {
    return {&score, 1, at.key, 1, 1, at.batch, &at.head, &at.query, &at.place};
  }
};

// Calls row(sequence, head, query, scores, values) for every query: the scores of all keys, -inf where a key is hidden,
// and the values of all keys, which are to be read where the score is not -inf only.
template <class Q, class K, class V, class Acc, class Row>
void each_row(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
              const heed::softmax::options<Acc>& options, const Row& row) {
  const problem<Acc> p{q.extent(0), q.extent(1), k.extent(1), q.extent(2),
                       k.extent(2), q.extent(3), options,     heed::detail::parts(options.mask)};
  if (p.query_heads == 0 || p.kv_heads == 0) return;
  for (index_t number = 0; number < p.sequences(); ++number) {
    const sequence s = p.sequence_at(number);
    for (index_t head = 0; head < p.heads(); ++head) {
      const row_major queries = rows_of(q, s.batch, p.query_head(head), s.first_query, s.queries);
      const row_major keys = rows_of(k, s.batch, p.kv_head(head), s.first_key, s.keys);
      const row_major values = rows_of(v, s.batch, p.kv_head(head), s.first_key, s.keys);
      for (index_t i = 0; i < s.queries; ++i) {
        Eigen::VectorXd scores = Eigen::VectorXd::Constant(s.keys, -infinity);
        for (index_t j = 0; j < s.keys; ++j) {
          const auto number32 = [](index_t x) { return static_cast<std::int32_t>(x); };
          const index_t place = std::clamp<index_t>(p.place_of(s, i), std::numeric_limits<std::int32_t>::min(),
                                                    std::numeric_limits<std::int32_t>::max());
          const position at{number32(s.number), number32(head), number32(i), number32(j), number32(place)};
          if (p.visible(s, at)) scores(j) = p.score(s, at, queries.row(i).dot(keys.row(j)));
        }
        row(s, head, i, scores, values);
      }
    }
  }
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::softmax::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E),
// each of float, double or a 16-bit type; options.lse (B, max(H, Hk), N). Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, O&& o, const heed::softmax::options<acc_of<Q>>& options = {}) {
  const char* const conflict = heed::detail::parts(options.mask).conflict;
  if (conflict != nullptr) heed::detail::fail(conflict);
  const auto output = view(o);
  const auto row = [&](const detail::sequence& s, index_t head, index_t i, const Eigen::VectorXd& scores,
                       const detail::row_major& values) {
    const double sink = options.sink_logits.set() ? options.sink_logits.at(head) : -detail::infinity;
    double top = sink;  // keeps exp in range and cancels out
    for (const double x : scores) top = std::max(top, x);

    double sum = heed::detail::equals(sink, -detail::infinity) ? 0 : std::exp(sink - top);
    Eigen::VectorXd weighted = Eigen::VectorXd::Zero(values.cols());
    for (index_t j = 0; j < scores.size(); ++j) {
      if (heed::detail::equals(scores(j), -detail::infinity)) continue;  // hidden: neither weight nor value counts
      const double weight = std::exp(scores(j) - top);
      sum += weight;
      weighted += weight * values.row(j).transpose();
    }

    const index_t query = s.first_query + i;
    const bool sees_nothing = heed::detail::equals(sum, 0);
    for (index_t e = 0; e < weighted.size(); ++e)
      detail::store(detail::element(output, s.batch, head, query, e), sees_nothing ? 0 : weighted(e) / sum);
    if (options.lse.data() != nullptr)
      detail::store(detail::element(options.lse, s.batch, head, query),
                    sees_nothing ? -detail::infinity : top + std::log(sum));
  };
  detail::each_row(view(q), view(k), view(v), options, row);
}

// Joins (o, lse) of some keys, o (B, H, N, E) and lse (B, H, N), with (part, part_lse + log_weight) of other keys.
template <viewable O, viewable L, viewable P, viewable R>
void merge(O&& o, L&& lse, const P& part, const R& part_lse, double log_weight = 0) {
  const auto o4 = view(o);
  const auto lse3 = view<3>(lse);
  const auto part4 = view(part);
  const auto part_lse3 = view<3>(part_lse);
  for (index_t b = 0; b < o4.extent(0); ++b)
    for (index_t h = 0; h < o4.extent(1); ++h)
      for (index_t i = 0; i < o4.extent(2); ++i) {
        const double first = detail::to_double(detail::element(lse3, b, h, i));
        const double second = detail::to_double(detail::element(part_lse3, b, h, i)) + log_weight;
        // an empty part changes nothing; two of them are a row without a key
        if (heed::detail::equals(second, -detail::infinity)) {
          for (index_t e = 0; heed::detail::equals(first, -detail::infinity) && e < o4.extent(3); ++e)
            detail::store(detail::element(o4, b, h, i, e), 0);
          continue;
        }
        const double top = std::max(first, second);
        const double mine = std::exp(first - top), theirs = std::exp(second - top);
        for (index_t e = 0; e < o4.extent(3); ++e) {
          auto& x = detail::element(o4, b, h, i, e);
          const double left = heed::detail::equals(mine, 0) ? 0 : mine * detail::to_double(x);
          const double right = theirs * detail::to_double(detail::element(part4, b, h, i, e));
          detail::store(x, (left + right) / (mine + theirs));
        }
        detail::store(detail::element(lse3, b, h, i), top + std::log(mine + theirs));
      }
}

}  // namespace HEED_ISA
}  // namespace heed::reference::softmax
