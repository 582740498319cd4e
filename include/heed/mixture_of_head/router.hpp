// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Which heads a token uses, and with which weight: the authors' routers, on logits from the caller's dense layers.
// Of H heads the first S = shared are always on; of the E = H - S routed ones each token keeps K = active. In double.
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

// Numbers of the heads of one token
template <class X> void read_heads(const tensor_view<const X, 3>& x, index_t b, index_t i, double* out) {
  const X* const first = x.data() + b * x.stride(0) + i * x.stride(2);
  for (index_t h = 0; h < x.extent(1); ++h) out[h] = static_cast<double>(first[h * x.stride(1)]);
}
template <class G> constexpr bool gate_storage() {
  static_assert(std::is_floating_point_v<heed::detail::value_t<G>>, "heed: gates are float or double");
  static_assert(heed::detail::writable<G>, "heed: gates are written, they cannot be const or an owning temporary");
  return true;
}
template <class X> void write_gate(const tensor_view<X, 3>& gates, index_t b, index_t h, index_t i, double gate) {
  gates.data()[b * gates.stride(0) + h * gates.stride(1) + i * gates.stride(2)] = static_cast<X>(gate);
}

inline void softmax_in_place(double* x, index_t count) {
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (index_t h = 0; h < count; ++h) top = std::max(top, x[h]);  // passes over NaN, which reaches the sum
  for (index_t h = 0; h < count; ++h) x[h] = std::exp(x[h] - top), sum += x[h];
  for (index_t h = 0; h < count; ++h) x[h] /= sum;
}

// kept[h] = 1 for the `keep` largest, else 0; ties to the lower index, NaN behind all numbers
inline void keep_largest(const double* x, index_t count, index_t keep, double* kept) {
  std::fill(kept, kept + count, 0.0);
  for (; keep > 0; --keep) {
    index_t best = -1;
    for (index_t h = 0; h < count; ++h)
      if (!(kept[h] > 0) && (best < 0 || x[h] > x[best] || (std::isnan(x[best]) && !std::isnan(x[h])))) best = h;
    kept[best] = 1;
  }
}

inline void check_routing(heed::detail::checker& check, const routing& how, const heed::detail::named_tensor& gates) {
  check.tensor(gates, false), check.written(gates);
  const index_t heads = gates.extent(1);
  if (!check.ok()) return;
  check.require(how.shared >= 0 && how.shared <= heads, "routing.shared is %, must be 0 to % (the heads of gates)",
                how.shared, heads);
  if (!check.ok()) return;
  check.require(how.active >= 0 && how.active <= heads - how.shared,
                "routing.active is %, must be 0 to % (heads less the shared ones)", how.active, heads - how.shared);
}

// Logits that a routing needs, as many heads of them as it says
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

// One token of route_trained; p, kept: room for all heads
template <class R, class S, class A, class G> struct trained {
  tensor_view<const R, 3> routed;
  tensor_view<const S, 3> shared;
  tensor_view<const A, 3> mix;
  tensor_view<G, 3> gates;
  index_t first, count, active;  // shared heads, routed heads, kept ones

  void route(index_t b, index_t i, double* p, double* kept) const {
    double factor[2] = {1, 1};  // of shared and routed gates
    if (first > 0 && count > 0) {
      read_heads(mix, b, i, factor), softmax_in_place(factor, 2);
      factor[0] *= 2, factor[1] *= 2;
    }
    p[0] = 1;
    if (first > 1) read_heads(shared, b, i, p), softmax_in_place(p, first);
    for (index_t h = 0; h < first; ++h) write_gate(gates, b, h, i, factor[0] * (static_cast<double>(first) * p[h]));
    if (count == 0) return;
    read_heads(routed, b, i, p);
    keep_largest(p, count, active, kept);
    softmax_in_place(p, count);
    double sum = 0;
    for (index_t h = 0; h < count; ++h)
      if (kept[h] > 0) sum += p[h];
    for (index_t h = 0; h < count; ++h)
      write_gate(gates, b, first + h, i, kept[h] > 0 ? factor[1] * (static_cast<double>(active) * (p[h] / sum)) : 0);
  }
};

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// gates (B, H, N) from logits (B, head, N) of float or double in any strides: routed_logits has the H - shared routed
// heads, shared_logits the shared ones (not read for one), mix_logits two (read where both kinds are there); a null
// view stands for logits that are not read. active = 0: all heads are shared. Returns the load-balance loss: `active`
// where every head is kept as often as any other, 0 without routed heads. Ties go to the lower head. Throws heed::error
// where counts do not fit.
template <viewable R, viewable S, viewable A, viewable G>
double route_trained(const R& routed_logits, const S& shared_logits, const A& mix_logits, const routing& how,
                     G&& gates) {
  static_assert(detail::gate_storage<G>());
  using G_value = heed::detail::value_t<G>;
  detail::trained<heed::detail::value_t<R>, heed::detail::value_t<S>, heed::detail::value_t<A>, G_value> x{
      routed_logits, shared_logits, mix_logits, gates, 0, 0, how.active};
  const index_t heads = x.gates.extent(1), batch = x.gates.extent(0), tokens = x.gates.extent(2);

  heed::detail::problem_text problem{};
  heed::detail::checker check(problem);
  const heed::detail::named_tensor named("gates", x.gates);
  detail::check_routing(check, how, named);
  check.require(how.active > 0 || how.shared == 0 || how.shared == heads,
                "routing.active is 0, so routing.shared, %, must be % (all heads)", how.shared, heads);
  if (check.ok()) x.first = how.active == 0 ? heads : how.shared, x.count = heads - x.first;
  if (check.ok() && x.count > 0) detail::check_logits(check, {"routed_logits", x.routed}, x.count, named);
  if (check.ok() && x.first > 1) detail::check_logits(check, {"shared_logits", x.shared}, x.first, named);
  if (check.ok() && x.first > 0 && x.count > 0) detail::check_logits(check, {"mix_logits", x.mix}, 2, named);
  if (!check.ok()) heed::detail::fail(problem.data());
  if (x.gates.empty()) return 0;

  const simd::flush_to_zero numbers;
  heed::detail::arena memory({},
                             (static_cast<std::size_t>(heads) * sizeof(double) + heed::detail::arena::alignment) * 5);
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

// gates (B, H, N): 1 for the shared heads and for the `active` others of largest |q| per token, else 0. q (B, H, N, D),
// before or after rotation. Ties go to the lower head, and a NaN in a head's q puts it last. Throws heed::error where
// counts do not fit.
template <viewable Q, viewable G> void route_by_norm(const Q& q, const routing& how, G&& gates) {
  static_assert(heed::detail::tensor_argument<Q>());
  static_assert(detail::gate_storage<G>());
  using T = heed::detail::value_t<Q>;
  const tensor_view<const T, 4> rows(q);
  const tensor_view<heed::detail::value_t<G>, 3> out(gates);
  heed::detail::problem_text problem{};
  heed::detail::checker check(problem);
  const heed::detail::named_tensor named("gates", out), q_rows("q", rows);
  detail::check_routing(check, how, named);
  check.tensor(q_rows, true);
  check.equal(q_rows, named, 0, "batch"), check.equal(q_rows, named, 1, "heads");
  check.equal(q_rows, named, 2, "queries");
  check.distinct(named, q_rows);
  if (!check.ok()) heed::detail::fail(problem.data());
  if (out.empty()) return;

  const simd::flush_to_zero numbers;
  const index_t heads = out.extent(1), count = heads - how.shared;
  heed::detail::arena memory({},
                             (static_cast<std::size_t>(heads) * sizeof(double) + heed::detail::arena::alignment) * 3);
  double *const norm = memory.take<double>(heads), *const kept = memory.take<double>(heads);
  for (index_t b = 0; b < out.extent(0); ++b)
    for (index_t i = 0; i < out.extent(2); ++i) {
      for (index_t h = 0; h < count; ++h) {
        norm[h] = 0;
        if (rows.empty()) continue;
        const T* const row = rows.data() + b * rows.stride(0) + (how.shared + h) * rows.stride(1) + i * rows.stride(2);
        for (index_t d = 0; d < rows.extent(3); ++d) {
          const double x = static_cast<double>(row[d]);
          norm[h] += x * x;
        }
      }
      detail::keep_largest(norm, count, how.active, kept);
      for (index_t h = 0; h < how.shared; ++h) detail::write_gate(out, b, h, i, 1);
      for (index_t h = 0; h < count; ++h) detail::write_gate(out, b, how.shared + h, i, kept[h]);
    }
}

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head
