// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the reference of local linear attention has of each query: the keys that it sees, their weights, moments, and
// the slope that C y = r gives.

#include "heed/reference/eigen.hpp"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <vector>

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
  const sequence* s;  // and in it, of every key that the query sees: the position, and q.k
  std::vector<position> at;
  std::vector<double> dots;
};

// The keys that a query sees, as rows of keys and values, and the moments of x.k under its weights
inline void fit(row& x, const row_major& keys, const row_major& values) {
  const auto n = static_cast<index_t>(x.at.size());
  x.p.resize(n), x.k.resize(n, keys.cols()), x.v.resize(n, values.cols());
  const real row_max = n > 0 ? x.scores.maxCoeff() : 0;
  real sum = 0;
  for (index_t j = 0; j < n; ++j) {
    const index_t key = x.at[static_cast<std::size_t>(j)].key;
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
    row x{s.batch, head, s.first_query + i, {}, {}, {}, {}, {}, {}, vector::Zero(keys.cols()), -infinity, &s, {}, {}};
    x.q = queries.row(i).transpose().cast<real>();
    std::vector<real> scores;
    for (index_t j = 0; j < s.keys; ++j) {
      const position at = rules.at(s, head, i, j);
      if (!rules.visible(s, at)) continue;
      real dot = 0;
      for (index_t c = 0; c < keys.cols(); ++c) dot += x.q(c) * real{keys(j, c)};
      const double score = rules.score(s, at, static_cast<double>(dot));
      if (heed::detail::equals(score, -infinity)) continue;
      x.at.push_back(at), x.dots.push_back(static_cast<double>(dot)), scores.push_back(real{score});
    }
    x.scores = Eigen::Map<const vector>(scores.data(), static_cast<index_t>(scores.size()));
    fit(x, keys, values);
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

// C^-1 right, with the C of a row that sees keys; 0 under an infinite ridge
inline solution solve(const row& x, const vector& right, double ridge) {
  if (heed::detail::equals(ridge, infinity) || heed::detail::equals(right.norm(), 0))
    return {vector::Zero(right.size()), 0};
  const solution out = solve_as<double>(x.x, x.p, right, real{ridge});
  return out.residual > 1e-12L ? solve_as<real>(x.x, x.p, right, real{ridge}) : out;
}

// The slope of a row; 0 where there is nothing to solve
inline solution slope_of(const row& x, double ridge) {
  return x.p.size() > 0 ? solve(x, x.q - x.mean, ridge) : solution{vector::Zero(x.q.size()), 0};
}
inline vector output_of(const row& x, const vector& y) {
  if (x.p.size() == 0) return vector::Zero(x.v.cols());
  return x.v.transpose() * (x.p + x.p.cwiseProduct(x.x * y));
}

}  // namespace HEED_ISA
}  // namespace detail
}  // namespace heed::reference::local_linear
