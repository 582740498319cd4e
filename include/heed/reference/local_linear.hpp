// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Local linear attention as its definition reads, one query after the other, from the keys that the query sees:
//
//   p = softmax of their scores;  mean = sum_j p_j k_j;  x_j = k_j - mean
//   C = sum_j p_j x_j x_j^T + ridge;  C y = r,  r = q - mean
//   o = sum_j p_j (1 + x_j . y) v_j
//
// C is formed and factored in double; residuals in long double correct y until rounding is all that is left, so that y
// is good to double for any ridge that double can tell from 0. The kernel is tested against it. It takes the types of
// core/ and no code, and reads masks, places and the head map for itself. Slow on purpose.

#include "heed/reference/eigen.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <Eigen/Cholesky>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/error.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/score_function.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/reference/subnormal.hpp"

namespace heed::reference::local_linear {
namespace detail {
inline namespace HEED_ISA {

using real = long double;
template <class T> using matrix_of = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
template <class T> using vector_of = Eigen::Matrix<T, Eigen::Dynamic, 1>;
using matrix = matrix_of<real>;
using vector = vector_of<real>;
inline constexpr double infinite = std::numeric_limits<double>::infinity();

// 16-bit types go by way of float.
template <class T> real get(const T& x) {
  if constexpr (sizeof(T) == 2)
    return reference::detail::normal_or_zero<T>(real{static_cast<float>(x)});
  else
    return reference::detail::normal_or_zero<T>(static_cast<real>(x));
}
template <class T> void put(T& to, real x) {
  x = reference::detail::normal_or_zero<T>(x);
  if constexpr (sizeof(T) == 2)
    to = T(static_cast<float>(x));
  else
    to = static_cast<T>(x);
}

template <class T> T* row_at(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i) {
  return x.data() + b * x.stride(0) + h * x.stride(1) + i * x.stride(2);
}
// An entry of bias or keep, whose axes of extent 1 serve every index
template <class T> T& shared(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, index_t j) {
  index_t offset = 0, axis = 0;
  for (const index_t index : {b, h, i, j}) {
    const int a = static_cast<int>(axis++);
    if (x.extent(a) > 1) offset += index * x.stride(a);
  }
  return x.data()[offset];
}

// A batch entry, or a piece of the one that packed() cuts: its number, and where its rows are in the tensors.
struct piece {
  index_t number, batch, first_query, queries, first_key, keys;
};

// One query of one head, and the keys that it sees.
struct row {
  index_t batch, head, query;  // of o
  vector q, scores, p;         // p: weights; no elements if it sees no key
  matrix k, v, x;              // x: keys about their mean
  vector mean;
  double lse;
};

// Who sees whom, and how well.
template <class Acc> class rules {
 public:
  rules(const heed::local_linear::options<Acc>& options, index_t head_dim)
      : options_(options),
        mask_(heed::detail::parts(options.mask)),
        align_(heed::detail::parts(options.align)),
        scale_(options.scale ? *options.scale : 1 / std::sqrt(static_cast<double>(head_dim))) {}

  std::vector<piece> pieces(index_t batches, index_t queries, index_t keys) const {
    std::vector<piece> all;
    if (!mask_.has(mask_.packed)) {
      for (index_t b = 0; b < batches; ++b) all.push_back({b, b, 0, queries, 0, keys});
      return all;
    }
    const auto &q = mask_.query_offsets, &k = mask_.key_offsets;
    for (std::size_t s = 1; s < q.size(); ++s)
      all.push_back({static_cast<index_t>(s) - 1, 0, q[s - 1], q[s] - q[s - 1], k[s - 1], k[s] - k[s - 1]});
    return all;
  }

  // The score of the pair, -infinity if a rule hides the key; dot() is called only if none does.
  template <class Dot> double operator()(const piece& s, index_t head, index_t i, index_t j, const Dot& dot) const {
    const index_t end = align_.end_of_lengths ? mask_.lengths[at(s.number)] : s.keys;
    const index_t place = align_.has_first  ? align_.first[at(s.number)] + i
                          : align_.top_left ? i
                                            : end - s.queries + i;
    using limit = std::numeric_limits<std::int32_t>;
    const position where{static_cast<std::int32_t>(s.number), static_cast<std::int32_t>(head),
                         static_cast<std::int32_t>(i), static_cast<std::int32_t>(j),
                         static_cast<std::int32_t>(std::clamp<index_t>(place, limit::min(), limit::max()))};
    if (hidden(s, where, place)) return -infinite;
    double bias = 0;
    if (options_.bias.data() != nullptr) {
      bias = static_cast<double>(get(shared(options_.bias, s.batch, head, s.first_query + i, s.first_key + j)));
      if (heed::detail::equals(bias, -infinite)) return -infinite;
    }
    double x = scale_ * static_cast<double>(dot());
    if (options_.softcap > 0 && options_.softcap < infinite) x = std::tanh(x / options_.softcap) * options_.softcap;
    if (options_.alibi_slopes.set())
      x -= options_.alibi_slopes.at(head) * std::abs(static_cast<double>(place) - static_cast<double>(j));
    x += bias;
    const auto& user = heed::detail::parts(options_.score);
    if (user.map_value == nullptr) return x;
    Acc mapped = static_cast<Acc>(x);
    heed::detail::map_value(user, tile_of(mapped, where));
    return static_cast<double>(mapped);
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  static heed::detail::score_tile<Acc> tile_of(Acc& score, const position& x) {  // of this pair alone
    return {&score, 1, x.key, 1, 1, x.batch, &x.head, &x.query, &x.place};
  }

  bool hidden(const piece& s, const position& x, index_t place) const {
    const auto& m = mask_;
    const index_t ahead = x.key - place, i = s.first_query + x.query, j = s.first_key + x.key;
    if (m.has(m.causal) && ahead > 0) return true;
    if (m.has(m.window)) {
      const bool too_old = m.left != -1 && -ahead > m.left, too_new = m.right != -1 && ahead > m.right;
      if (too_new || (too_old && x.key >= m.keep_first)) return true;
    }
    if (m.has(m.key_lengths) && x.key >= m.lengths[at(s.number)]) return true;
    if (m.has(m.prefix_lm) && ahead > 0 && x.key >= m.prefix[at(s.number)]) return true;
    if (m.has(m.segments) && m.query_ids.data()[s.batch * m.query_ids.stride(0) + i * m.query_ids.stride(1)] !=
                                 m.key_ids.data()[s.batch * m.key_ids.stride(0) + j * m.key_ids.stride(1)])
      return true;
    if (m.has(m.keep) && !shared(m.keep_tensor, s.batch, x.head, i, j)) return true;
    if (!m.has(m.visible_if)) return false;
    Acc score = 0;
    heed::detail::hide(m, tile_of(score, x));
    return !heed::detail::equals(score, 0);
  }

  const heed::local_linear::options<Acc>& options_;
  const heed::detail::mask_parts& mask_;
  const heed::detail::alignment_parts& align_;
  double scale_;
};

// visit(row) for every query of every head of o
template <class Q, class K, class V, class Acc, class Visit>
void each_row(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const tensor_view<V, 4>& v,
              const heed::local_linear::options<Acc>& options, const Visit& visit) {
  if (const char* const conflict = heed::detail::parts(options.mask).conflict) heed::detail::fail(conflict);
  const index_t d = q.extent(3), e = v.extent(3), heads = std::max(q.extent(1), k.extent(1));
  if (q.extent(1) == 0 || k.extent(1) == 0) return;
  const rules<Acc> score(options, d);
  for (const piece& s : score.pieces(q.extent(0), q.extent(2), k.extent(2)))
    for (index_t head = 0; head < heads; ++head)
      for (index_t i = 0; i < s.queries; ++i) {
        // query heads and key/value heads each serve equal runs of the heads of o
        const index_t q_head = head * q.extent(1) / heads, kv_head = head * k.extent(1) / heads;
        row x{s.batch, head, s.first_query + i, vector(d), {}, {}, {}, {}, {}, vector::Zero(d), -infinite};
        for (index_t c = 0; c < d; ++c) x.q(c) = get(row_at(q, s.batch, q_head, x.query)[c]);
        std::vector<index_t> seen;
        std::vector<real> scores;
        for (index_t j = 0; j < s.keys; ++j) {
          const double one = score(s, head, i, j, [&] {
            real dot = 0;
            for (index_t c = 0; c < d; ++c) dot += x.q(c) * get(row_at(k, s.batch, kv_head, s.first_key + j)[c]);
            return dot;
          });
          if (!heed::detail::equals(one, -infinite)) seen.push_back(s.first_key + j), scores.push_back(real{one});
        }
        const auto n = static_cast<index_t>(seen.size());
        x.scores = Eigen::Map<const vector>(scores.data(), n), x.p.resize(n), x.k.resize(n, d), x.v.resize(n, e);
        const real top = n > 0 ? x.scores.maxCoeff() : 0;
        real sum = 0;
        for (index_t j = 0; j < n; ++j) {
          const index_t key = seen[static_cast<std::size_t>(j)];
          for (index_t c = 0; c < d; ++c) x.k(j, c) = get(row_at(k, s.batch, kv_head, key)[c]);
          for (index_t c = 0; c < e; ++c) x.v(j, c) = get(row_at(v, s.batch, kv_head, key)[c]);
          sum += x.p(j) = std::exp(x.scores(j) - top);
        }
        if (n > 0) {
          x.p /= sum, x.mean = x.k.transpose() * x.p, x.x = x.k.rowwise() - x.mean.transpose();
          x.lse = static_cast<double>(top + std::log(sum));
        }
        visit(x);
      }
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
  if (x.p.size() == 0 || heed::detail::equals(ridge, infinite) || heed::detail::equals(r.norm(), 0))
    return {vector::Zero(r.size()), 0};
  const solution out = solve_as<double>(x.x, x.p, r, real{ridge});
  return out.residual > 1e-12L ? solve_as<real>(x.x, x.p, r, real{ridge}) : out;
}
inline vector output_of(const row& x, const vector& y) {
  if (x.p.size() == 0) return vector::Zero(x.v.cols());
  return x.v.transpose() * (x.p + x.p.cwiseProduct(x.x * y));
}

template <class T> void put_row(const tensor_view<T, 4>& to, const row& x, const vector& from) {
  for (index_t c = 0; to.data() != nullptr && c < from.size(); ++c)
    put(row_at(to, x.batch, x.head, x.query)[c], from(c));
}
template <class O, class Acc>
void write(const row& x, const vector& y, const tensor_view<O, 4>& o, const heed::local_linear::options<Acc>& options) {
  put_row(o, x, output_of(x, y));
  put_row(options.mean_key, x, x.mean);
  const auto& lse = options.lse;
  if (lse.data() != nullptr)
    put(lse.data()[x.batch * lse.stride(0) + x.head * lse.stride(1) + x.query * lse.stride(2)], real{x.lse});
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::local_linear::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o of shape
// (B, max(H, Hk), N, E), each of float, double or a 16-bit type. Every row with something to solve counts as solved
// directly; options::solver and max_iterations have no effect. Shapes and values are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const per_head& ridge, O&& o,
             const heed::local_linear::options<acc_of<Q>>& options = {}) {
  const auto output = view(o);
  heed::local_linear::report report;
  detail::each_row(view(q), view(k), view(v), options, [&](const detail::row& x) {
    const double penalty = ridge.at(x.head);
    const detail::solution found = detail::slope_of(x, penalty);
    const auto residual = static_cast<double>(found.residual);
    report.max_residual = std::max(report.max_residual, residual);
    report.unconverged += residual > options.tolerance ? 1 : 0;
    report.direct_rows += x.p.size() > 0 && penalty < detail::infinite ? 1 : 0;
    detail::write(x, found.y, output, options);
    detail::put_row(options.slope, x, found.y);
  });
  if (options.report != nullptr) *options.report = report;
}

// heed::local_linear::apply without context: slope (B, max(H, Hk), N, D) in place of y.
template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
void apply(const Q& q, const K& k, const V& v, const Y& slope, O&& o,
           const heed::local_linear::options<acc_of<Q>>& options = {}) {
  const auto output = view(o);
  const auto given = view(slope);
  detail::each_row(view(q), view(k), view(v), options, [&](const detail::row& x) {
    detail::vector y(x.q.size());
    for (index_t c = 0; c < y.size(); ++c) y(c) = detail::get(detail::row_at(given, x.batch, x.head, x.query)[c]);
    detail::write(x, y, output, options);
  });
}

}  // namespace HEED_ISA
}  // namespace heed::reference::local_linear
