// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Lightning attention as its definition has it, in double, twice:
//
//   forward     S_t = lambda_t S_{t-1} + k_t v_t^T;  o_t = scale q_t S_t, one token after the other
//   quadratic   o_i = scale sum_{j <= i} (product of lambda_t, j < t <= i) (q_i.k_j) v_j, one pair after the other
//
// with lambda_t = exp(-slope) or exp(log_gate_t). The kernels are tested against them, and they against each other.
// They take the types of core/ and no code. Slow on purpose.

#include "heed/reference/eigen.hpp"

#include <algorithm>
#include <cmath>

#include "heed/core/config.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/error.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/state.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/lightning/options.hpp"
#include "heed/reference/subnormal.hpp"

namespace heed::reference::lightning {
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

// One head of the state of one sequence, its tokens from row `first` of batch entry `batch` on. tokens: those that are
// not padding, of `rows`.
template <class Acc> struct track {
  const heed::detail::decay_parts<Acc>& decay;
  index_t number, batch, head, first, rows, tokens;

  double lambda(index_t t) const {
    if (!decay.gated) return std::exp(-decay.slopes.at(head));
    const auto& g = decay.log_gates;
    return std::exp(to_double(g.data()[batch * g.stride(0) + head * g.stride(1) + (first + t) * g.stride(2)]));
  }
};

// track(...) for every sequence and head of the state, with the query heads [from, to) that read it and the key/value
// head that writes it
template <class Acc, class F>
void each_track(const heed::detail::decay_parts<Acc>& decay, const heed::detail::mask_parts& mask, index_t batch,
                index_t rows, index_t heads, index_t kv_heads, const F& f) {
  if (mask.conflict != nullptr) heed::detail::fail(mask.conflict);
  const bool packed = mask.has(mask.packed);
  const index_t sequences = packed ? static_cast<index_t>(mask.query_offsets.size()) - 1 : batch;
  const index_t states = decay.gated ? decay.log_gates.extent(1) : decay.slopes.size();
  for (index_t number = 0; number < sequences; ++number)
    for (index_t head = 0; head < states; ++head) {
      const auto n = static_cast<std::size_t>(number);
      track<Acc> t{decay, number, packed ? 0 : number, head, 0, rows, rows};
      if (packed) {
        t.first = mask.query_offsets[n];
        t.rows = t.tokens = mask.query_offsets[n + 1] - t.first;
      }
      if (mask.has(mask.key_lengths)) t.tokens = mask.lengths[n];
      f(t, head * (heads / states), (head + 1) * (heads / states), head / (states / kv_heads));
    }
}

template <class Acc>
row_major load_memory(const state_view<const Acc>& from, index_t b, index_t h, index_t d, index_t e) {
  row_major s = row_major::Zero(d, e);
  for (index_t i = 0; i < d && from.s.data() != nullptr; ++i) s.row(i) = row_of(from.s, b, h, i).transpose();
  return s;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::lightning::forward without context: q (B, H, N, D), k (B, Hk, N, D), v (B, Hk, N, E), o (B, H, N, E), each of
// float, double or a 16-bit type. Padding, the rows from key_lengths on, neither enters nor decays the memory, and
// reads it as it is. Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O&& o,
             const heed::lightning::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const auto row = [&](const auto& t, index_t from, index_t to, index_t kv_head) {
    detail::row_major s = detail::load_memory(options.initial_state, t.number, t.head, q4.extent(3), v4.extent(3));
    for (index_t i = 0; i < t.rows; ++i) {
      if (i < t.tokens) {
        const double lambda = t.lambda(i);
        if (heed::detail::equals(lambda, 0))
          s.setZero();  // even of what is not finite
        else
          s *= lambda;
        s += detail::row_of(k4, t.batch, kv_head, t.first + i) *
             detail::row_of(v4, t.batch, kv_head, t.first + i).transpose();
      }
      for (index_t head = from; head < to; ++head)
        detail::store_row(
            o4, t.batch, head, t.first + i,
            Eigen::VectorXd(options.scale * (s.transpose() * detail::row_of(q4, t.batch, head, t.first + i))));
    }
    for (index_t i = 0; i < s.rows() && options.final_state.s.data() != nullptr; ++i)
      detail::store_row(options.final_state.s, t.number, t.head, i, s.row(i).transpose());
  };
  detail::each_track(heed::detail::parts(decay), heed::detail::parts(options.mask), q4.extent(0), q4.extent(2),
                     q4.extent(1), k4.extent(1), row);
}

// The same o, pair by pair; no final state.
template <viewable Q, viewable K, viewable V, viewable O>
void quadratic(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O&& o,
               const heed::lightning::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const auto row = [&](const auto& t, index_t from, index_t to, index_t kv_head) {
    const detail::row_major s =
        detail::load_memory(options.initial_state, t.number, t.head, q4.extent(3), v4.extent(3));
    for (index_t i = 0; i < t.rows; ++i)
      for (index_t head = from; head < to; ++head) {
        const Eigen::VectorXd query = detail::row_of(q4, t.batch, head, t.first + i);
        Eigen::VectorXd sum = Eigen::VectorXd::Zero(v4.extent(3));
        double weight = 1;  // of what the memory held before token j + 1
        for (index_t j = std::min(i, t.tokens - 1); j >= 0 && !heed::detail::equals(weight, 0); --j) {
          sum += weight * query.dot(detail::row_of(k4, t.batch, kv_head, t.first + j)) *
                 detail::row_of(v4, t.batch, kv_head, t.first + j);
          weight *= t.lambda(j);
        }
        if (!heed::detail::equals(weight, 0)) sum += weight * (s.transpose() * query);
        detail::store_row(o4, t.batch, head, t.first + i, Eigen::VectorXd(options.scale * sum));
      }
  };
  detail::each_track(heed::detail::parts(decay), heed::detail::parts(options.mask), q4.extent(0), q4.extent(2),
                     q4.extent(1), k4.extent(1), row);
}

// heed::lightning::decode without context: N new tokens; memory is read, then updated.
template <viewable Q, viewable K, viewable V, viewable O>
void decode(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, state_view<acc_of<Q>> memory, O&& o,
            heed::lightning::options<acc_of<Q>> options = {}) {
  options.initial_state = memory;
  options.final_state = memory;
  reference::lightning::forward(q, k, v, decay, o, options);
}

}  // namespace HEED_ISA
}  // namespace heed::reference::lightning
