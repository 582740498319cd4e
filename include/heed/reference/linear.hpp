// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Linear attention as its definition has it, in double, twice:
//
//   forward     S, z += phi(k_j) v_j^T, phi(k_j), one key after the other;
//               o_i = scale S phi(q_i) / (scale z.phi(q_i) + eps)
//   quadratic   o_i = scale sum_j (phi(q_i).phi(k_j)) v_j / (scale sum_j phi(q_i).phi(k_j) + eps), pair by pair
//
// over the keys that query i sees. The kernels are tested against them, and they against each other. They share
// no arithmetic with the kernels: see reference/rules.hpp. Slow on purpose. backward is in linear_backward.hpp.

#include <algorithm>
#include <cmath>

#include "heed/core/feature_map.hpp"
#include "heed/core/state.hpp"
#include "heed/linear/options.hpp"
#include "heed/reference/rules.hpp"

namespace heed::reference::linear {
namespace detail {
inline namespace HEED_ISA {

using namespace reference::detail;

// phi of one row. A function of the caller's takes and returns Acc.
template <class Acc> Eigen::VectorXd features(const heed::detail::feature_parts<Acc>& map, const Eigen::VectorXd& x) {
  const Eigen::Index d = x.size();
  if (map.map_value != nullptr) {
    Eigen::VectorXd y(d);
    for (Eigen::Index i = 0; i < d; ++i) {
      Acc element = static_cast<Acc>(x(i));
      map.map_value(map.value.bytes, &element, 1);
      y(i) = static_cast<double>(element);
    }
    return y;
  }
  const auto each = [&](auto f) { return Eigen::VectorXd(x.unaryExpr(f)); };
  switch (map.built_in) {
    case feature::identity:
      return x;
    case feature::elu_plus_one:
      return each([](double a) { return a > 0 ? a + 1 : std::exp(a); });
    case feature::relu:
      return each([](double a) { return a < 0 ? 0 : a; });
    case feature::relu_squared:
      return each([](double a) { return a < 0 ? 0 : a * a; });
    case feature::silu:
      return each([](double a) { return heed::detail::equals(a, -HUGE_VAL) ? 0 : a / (1 + std::exp(-a)); });
    case feature::exp:
      return each([](double a) { return std::exp(a); });
    case feature::softmax: {
      double row_max = -HUGE_VAL, sum = 0;
      for (const double a : x) row_max = std::max(row_max, a);
      for (const double a : x) sum += std::exp(a - row_max);
      return each([row_max, sum](double a) { return std::exp(a - row_max) / sum; });
    }
    case feature::taylor: {
      Eigen::VectorXd y(1 + d + d * d);
      y(0) = 1;
      for (Eigen::Index a = 0; a < d; ++a) {
        y(1 + a) = x(a);
        for (Eigen::Index b = 0; b < d; ++b) y(1 + d + a * d + b) = x(a) * x(b) / std::sqrt(2.0);
      }
      return y;
    }
  }
  return x;
}

// Query i sees the first so many keys.
template <class Acc>
index_t seen(const pair_rules<Acc, heed::linear::options<Acc>>& rules, const sequence& s, index_t i) {
  if (!rules.mask.has(rules.mask.causal)) return rules.length(s);
  return std::clamp<index_t>(rules.place_of(s, i) + 1, 0, rules.length(s));
}

struct memory {
  row_major s;
  Eigen::VectorXd z;
};
template <class Acc>
memory load_memory(const state_view<const Acc>& from, index_t b, index_t h, index_t features, index_t value_dim) {
  memory m{load_state(from.s, b, h, features, value_dim), Eigen::VectorXd::Zero(features)};
  for (index_t i = 0; i < features && from.z.data() != nullptr; ++i) m.z(i) = number(from.z(b, h, i));
  return m;
}
template <class Acc> void store_memory(const state_view<Acc>& to, index_t b, index_t h, const memory& m) {
  store_state(to.s, b, h, m.s);
  for (index_t i = 0; i < m.z.size() && to.z.data() != nullptr; ++i) store(to.z(b, h, i), m.z(i));
}

// A denominator of exactly 0 has seen nothing: the row is 0.
template <class Acc>
Eigen::VectorXd divided(const heed::linear::options<Acc>& options, const Eigen::VectorXd& sum, double normaliser) {
  if (!options.normalize) return options.scale * sum;
  const double denominator = options.scale * normaliser + options.eps;
  if (heed::detail::equals(denominator, 0)) return Eigen::VectorXd::Zero(sum.size());
  return options.scale * sum / denominator;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::linear::forward without context: q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, H, N, E), each of
// float, double or a 16-bit type. Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, O&& o, const heed::linear::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const detail::pair_rules<acc_of<Q>, heed::linear::options<acc_of<Q>>> rules{options};
  const auto& map = heed::detail::parts(options.feature);
  const index_t heads = q4.extent(1), kv_heads = k4.extent(1);
  for (const detail::sequence& s : detail::sequences_of(options.mask, q4.extent(0), q4.extent(2), k4.extent(2)))
    for (index_t h = 0; h < kv_heads; ++h) {
      detail::memory m = detail::load_memory(options.initial_state, s.number, h,
                                             heed::detail::feature_dim(map, q4.extent(3)), v4.extent(3));
      index_t taken = 0;
      const auto take = [&](index_t end) {
        for (; taken < end; ++taken) {
          const Eigen::VectorXd key = detail::features(map, detail::row_of(k4, s.batch, h, s.first_key + taken));
          m.s += key * detail::row_of(v4, s.batch, h, s.first_key + taken).transpose();
          m.z += key;
        }
      };
      for (index_t i = 0; i < s.queries; ++i) {
        take(detail::seen(rules, s, i));
        for (index_t g = h * (heads / kv_heads); g < (h + 1) * (heads / kv_heads); ++g) {
          const Eigen::VectorXd query = detail::features(map, detail::row_of(q4, s.batch, g, s.first_query + i));
          detail::store_row(o4, s.batch, g, s.first_query + i,
                            detail::divided(options, m.s.transpose() * query, query.dot(m.z)));
        }
      }
      take(rules.length(s));
      detail::store_memory(options.final_state, s.number, h, m);
    }
}

// The same o, pair by pair; no final state.
template <viewable Q, viewable K, viewable V, viewable O>
void quadratic(const Q& q, const K& k, const V& v, O&& o, const heed::linear::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const detail::pair_rules<acc_of<Q>, heed::linear::options<acc_of<Q>>> rules{options};
  const auto& map = heed::detail::parts(options.feature);
  for (const detail::sequence& s : detail::sequences_of(options.mask, q4.extent(0), q4.extent(2), k4.extent(2)))
    for (index_t head = 0; head < q4.extent(1); ++head) {
      const index_t h = head / (q4.extent(1) / k4.extent(1));
      const detail::memory m = detail::load_memory(options.initial_state, s.number, h,
                                                   heed::detail::feature_dim(map, q4.extent(3)), v4.extent(3));
      for (index_t i = 0; i < s.queries; ++i) {
        const Eigen::VectorXd query = detail::features(map, detail::row_of(q4, s.batch, head, s.first_query + i));
        Eigen::VectorXd sum = m.s.transpose() * query;
        double weights = query.dot(m.z);
        for (index_t j = 0; j < detail::seen(rules, s, i); ++j) {
          const double weight = query.dot(detail::features(map, detail::row_of(k4, s.batch, h, s.first_key + j)));
          sum += weight * detail::row_of(v4, s.batch, h, s.first_key + j);
          weights += weight;
        }
        detail::store_row(o4, s.batch, head, s.first_query + i, detail::divided(options, sum, weights));
      }
    }
}

// heed::linear::decode without context: N new tokens, causal; the state is read, then updated.
template <viewable Q, viewable K, viewable V, viewable O>
void decode(const Q& q, const K& k, const V& v, state_view<acc_of<Q>> memory, O&& o,
            heed::linear::options<acc_of<Q>> options = {}) {
  options.mask = options.mask & causal();
  options.initial_state = memory;
  options.final_state = memory;
  reference::linear::forward(q, k, v, o, options);
}

}  // namespace HEED_ISA
}  // namespace heed::reference::linear

#include "heed/reference/linear_backward.hpp"
