// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The routers of the authors choose which heads a token uses, and with which weight, from logits of the caller's dense
// layers. Of H heads the first S = shared are always on; of the E = H - S routed ones each token keeps K = active. They
// compute in double.
//
//   trained (ViT, DiT)   P = softmax(routed logits);  kept: the K largest;  r_h = K P_h / sum of the kept P
//                        s = S softmax(shared logits), 1 for S = 1;  (a_0, a_1) = 2 softmax(mix logits) for S > 0
//                        gates = [a_0 s, a_1 r], 0 where not kept;  K = 0: H softmax(shared logits) over all H heads
//                        loss = E sum_h (mean of P_h over the tokens) (share of the tokens that keep h)
//   by norm (LLaMA)      gates 1 for shared heads and for the K of largest |q_h|, else 0
//
// Jin et al., MoH (arXiv 2410.11842), and what its released code does.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/simd/float_control.hpp"

namespace heed::mixture_of_head {
namespace detail {
inline namespace HEED_ISA {

// out[h] = x(b, h, i), for every head
template <class X> void read_heads(const tensor_view<const X, 3>& x, index_t b, index_t i, double* out) {
  for (index_t h = 0; h < x.extent(1); ++h) out[h] = static_cast<double>(x(b, h, i));
}
template <class G> constexpr bool gate_storage() {
  static_assert(std::is_floating_point_v<heed::detail::value_t<G>>, "heed: gates are float or double");
  static_assert(heed::detail::writable<G>, "heed: gates are written, they cannot be const or an owning temporary");
  return true;
}

inline void softmax_in_place(double* x, index_t count) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (index_t h = 0; h < count; ++h) largest = std::max(largest, x[h]);  // passes over NaN, which reaches the sum
  for (index_t h = 0; h < count; ++h) x[h] = std::exp(x[h] - largest), sum += x[h];
  for (index_t h = 0; h < count; ++h) x[h] /= sum;
}

// kept[h] = 1 for the `keep` largest, else 0. Ties go to the lower index; NaN counts as less than any number.
inline void keep_largest(const double* x, index_t count, index_t keep, double* kept) {
  std::fill(kept, kept + count, 0.0);
  for (; keep > 0; --keep) {
    index_t best = -1;
    for (index_t h = 0; h < count; ++h)
      if (!(kept[h] > 0) && (best < 0 || x[h] > x[best] || (std::isnan(x[best]) && !std::isnan(x[h])))) best = h;
    kept[best] = 1;
  }
}

inline void check_routing(heed::detail::checker& check, const routing& routing,
                          const heed::detail::named_tensor& gates) {
  check.tensor(gates, false), check.written(gates);
  const index_t heads = gates.extent(1);
  if (!check.ok()) return;
  if (!check.require(routing.shared >= 0 && routing.shared <= heads,
                     "routing.shared is %, must be 0 to % (the heads of gates)", routing.shared, heads))
    return;
  check.require(routing.active >= 0 && routing.active <= heads - routing.shared,
                "routing.active is %, must be 0 to % (heads less the shared ones)", routing.active,
                heads - routing.shared);
}

// Checks logits that a routing reads, of `heads` heads.
inline void check_logits(heed::detail::checker& check, const heed::detail::named_tensor& logits, index_t heads,
                         const heed::detail::named_tensor& gates) {
  if (!check.require(gates.empty() || logits.data != nullptr, "% is null, but this routing reads it", logits.name))
    return;
  check.tensor(logits, false);
  check.equal(logits, gates, 0, "batch");
  check.require(logits.extent(1) == heads, "% has heads %, needs % (gates has %)", logits.name, logits.extent(1), heads,
                gates.extent(1));
  check.equal(logits, gates, 2, "queries");
  check.distinct(gates, logits);
}

// A call of route_trained
template <class R, class S, class A, class G> struct trained {
  tensor_view<const R, 3> routed;
  tensor_view<const S, 3> shared;
  tensor_view<const A, 3> mix;
  tensor_view<G, 3> gates;
  index_t first, count, active;  // shared heads, routed heads, kept ones

  // Writes the gates of one token. p and kept have room for all heads; of routed heads they leave P and which are kept.
  void route(index_t b, index_t i, double* p, double* kept) const {
    double factor[2] = {1, 1};  // of shared and routed gates
    if (first > 0 && count > 0) {
      read_heads(mix, b, i, factor), softmax_in_place(factor, 2);
      factor[0] *= 2, factor[1] *= 2;
    }
    p[0] = 1;
    if (first > 1) read_heads(shared, b, i, p), softmax_in_place(p, first);
    for (index_t h = 0; h < first; ++h)
      gates(b, h, i) = static_cast<G>(factor[0] * (static_cast<double>(first) * p[h]));
    if (count == 0) return;
    read_heads(routed, b, i, p);
    keep_largest(p, count, active, kept);
    softmax_in_place(p, count);
    double sum = 0;
    for (index_t h = 0; h < count; ++h)
      if (kept[h] > 0) sum += p[h];
    for (index_t h = 0; h < count; ++h)
      gates(b, first + h, i) =
          static_cast<G>(kept[h] > 0 ? factor[1] * (static_cast<double>(active) * (p[h] / sum)) : 0);
  }
};

// Scratch for `count` arrays with a number per head
inline heed::detail::arena per_head_scratch(index_t heads, std::size_t count) {
  const auto each = static_cast<std::size_t>(heads) * sizeof(double) + heed::detail::arena::alignment;
  return heed::detail::arena({}, each * (count + 1));
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Writes gates (B, H, N) from logits (B, head, N) of float or double in any strides. routed_logits has the H - shared
// routed heads. shared_logits has the shared ones; one shared head needs none. mix_logits has two; it is read where
// there are heads of both kinds. A null view stands for logits that are not read. active = 0: all heads are shared.
// Ties go to the lower head. Returns the load-balance loss: it equals `active` when all routed heads are kept equally
// often, and 0 without routed heads. Throws heed::error where counts do not fit.
template <viewable R, viewable S, viewable A, viewable G>
double route_trained(const R& routed_logits, const S& shared_logits, const A& mix_logits, const routing& routing,
                     G&& gates) {
  static_assert(detail::gate_storage<G>());
  using G_value = heed::detail::value_t<G>;
  detail::trained<heed::detail::value_t<R>, heed::detail::value_t<S>, heed::detail::value_t<A>, G_value> x{
      routed_logits, shared_logits, mix_logits, gates, 0, 0, routing.active};
  const index_t heads = x.gates.extent(1), batch = x.gates.extent(0), tokens = x.gates.extent(2);

  heed::detail::problem_text problem{};
  heed::detail::checker check(problem);
  const heed::detail::named_tensor named("gates", x.gates);
  detail::check_routing(check, routing, named);
  check.require(routing.active > 0 || routing.shared == 0 || routing.shared == heads,
                "routing.active is 0, so routing.shared, %, must be % (all heads)", routing.shared, heads);
  if (check.ok()) x.first = routing.active == 0 ? heads : routing.shared, x.count = heads - x.first;
  if (check.ok() && x.count > 0) detail::check_logits(check, {"routed_logits", x.routed}, x.count, named);
  if (check.ok() && x.first > 1) detail::check_logits(check, {"shared_logits", x.shared}, x.first, named);
  if (check.ok() && x.first > 0 && x.count > 0) detail::check_logits(check, {"mix_logits", x.mix}, 2, named);
  if (!check.ok()) heed::detail::fail(problem.data());
  if (x.gates.empty()) return 0;

  const simd::flush_to_zero numbers;
  heed::detail::arena memory = detail::per_head_scratch(heads, 4);
  double *const p = memory.take<double>(heads), *const kept = memory.take<double>(heads),
                *const sum = memory.take<double>(heads), *const times = memory.take<double>(heads);
  std::fill(sum, sum + heads, 0.0), std::fill(times, times + heads, 0.0);
  for (index_t b = 0; b < batch; ++b)
    for (index_t i = 0; i < tokens; ++i) {
      x.route(b, i, p, kept);
      for (index_t h = 0; h < x.count; ++h) sum[h] += p[h], times[h] += kept[h];
    }
  const double all = static_cast<double>(batch) * static_cast<double>(tokens);
  double loss = 0;
  for (index_t h = 0; h < x.count; ++h) loss += sum[h] / all * (times[h] / all);
  return static_cast<double>(x.count) * loss;
}

// Writes gates (B, H, N): 1 for the shared heads and for the `active` others of largest |q| per token, else 0. q
// (B, H, N, D), before or after rotation. Ties go to the lower head; a head with a NaN in q comes last. Throws
// heed::error where counts do not fit.
template <viewable Q, viewable G> void route_by_norm(const Q& q, const routing& routing, G&& gates) {
  static_assert(heed::detail::tensor_argument<Q>());
  static_assert(detail::gate_storage<G>());
  using T = heed::detail::value_t<Q>;
  const tensor_view<const T, 4> rows(q);
  using G_value = heed::detail::value_t<G>;
  const tensor_view<G_value, 3> out(gates);
  heed::detail::problem_text problem{};
  heed::detail::checker check(problem);
  const heed::detail::named_tensor named("gates", out), q_rows("q", rows);
  detail::check_routing(check, routing, named);
  check.tensor(q_rows, true);
  check.equal(q_rows, named, 0, "batch"), check.equal(q_rows, named, 1, "heads");
  check.equal(q_rows, named, 2, "queries");
  check.distinct(named, q_rows);
  if (!check.ok()) heed::detail::fail(problem.data());
  if (out.empty()) return;

  const simd::flush_to_zero numbers;
  const index_t heads = out.extent(1), count = heads - routing.shared;
  heed::detail::arena memory = detail::per_head_scratch(heads, 2);
  double *const norm = memory.take<double>(heads), *const kept = memory.take<double>(heads);
  for (index_t b = 0; b < out.extent(0); ++b)
    for (index_t i = 0; i < out.extent(2); ++i) {
      for (index_t h = 0; h < count; ++h) {
        norm[h] = 0;
        for (index_t d = 0; d < rows.extent(3); ++d) {
          const double x = static_cast<double>(rows(b, routing.shared + h, i, d));
          norm[h] += x * x;
        }
      }
      detail::keep_largest(norm, count, routing.active, kept);
      for (index_t h = 0; h < routing.shared; ++h) out(b, h, i) = 1;
      for (index_t h = 0; h < count; ++h) out(b, routing.shared + h, i) = static_cast<G_value>(kept[h]);
    }
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head
