// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Local linear attention as its definition reads, one query after the other, from the keys that the query sees:
//
//   p = softmax of their scores;  mean = sum_j p_j k_j;  x_j = k_j - mean
//   C = sum_j p_j x_j x_j^T + ridge;  C y = r,  r = q - mean
//   o = sum_j p_j (1 + x_j . y) v_j
//
// C is formed and factored in double; residuals in long double correct y until rounding is all that is left, so that y
// is good to double for any ridge that double can tell from 0. The kernel is tested against it. It shares no arithmetic
// with it: see reference/rules.hpp. Slow on purpose.

#include <algorithm>

#include "heed/core/per_head.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/reference/local_linear_backward.hpp"
#include "heed/reference/local_linear_rows.hpp"

namespace heed::reference::local_linear {
namespace detail {
inline namespace HEED_ISA {

template <class T> void store_row_of(const row& x, const tensor_view<T, 4>& to, const vector& from) {
  if (to.data() != nullptr) store_row(to, x.batch, x.head, x.query, from);
}
template <class O, class Acc>
void write(const row& x, const vector& y, const tensor_view<O, 4>& o, const heed::local_linear::options<Acc>& options) {
  store_row_of(x, o, output_of(x, y));
  store_row_of(x, options.mean_key, x.mean);
  if (options.lse.data() != nullptr) store(options.lse(x.batch, x.head, x.query), x.lse);
}

// Solves row after row, writes what they give and counts what is reported.
template <class O, class Acc> struct row_writer {
  tensor_view<O, 4> o;
  const per_head& ridge;
  const heed::local_linear::options<Acc>& options;
  heed::local_linear::report report;

  void add(const row& x) {
    const double penalty = ridge.at(x.head);
    const solution found = slope_of(x, penalty);
    const auto residual = static_cast<double>(found.residual);
    report.max_residual = std::max(report.max_residual, residual);
    report.unconverged += residual > options.tolerance ? 1 : 0;
    report.direct_rows += x.p.size() > 0 && penalty < infinity ? 1 : 0;
    write(x, found.y, o, options);
    store_row_of(x, options.slope, found.y);
  }
};

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::local_linear::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o of shape
// (B, max(H, Hk), N, E), each of float, double or a 16-bit type. Every row with something to solve counts as solved
// directly; options::solver and max_iterations have no effect. Shapes and values are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const per_head& ridge, O&& o,
             const heed::local_linear::options<acc_of<Q>>& options = {}) {
  detail::row_writer<element_t<O>, acc_of<Q>> writer{view(o), ridge, options, {}};
  detail::each_row(view(q), view(k), view(v), options, [&](const detail::row& x) { writer.add(x); });
  if (options.report != nullptr) *options.report = writer.report;
}

// heed::local_linear::decode without context: of q, a cache and o as in the reference of softmax.
template <viewable Q, class Cache, viewable O>
void decode(const Q& q, const Cache& cache, const per_head& ridge, O&& o,
            const heed::local_linear::options<acc_of<Q>>& options = {}) {
  detail::row_writer<element_t<O>, acc_of<Q>> writer{view(o), ridge, options, {}};
  detail::each_row(view(q), heed::detail::view_of_cache(cache), options, [&](const detail::row& x) { writer.add(x); });
  if (options.report != nullptr) *options.report = writer.report;
}

// heed::local_linear::apply without context: slope (B, max(H, Hk), N, D) in place of y.
template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
void apply(const Q& q, const K& k, const V& v, const Y& slope, O&& o,
           const heed::local_linear::options<acc_of<Q>>& options = {}) {
  const auto output = view(o);
  const auto given = view(slope);
  detail::each_row(view(q), view(k), view(v), options, [&](const detail::row& x) {
    detail::write(x, detail::row_of<detail::real>(given, x.batch, x.head, x.query), output, options);
  });
}

}  // namespace HEED_ISA
}  // namespace heed::reference::local_linear
