// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Mixture-of-head attention and its routers as definitions, in double:
//
//   o_hi = gate_hi * sum_j p_hij v_j,   p_hi = softmax over the visible j of score(scale q_hi.k_j),   0 where gate is 0
//
// The kernels are tested against it. It takes the types of core/ from them and no code: masks, places, the head map and
// the order of heads are read here once more, beside those of the reference of softmax. Slow on purpose.

#include "heed/reference/eigen.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/error.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/score_function.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/reference/subnormal.hpp"

namespace heed::reference::mixture_of_head {
namespace detail {
inline namespace HEED_ISA {

inline constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

template <class T> double number(const T& x) {
  if constexpr (sizeof(T) == 2)
    return reference::detail::normal_or_zero<T>(static_cast<double>(static_cast<float>(x)));
  else
    return reference::detail::normal_or_zero<T>(static_cast<double>(x));
}
template <class T> void put(T& to, double x) {
  x = reference::detail::normal_or_zero<T>(x);
  if constexpr (sizeof(T) == 2)
    to = T(static_cast<float>(x));
  else
    to = static_cast<T>(x);
}
template <class T> T& at(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t j) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + j * x.stride(3)];
}
template <class T> T& at(const tensor_view<T, 3>& x, index_t b, index_t h, index_t i) {
  return x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2)];
}
// Axes of extent 1 hold for every index.
template <class T> T& shared_at(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t j) {
  return at(x, std::min(b, x.extent(0) - 1), std::min(h, x.extent(1) - 1), std::min(i, x.extent(2) - 1),
            std::min(j, x.extent(3) - 1));
}

// The rows of one head
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T> row_major head_of(const tensor_view<T, 4>& x, index_t b, index_t h) {
  row_major rows(x.extent(2), x.extent(3));
  for (index_t i = 0; i < rows.rows(); ++i)
    for (index_t d = 0; d < rows.cols(); ++d) rows(i, d) = number(at(x, b, h, i, d));
  return rows;
}

// A query and the sequence that it belongs to: keys are those of the tensor from first_key on.
struct row {
  index_t sequence, batch, query, first_query, queries, first_key, keys;
};

inline row row_of(const heed::detail::mask_parts& mask, index_t batch, index_t i, index_t queries, index_t keys) {
  if (!mask.has(mask.packed)) return {batch, batch, i, 0, queries, 0, keys};
  index_t s = 0;
  while (i >= mask.query_offsets[static_cast<std::size_t>(s + 1)]) ++s;
  const auto n = static_cast<std::size_t>(s);
  const index_t first = mask.query_offsets[n], key = mask.key_offsets[n];
  return {s, 0, i - first, first, mask.query_offsets[n + 1] - first, key, mask.key_offsets[n + 1] - key};
}

template <class Acc> struct rules {
  const heed::mixture_of_head::options<Acc>& options;
  const heed::detail::mask_parts& mask = heed::detail::parts(options.mask);

  index_t place(const row& r) const {
    const auto& align = heed::detail::parts(options.align);
    if (align.has_first) return r.query + align.first[static_cast<std::size_t>(r.sequence)];
    if (align.end_of_lengths) return mask.lengths[static_cast<std::size_t>(r.sequence)] + (r.query - r.queries);
    return align.top_left ? r.query : r.query + (r.keys - r.queries);
  }
  position position_of(const row& r, index_t head, index_t key) const {
    constexpr index_t low = std::numeric_limits<std::int32_t>::min(), high = std::numeric_limits<std::int32_t>::max();
    return {static_cast<std::int32_t>(r.sequence), static_cast<std::int32_t>(head), static_cast<std::int32_t>(r.query),
            static_cast<std::int32_t>(key), static_cast<std::int32_t>(std::clamp(place(r), low, high))};
  }

  bool sees(const row& r, index_t head, index_t key) const {
    const index_t p = place(r), n = r.sequence;
    bool seen = true;
    if (mask.has(mask.causal)) seen = seen && key <= p;
    if (mask.has(mask.window)) {
      const bool left = mask.left < 0 || key >= p - mask.left || key < mask.keep_first;
      seen = seen && left && (mask.right < 0 || key <= p + mask.right);
    }
    if (mask.has(mask.key_lengths)) seen = seen && key < mask.lengths[static_cast<std::size_t>(n)];
    if (mask.has(mask.prefix_lm)) seen = seen && (key <= p || key < mask.prefix[static_cast<std::size_t>(n)]);
    if (mask.has(mask.segments)) {
      const auto id = [](const auto& ids, index_t b, index_t i) {
        return ids.data()[b * ids.stride(0) + i * ids.stride(1)];
      };
      seen =
          seen && id(mask.query_ids, r.batch, r.first_query + r.query) == id(mask.key_ids, r.batch, r.first_key + key);
    }
    if (mask.has(mask.keep))
      seen = seen && shared_at(mask.keep_tensor, r.batch, head, r.first_query + r.query, r.first_key + key);
    if (seen && mask.has(mask.visible_if)) {  // user functions are called per tile: here a tile of one pair
      Acc score = 0;
      const position where = position_of(r, head, key);
      heed::detail::hide(mask, heed::detail::score_tile<Acc>{&score, 1, where.key, 1, 1, where.batch, &where.head,
                                                             &where.query, &where.place});
      seen = heed::detail::equals(score, 0);
    }
    return seen;
  }

  double score(const row& r, index_t head, index_t key, double dot, index_t head_dim) const {
    double s = dot * (options.scale ? *options.scale : 1 / std::sqrt(static_cast<double>(head_dim)));
    if (options.softcap > 0 && !std::isinf(options.softcap)) s = std::tanh(s / options.softcap) * options.softcap;
    if (options.alibi_slopes.set()) s -= static_cast<double>(std::abs(key - place(r))) * options.alibi_slopes.at(head);
    if (options.bias.data() != nullptr) {
      const double b = number(shared_at(options.bias, r.batch, head, r.first_query + r.query, r.first_key + key));
      if (heed::detail::equals(b, minus_infinity)) return b;  // it hides the key, whatever the key holds
      s += b;
    }
    const auto& function = heed::detail::parts(options.score);
    if (function.map_value == nullptr) return s;
    Acc changed = static_cast<Acc>(s);
    const position where = position_of(r, head, key);
    heed::detail::map_value(function, heed::detail::score_tile<Acc>{&changed, 1, where.key, 1, 1, where.batch,
                                                                    &where.head, &where.query, &where.place});
    return static_cast<double>(changed);
  }
};

// Heads 0 .. count - 1 in the order of `better`, ties to the lower index
template <class Better> std::vector<index_t> ranked(index_t count, Better better) {
  std::vector<index_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(), better);
  return order;
}
// Larger numbers first, NaN behind all of them
inline bool before(double a, double b) { return std::isnan(b) ? !std::isnan(a) : a > b; }

inline std::vector<double> softmax_of(const std::vector<double>& x) {
  double top = minus_infinity, sum = 0;
  for (const double value : x) top = std::max(top, value);
  std::vector<double> p;
  for (const double value : x) p.push_back(std::exp(value - top)), sum += p.back();
  for (double& value : p) value /= sum;
  return p;
}

template <class X> std::vector<double> logits_of(const X& x, index_t b, index_t i) {
  std::vector<double> all;
  for (index_t h = 0; h < x.extent(1); ++h) all.push_back(number(at(x, b, h, i)));
  return all;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::mixture_of_head::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), gates (B, H, N),
// o (B, H, N, E); options.lse (B, H, N). Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable G, viewable O>
void forward(const Q& q, const K& k, const V& v, const G& gates, O&& o,
             const heed::mixture_of_head::options<acc_of<Q>>& options = {}) {
  using namespace detail;
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const auto g3 = view<3>(gates);
  const rules<acc_of<Q>> rule{options};
  if (rule.mask.conflict != nullptr) heed::detail::fail(rule.mask.conflict);

  for (index_t b = 0; b < q4.extent(0); ++b)
    for (index_t h = 0; h < q4.extent(1); ++h) {
      const index_t kv = h / (q4.extent(1) / k4.extent(1));
      const row_major queries = head_of(q4, b, h), keys = head_of(k4, b, kv), values = head_of(v4, b, kv);
      const double sink = options.sink_logits.set() ? options.sink_logits.at(h) : minus_infinity;
      for (index_t i = 0; i < q4.extent(2); ++i) {
        const double gate = number(at(g3, b, h, i));
        double lse = minus_infinity;
        Eigen::RowVectorXd head = Eigen::RowVectorXd::Zero(v4.extent(3));
        if (!heed::detail::equals(gate, 0)) {
          const row r = row_of(rule.mask, b, i, q4.extent(2), k4.extent(2));
          std::vector<double> scores;
          double top = sink;
          for (index_t j = 0; j < r.keys; ++j) {
            scores.push_back(minus_infinity);
            if (!rule.sees(r, h, j)) continue;
            scores.back() = rule.score(r, h, j, queries.row(i).dot(keys.row(r.first_key + j)), q4.extent(3));
            top = std::max(top, scores.back());
          }
          double sum = heed::detail::equals(sink, minus_infinity) ? 0 : std::exp(sink - top);
          bool any = false;
          for (index_t j = 0; j < r.keys; ++j) {
            const double s = scores[static_cast<std::size_t>(j)];
            if (heed::detail::equals(s, minus_infinity)) continue;
            any = true, sum += std::exp(s - top);
            head += std::exp(s - top) * values.row(r.first_key + j);
          }
          if (!heed::detail::equals(sum, 0)) lse = top + std::log(sum);
          if (any) head *= gate / sum;  // no key: 0 under any gate
        }
        for (index_t e = 0; e < head.size(); ++e) put(at(o4, b, h, i, e), head(e));
        if (options.lse.data() != nullptr) put(at(options.lse, b, h, i), lse);
      }
    }
}

// heed::mixture_of_head::route_trained: logits (B, H - shared, N), (B, shared, N) and (B, 2, N) or null where the
// routing does not need them, (B, H, N) for active 0. Writes gates (B, H, N), returns the load-balance loss.
template <viewable R, viewable S, viewable A, viewable G>
double route_trained(const R& routed_logits, const S& shared_logits, const A& mix_logits,
                     const heed::mixture_of_head::routing& how, G&& gates) {
  using namespace detail;
  const auto routed = view<3>(routed_logits);
  const auto shared = view<3>(shared_logits);
  const auto mix = view<3>(mix_logits);
  const auto out = view<3>(gates);
  const index_t heads = out.extent(1), first = how.active == 0 ? heads : how.shared, count = heads - first;
  std::vector<double> probability(static_cast<std::size_t>(count), 0.0), chosen(probability);
  for (index_t b = 0; b < out.extent(0); ++b)
    for (index_t i = 0; i < out.extent(2); ++i) {
      double shared_factor = 1, routed_factor = 1;
      if (first > 0 && count > 0) {
        const std::vector<double> alpha = softmax_of(logits_of(mix, b, i));
        shared_factor = 2 * alpha[0], routed_factor = 2 * alpha[1];
      }
      if (first > 1) {
        const std::vector<double> p = softmax_of(logits_of(shared, b, i));
        for (index_t h = 0; h < first; ++h)
          put(at(out, b, h, i), shared_factor * p[static_cast<std::size_t>(h)] * static_cast<double>(first));
      } else if (first == 1) {
        put(at(out, b, 0, i), shared_factor);
      }
      if (count == 0) continue;
      const std::vector<double> logits = logits_of(routed, b, i), p = softmax_of(logits);
      const std::vector<index_t> order = ranked(count, [&](index_t x, index_t y) {
        return before(logits[static_cast<std::size_t>(x)], logits[static_cast<std::size_t>(y)]);
      });
      double kept = 0;
      for (index_t x = 0; x < how.active; ++x) kept += p[static_cast<std::size_t>(order[static_cast<std::size_t>(x)])];
      for (index_t x = 0; x < count; ++x) {
        const auto h = static_cast<std::size_t>(order[static_cast<std::size_t>(x)]);
        const bool on = x < how.active;
        probability[h] += p[h], chosen[h] += on ? 1 : 0;
        put(at(out, b, first + static_cast<index_t>(h), i),
            on ? routed_factor * (static_cast<double>(how.active) * (p[h] / kept)) : 0);
      }
    }
  const double tokens = static_cast<double>(out.extent(0) * out.extent(2));
  double loss = 0;
  for (std::size_t h = 0; tokens > 0 && h < probability.size(); ++h)
    loss += static_cast<double>(count) * (probability[h] / tokens) * (chosen[h] / tokens);
  return loss;
}

// heed::mixture_of_head::route_by_norm: q (B, H, N, D), gates (B, H, N).
template <viewable Q, viewable G> void route_by_norm(const Q& q, const heed::mixture_of_head::routing& how, G&& gates) {
  using namespace detail;
  const auto q4 = view(q);
  const auto out = view<3>(gates);
  const index_t heads = out.extent(1);
  for (index_t b = 0; b < out.extent(0); ++b)
    for (index_t i = 0; i < out.extent(2); ++i) {
      std::vector<double> norms;
      for (index_t h = how.shared; h < heads; ++h) {
        double sum = 0;
        for (index_t d = 0; d < q4.extent(3); ++d) sum += std::pow(number(at(q4, b, h, i, d)), 2);
        norms.push_back(sum);
      }
      const std::vector<index_t> order = ranked(heads - how.shared, [&](index_t x, index_t y) {
        return before(norms[static_cast<std::size_t>(x)], norms[static_cast<std::size_t>(y)]);
      });
      for (index_t h = 0; h < how.shared; ++h) put(at(out, b, h, i), 1);
      for (std::size_t x = 0; x < order.size(); ++x)
        put(at(out, b, how.shared + order[x], i), static_cast<index_t>(x) < how.active ? 1 : 0);
    }
}

}  // namespace HEED_ISA
}  // namespace heed::reference::mixture_of_head
