// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Linear attention as its definition has it, in double, twice:
//
//   forward     S, z += phi(k_j) v_j^T, phi(k_j), one key after the other;
//               o_i = scale S phi(q_i) / (scale z.phi(q_i) + eps)
//   quadratic   o_i = scale sum_j (phi(q_i).phi(k_j)) v_j / (scale sum_j phi(q_i).phi(k_j) + eps), pair by pair
//
// over the keys that query i sees. The kernels are tested against them, and they against each other. They take the
// types of core/ and no code. Slow on purpose.

#include "heed/reference/eigen.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/config.hpp"
#include "heed/core/error.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/state.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/linear/options.hpp"
#include "heed/reference/subnormal.hpp"

namespace heed::reference::linear {
namespace detail {
inline namespace HEED_ISA {

using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// 16-bit types widen to float exactly and have no way of their own from double.
template <class T> double to_double(const T& x) {
  if constexpr (sizeof(T) == 2)
    return reference::detail::normal_or_zero<T>(static_cast<double>(static_cast<float>(x)));
  else
    return reference::detail::normal_or_zero<T>(static_cast<double>(x));
}
template <class T> void store(T& to, double x) {
  x = reference::detail::normal_or_zero<T>(x);
  if constexpr (sizeof(T) == 2)
    to = T(static_cast<float>(x));
  else
    to = static_cast<T>(x);
}

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
      double top = -HUGE_VAL, sum = 0;
      for (const double a : x) top = std::max(top, a);
      for (const double a : x) sum += std::exp(a - top);
      return each([top, sum](double a) { return std::exp(a - top) / sum; });
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

// One sequence: a batch entry, or one of the pieces that packed() cuts the only batch entry into. keys: those that are
// not hidden by key_lengths, of `all_keys`.
struct sequence {
  index_t number, batch, first_query, queries, first_key, keys, all_keys;
};

template <class Acc> struct problem {
  const heed::linear::options<Acc>& options;
  const heed::detail::mask_parts& mask;
  index_t batches, queries, keys;

  index_t sequences() const {
    return mask.has(mask.packed) ? static_cast<index_t>(mask.query_offsets.size()) - 1 : batches;
  }
  sequence sequence_at(index_t number) const {
    sequence s{number, number, 0, queries, 0, keys, keys};
    const auto n = static_cast<std::size_t>(number);
    if (mask.has(mask.packed)) {
      const index_t query = mask.query_offsets[n], key = mask.key_offsets[n];
      const index_t count = mask.key_offsets[n + 1] - key;
      s = {number, 0, query, mask.query_offsets[n + 1] - query, key, count, count};
    }
    if (mask.has(mask.key_lengths)) s.keys = mask.lengths[n];
    return s;
  }

  // Query i sees the first so many keys.
  index_t seen(const sequence& s, index_t i) const {
    if (!mask.has(mask.causal)) return s.keys;
    const heed::detail::alignment_parts& align = heed::detail::parts(options.align);
    const index_t place = align.has_first  ? align.first[static_cast<std::size_t>(s.number)] + i
                          : align.top_left ? i
                                           : i + (align.end_of_lengths ? s.keys : s.all_keys) - s.queries;
    return std::clamp<index_t>(place + 1, 0, s.keys);
  }
};

template <class T> Eigen::VectorXd row_of(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i) {
  Eigen::VectorXd row(x.extent(3));
  for (index_t d = 0; d < x.extent(3); ++d)
    row(d) = to_double(x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + d * x.stride(3)]);
  return row;
}
template <class T>
void store_row(const tensor_view<T, 4>& x, index_t b, index_t h, index_t i, const Eigen::VectorXd& row) {
  for (index_t d = 0; d < x.extent(3); ++d)
    store(x.data()[b * x.stride(0) + h * x.stride(1) + i * x.stride(2) + d * x.stride(3)], row(d));
}

struct memory {
  row_major s;
  Eigen::VectorXd z;
};
template <class Acc> memory load_memory(const state_view<const Acc>& from, index_t b, index_t h, index_t r, index_t e) {
  memory m{row_major::Zero(r, e), Eigen::VectorXd::Zero(r)};
  for (index_t i = 0; i < r && from.s.data() != nullptr; ++i) m.s.row(i) = row_of(from.s, b, h, i).transpose();
  for (index_t i = 0; i < r && from.z.data() != nullptr; ++i)
    m.z(i) = to_double(from.z.data()[b * from.z.stride(0) + h * from.z.stride(1) + i * from.z.stride(2)]);
  return m;
}
template <class Acc> void store_memory(const state_view<Acc>& to, index_t b, index_t h, const memory& m) {
  for (index_t i = 0; i < m.s.rows() && to.s.data() != nullptr; ++i) store_row(to.s, b, h, i, m.s.row(i).transpose());
  for (index_t i = 0; i < m.z.size() && to.z.data() != nullptr; ++i)
    store(to.z.data()[b * to.z.stride(0) + h * to.z.stride(1) + i * to.z.stride(2)], m.z(i));
}

// A denominator of exactly 0 has seen nothing: the row is 0.
template <class Acc>
Eigen::VectorXd divided(const heed::linear::options<Acc>& options, const Eigen::VectorXd& sum, double normaliser) {
  if (!options.normalize) return options.scale * sum;
  const double below = options.scale * normaliser + options.eps;
  if (heed::detail::equals(below, 0)) return Eigen::VectorXd::Zero(sum.size());
  return options.scale * sum / below;
}

template <class Acc> problem<Acc> checked(const heed::linear::options<Acc>& options, index_t b, index_t n, index_t m) {
  const heed::detail::mask_parts& mask = heed::detail::parts(options.mask);
  if (mask.conflict != nullptr) heed::detail::fail(mask.conflict);
  return {options, mask, b, n, m};
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
  const auto p = detail::checked(options, q4.extent(0), q4.extent(2), k4.extent(2));
  const auto& map = heed::detail::parts(options.feature);
  const index_t heads = q4.extent(1), kv_heads = k4.extent(1);
  for (index_t number = 0; number < p.sequences(); ++number)
    for (index_t h = 0; h < kv_heads; ++h) {
      const detail::sequence s = p.sequence_at(number);
      detail::memory m = detail::load_memory(options.initial_state, number, h,
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
        take(p.seen(s, i));
        for (index_t g = h * (heads / kv_heads); g < (h + 1) * (heads / kv_heads); ++g) {
          const Eigen::VectorXd query = detail::features(map, detail::row_of(q4, s.batch, g, s.first_query + i));
          detail::store_row(o4, s.batch, g, s.first_query + i,
                            detail::divided(options, m.s.transpose() * query, query.dot(m.z)));
        }
      }
      take(s.keys);
      detail::store_memory(options.final_state, number, h, m);
    }
}

// The same o, pair by pair; no final state.
template <viewable Q, viewable K, viewable V, viewable O>
void quadratic(const Q& q, const K& k, const V& v, O&& o, const heed::linear::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const auto p = detail::checked(options, q4.extent(0), q4.extent(2), k4.extent(2));
  const auto& map = heed::detail::parts(options.feature);
  for (index_t number = 0; number < p.sequences(); ++number)
    for (index_t head = 0; head < q4.extent(1); ++head) {
      const detail::sequence s = p.sequence_at(number);
      const index_t h = head / (q4.extent(1) / k4.extent(1));
      const detail::memory m = detail::load_memory(options.initial_state, number, h,
                                                   heed::detail::feature_dim(map, q4.extent(3)), v4.extent(3));
      for (index_t i = 0; i < s.queries; ++i) {
        const Eigen::VectorXd query = detail::features(map, detail::row_of(q4, s.batch, head, s.first_query + i));
        Eigen::VectorXd sum = m.s.transpose() * query;
        double weights = query.dot(m.z);
        for (index_t j = 0; j < p.seen(s, i); ++j) {
          const double weight = query.dot(detail::features(map, detail::row_of(k4, s.batch, h, s.first_key + j)));
          sum += weight * detail::row_of(v4, s.batch, h, s.first_key + j);
          weights += weight;
        }
        detail::store_row(o4, s.batch, head, s.first_query + i, detail::divided(options, sum, weights));
      }
    }
}

// heed::linear::decode without context: N new tokens, causal; memory is read, then updated.
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
