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

#include "heed/reference/eigen.hpp"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/core/per_head.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/reference/cache.hpp"
#include "heed/reference/rules.hpp"

namespace heed::reference::local_linear {
namespace detail {
inline namespace HEED_ISA {

using namespace reference::detail;
using real = long double;
template <class T> using matrix_of = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
template <class T> using vector_of = Eigen::Matrix<T, Eigen::Dynamic, 1>;
using matrix = matrix_of<real>;
using vector = vector_of<real>;

// One query of one head, and the keys that it sees.
struct row {
  index_t batch, head, query;  // of o
  vector q, scores, p;         // p: weights; no elements if it sees no key
  matrix k, v, x;              // x: keys about their mean
  vector mean;
  double lse;
};

// The keys that a query sees, as rows of keys and values, and the moments of x.k under its weights
inline void fit(row& x, const std::vector<index_t>& seen, const row_major& keys, const row_major& values) {
  const auto n = static_cast<index_t>(seen.size());
  x.p.resize(n), x.k.resize(n, keys.cols()), x.v.resize(n, values.cols());
  const real row_max = n > 0 ? x.scores.maxCoeff() : 0;
  real sum = 0;
  for (index_t j = 0; j < n; ++j) {
    const index_t key = seen[static_cast<std::size_t>(j)];
    x.k.row(j) = keys.row(key).cast<real>(), x.v.row(j) = values.row(key).cast<real>();
    sum += x.p(j) = std::exp(x.scores(j) - row_max);
  }
  if (n == 0) return;
  x.p /= sum, x.mean = x.k.transpose() * x.p, x.x = x.k.rowwise() - x.mean.transpose();
  x.lse = static_cast<double>(row_max + std::log(sum));
}

// Calls visit(row) for every query of a head.
template <class Rules, class Visit>
void rows_of_head(const Rules& rules, const sequence& s, index_t head, const row_major& queries, const row_major& keys,
                  const row_major& values, const Visit& visit) {
  for (index_t i = 0; i < s.queries; ++i) {
    row x{s.batch, head, s.first_query + i, {}, {}, {}, {}, {}, {}, vector::Zero(keys.cols()), -infinity};
    x.q = queries.row(i).transpose().cast<real>();
    std::vector<index_t> seen;
    std::vector<real> scores;
    for (index_t j = 0; j < s.keys; ++j) {
      const position at = rules.at(s, head, i, j);
      if (!rules.visible(s, at)) continue;
      real dot = 0;
      for (index_t c = 0; c < keys.cols(); ++c) dot += x.q(c) * real{keys(j, c)};
      const double score = rules.score(s, at, static_cast<double>(dot));
      if (heed::detail::equals(score, -infinity)) continue;
      seen.push_back(j), scores.push_back(real{score});
    }
    x.scores = Eigen::Map<const vector>(scores.data(), static_cast<index_t>(scores.size()));
    fit(x, seen, keys, values);
    visit(x);
  }
}

// The same for every head of o: query heads and key/value heads each serve equal runs of them.
template <class Q, class K, class V, class Acc, class Visit>
void each_row(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
              const heed::local_linear::options<Acc>& options, const Visit& visit) {
  const index_t heads = std::max(q.extent(1), k.extent(1));
  const auto sequences = sequences_of(options.mask, q.extent(0), q.extent(2), k.extent(2));
  if (q.extent(1) == 0 || k.extent(1) == 0) return;
  const pair_rules<Acc, heed::local_linear::options<Acc>> rules{options, q.extent(3)};
  for (const sequence& s : sequences)
    for (index_t head = 0; head < heads; ++head) {
      const index_t q_head = head * q.extent(1) / heads, kv_head = head * k.extent(1) / heads;
      rows_of_head(rules, s, head, rows_of(q, s.batch, q_head, s.first_query, s.queries),
                   rows_of(k, s.batch, kv_head, s.first_key, s.keys), rows_of(v, s.batch, kv_head, s.first_key, s.keys),
                   visit);
    }
}
// The same of the view of a cache, with a shared prefix or without: keys are its tokens.
template <class Q, class Cache, class Acc, class Visit>
void each_row(const tensor_view<Q, 4>& q, const Cache& cache, const heed::local_linear::options<Acc>& options,
              const Visit& visit) {
  const pair_rules<Acc, heed::local_linear::options<Acc>> rules{options, q.extent(3)};
  each_cached_head(q, cache, options.mask, [&](const sequence& s, index_t head, index_t q_head, const cached& tokens) {
    rows_of_head(rules, s, head, rows_of(q, s.batch, q_head, 0, s.queries), tokens.keys, tokens.values, visit);
  });
}

struct solution {
  vector y;
  real residual;  // |C y - r| / |r|
};

// x: the keys about their mean. C as a matrix of Factor; y from 0 by corrections
template <class Factor> solution solve_as(const matrix& x, const vector& p, const vector& r, real ridge) {
  const matrix_of<Factor> root = (p.cwiseSqrt().asDiagonal() * x).template cast<Factor>();
  matrix_of<Factor> c = matrix_of<Factor>::Identity(x.cols(), x.cols()) * static_cast<Factor>(ridge);
  c.template selfadjointView<Eigen::Lower>().rankUpdate(root.transpose());
  const Eigen::LDLT<matrix_of<Factor>> factors(c);
  solution out{vector::Zero(x.cols()), 1};
  vector rest = r;
  const real size = r.norm();
  for (int round = 0; round < 4 && out.residual > 1e-16L; ++round) {
    const vector correction = factors.solve(rest.template cast<Factor>()).template cast<real>();
    const vector y = out.y + correction;
    rest = r - ridge * y - x.transpose() * p.cwiseProduct(x * y);
    const real residual = rest.norm() / size;
    if (round > 0 && !(residual < out.residual)) break;
    out.y = y, out.residual = residual;
  }
  return out;
}

// The slope of a row; 0 where there is nothing to solve
inline solution slope_of(const row& x, double ridge) {
  const vector r = x.q - x.mean;
  if (x.p.size() == 0 || heed::detail::equals(ridge, infinity) || heed::detail::equals(r.norm(), 0))
    return {vector::Zero(r.size()), 0};
  const solution out = solve_as<double>(x.x, x.p, r, real{ridge});
  return out.residual > 1e-12L ? solve_as<real>(x.x, x.p, r, real{ridge}) : out;
}
inline vector output_of(const row& x, const vector& y) {
  if (x.p.size() == 0) return vector::Zero(x.v.cols());
  return x.v.transpose() * (x.p + x.p.cwiseProduct(x.x * y));
}

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
