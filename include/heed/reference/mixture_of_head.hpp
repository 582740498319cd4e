// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Mixture-of-head attention and its routers as definitions, in double:
//
//   o_hi = gate_hi * sum_j p_hij v_j,   p_hi = softmax over the visible j of score(scale q_hi.k_j),   0 where gate is 0
//
// The kernels are tested against it. Scores are those of the reference of softmax; the order of heads is found by
// sorting. It shares no arithmetic with the kernels: see reference/rules.hpp. Slow on purpose.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "heed/mixture_of_head/options.hpp"
#include "heed/reference/mixture_of_head_backward.hpp"
#include "heed/reference/softmax.hpp"

namespace heed::reference::mixture_of_head {
namespace detail {
inline namespace HEED_ISA {

using namespace reference::detail;

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
  double largest = -infinity, sum = 0;
  for (const double value : x) largest = std::max(largest, value);
  std::vector<double> p;
  for (const double value : x) p.push_back(std::exp(value - largest)), sum += p.back();
  for (double& value : p) value /= sum;
  return p;
}

template <class X> std::vector<double> logits_of(const X& x, index_t b, index_t i) {
  std::vector<double> all;
  for (index_t h = 0; h < x.extent(1); ++h) all.push_back(number(x(b, h, i)));
  return all;
}

// What each_row calls to write o and lse
template <class G, class O, class Acc>
auto row_writer(const tensor_view<G, 3>& gates, const tensor_view<O, 4>& o,
                const heed::mixture_of_head::options<Acc>& options) {
  return [=, &options](const sequence& s, index_t h, index_t i, const auto& scores, const row_major& values) {
    const index_t query = s.first_query + i;
    const double gate = number(gates(s.batch, h, query));
    const bool off = heed::detail::equals(gate, 0);
    const softmax::detail::row_sums sums(scores, values, softmax::detail::sink_of(options, h));
    for (index_t e = 0; e < values.cols(); ++e)  // without a key 0 under any gate
      store(o(s.batch, h, query, e), off || !sums.any_key ? 0 : sums.values(e) * (gate / sums.denominator));
    if (options.lse.data() != nullptr) store(options.lse(s.batch, h, query), off ? -infinity : sums.lse());
  };
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::mixture_of_head::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), gates (B, H, N),
// o (B, H, N, E); options.lse (B, H, N). Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable G, viewable O>
void forward(const Q& q, const K& k, const V& v, const G& gates, O&& o,
             const heed::mixture_of_head::options<acc_of<Q>>& options = {}) {
  softmax::detail::each_row(view(q), view(k), view(v), options, detail::row_writer(view<3>(gates), view(o), options));
}

// heed::mixture_of_head::decode without context: of q, a cache, gates (B, H, N) and o as in the reference of softmax.
template <viewable Q, class Cache, viewable G, viewable O>
void decode(const Q& q, const Cache& cache, const G& gates, O&& o,
            const heed::mixture_of_head::options<acc_of<Q>>& options = {}) {
  softmax::detail::each_row(view(q), heed::detail::view_of_cache(cache), options,
                            detail::row_writer(view<3>(gates), view(o), options));
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
          store(out(b, h, i), shared_factor * p[static_cast<std::size_t>(h)] * static_cast<double>(first));
      } else if (first == 1) {
        store(out(b, 0, i), shared_factor);
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
        store(out(b, first + static_cast<index_t>(h), i),
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
        for (index_t d = 0; d < q4.extent(3); ++d) sum += std::pow(number(q4(b, h, i, d)), 2);
        norms.push_back(sum);
      }
      const std::vector<index_t> order = ranked(heads - how.shared, [&](index_t x, index_t y) {
        return before(norms[static_cast<std::size_t>(x)], norms[static_cast<std::size_t>(y)]);
      });
      for (index_t h = 0; h < how.shared; ++h) store(out(b, h, i), 1.0);
      for (std::size_t x = 0; x < order.size(); ++x)
        store(out(b, how.shared + order[x], i), static_cast<index_t>(x) < how.active ? 1.0 : 0.0);
    }
}

}  // namespace HEED_ISA
}  // namespace heed::reference::mixture_of_head
