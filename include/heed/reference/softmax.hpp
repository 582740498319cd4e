// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention as the textbook has it, in double, one pair (query i, key j) after the other:
//
//   s_ij  = score(scale q_i.k_j, soft-capped, - slope |place_i - j|, + bias_ij);  -inf where a mask hides the pair
//   lse_i = log(sum_j exp(s_ij) + exp(sink))
//   o_i   = sum_j exp(s_ij - lse_i) v_j
//
// The kernels are tested against it. It shares no arithmetic with them: see reference/rules.hpp. Slow on purpose.

#include <algorithm>
#include <cmath>

#include "heed/reference/cache.hpp"
#include "heed/reference/rules.hpp"
#include "heed/reference/softmax_backward.hpp"
#include "heed/softmax/options.hpp"

namespace heed::reference::softmax {
namespace detail {
inline namespace HEED_ISA {

using namespace reference::detail;

// Calls row(sequence, head, query, scores, values) for every query of a head: the scores of all keys, -inf where a key
// is hidden, and the values of all keys, which are to be read where the score is not -inf only.
template <class Rules, class Row>
void rows_of_head(const Rules& rules, const sequence& s, index_t head, const row_major& queries, const row_major& keys,
                  const row_major& values, const Row& row) {
  for (index_t i = 0; i < s.queries; ++i) {
    Eigen::VectorXd scores = Eigen::VectorXd::Constant(s.keys, -infinity);
    for (index_t j = 0; j < s.keys; ++j) {
      const position at = rules.at(s, head, i, j);
      if (rules.visible(s, at)) scores(j) = rules.score(s, at, queries.row(i).dot(keys.row(j)));
    }
    row(s, head, i, scores, values);
  }
}

// The same for all heads: compute head c of max(H, Hk) reads query head c / (max / H) and key/value head
// c / (max / Hk).
template <class Q, class K, class V, class Acc, class Row>
void each_row(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
              const heed::softmax::options<Acc>& options, const Row& row) {
  const pair_rules<Acc, heed::softmax::options<Acc>> rules{options, q.extent(3)};
  const auto sequences = sequences_of(options.mask, q.extent(0), q.extent(2), k.extent(2));
  if (q.extent(1) == 0 || k.extent(1) == 0) return;
  const index_t heads = std::max(q.extent(1), k.extent(1));
  for (const sequence& s : sequences)
    for (index_t head = 0; head < heads; ++head) {
      const index_t q_head = head / (heads / q.extent(1)), kv_head = head / (heads / k.extent(1));
      rows_of_head(rules, s, head, rows_of(q, s.batch, q_head, s.first_query, s.queries),
                   rows_of(k, s.batch, kv_head, s.first_key, s.keys), rows_of(v, s.batch, kv_head, s.first_key, s.keys),
                   row);
    }
}
// The same of the view of a cache, with a shared prefix or without: keys are its tokens.
template <class Q, class Cache, class Acc, class Row>
void each_row(const tensor_view<Q, 4>& q, const Cache& cache, const heed::softmax::options<Acc>& options,
              const Row& row) {
  const pair_rules<Acc, heed::softmax::options<Acc>> rules{options, q.extent(3)};
  each_cached_head(q, cache, options.mask, [&](const sequence& s, index_t head, index_t q_head, const cached& tokens) {
    rows_of_head(rules, s, head, rows_of(q, s.batch, q_head, 0, s.queries), tokens.keys, tokens.values, row);
  });
}

// Sums of one row over the keys whose score is not -inf: of exp(score - row_max), the sink's included, and of the same
// times the values.
struct row_sums {
  double row_max, denominator;
  bool any_key = false;
  Eigen::VectorXd values;

  row_sums(const Eigen::VectorXd& scores, const row_major& v, double sink)
      : row_max(sink), values(Eigen::VectorXd::Zero(v.cols())) {
    for (const double x : scores) row_max = std::max(row_max, x);
    denominator = heed::detail::equals(sink, -infinity) ? 0 : std::exp(sink - row_max);
    for (index_t j = 0; j < scores.size(); ++j) {
      if (heed::detail::equals(scores(j), -infinity)) continue;
      const double weight = std::exp(scores(j) - row_max);
      any_key = true, denominator += weight;
      values += weight * v.row(j).transpose();
    }
  }
  bool sees_nothing() const { return heed::detail::equals(denominator, 0); }
  double lse() const { return sees_nothing() ? -infinity : row_max + std::log(denominator); }
};

// What each_row calls to write o and lse
template <class O, class Acc> auto row_writer(const tensor_view<O, 4>& o, const heed::softmax::options<Acc>& options) {
  return [o, &options](const sequence& s, index_t head, index_t i, const auto& scores, const row_major& values) {
    const row_sums sums(scores, values, sink_of(options, head));
    for (index_t e = 0; e < sums.values.size(); ++e)
      store(o(s.batch, head, s.first_query + i, e), sums.sees_nothing() ? 0 : sums.values(e) / sums.denominator);
    if (options.lse.data() != nullptr) store(options.lse(s.batch, head, s.first_query + i), sums.lse());
  };
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::softmax::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E),
// each of float, double or a 16-bit type; options.lse (B, max(H, Hk), N). Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, O&& o, const heed::softmax::options<acc_of<Q>>& options = {}) {
  detail::each_row(view(q), view(k), view(v), options, detail::row_writer(view(o), options));
}

// heed::softmax::decode without context: q (B, H, N, D), o (B, max(H, Hk), N, E), a view of a cache of any kind or an
// owning cache. Lengths, pages and shapes are the caller's duty.
template <viewable Q, class Cache, viewable O>
void decode(const Q& q, const Cache& cache, O&& o, const heed::softmax::options<acc_of<Q>>& options = {}) {
  detail::each_row(view(q), heed::detail::view_of_cache(cache), options, detail::row_writer(view(o), options));
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
        const double first = detail::number(lse3(b, h, i));
        const double second = detail::number(part_lse3(b, h, i)) + log_weight;
        // an empty part changes nothing; two of them are a row without a key
        if (heed::detail::equals(second, -detail::infinity)) {
          for (index_t e = 0; heed::detail::equals(first, -detail::infinity) && e < o4.extent(3); ++e)
            detail::store(o4(b, h, i, e), 0.0);
          continue;
        }
        const double row_max = std::max(first, second);
        const double mine = std::exp(first - row_max), theirs = std::exp(second - row_max);
        for (index_t e = 0; e < o4.extent(3); ++e) {
          auto& x = o4(b, h, i, e);
          const double left = heed::detail::equals(mine, 0) ? 0 : mine * detail::number(x);
          const double right = theirs * detail::number(part4(b, h, i, e));
          detail::store(x, (left + right) / (mine + theirs));
        }
        detail::store(lse3(b, h, i), row_max + std::log(mine + theirs));
      }
}

}  // namespace HEED_ISA
}  // namespace heed::reference::softmax
