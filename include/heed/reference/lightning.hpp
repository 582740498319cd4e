// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Lightning attention as its definition has it, in double, twice:
//
//   forward     S_t = lambda_t S_{t-1} + k_t v_t^T;  o_t = scale q_t S_t, one token after the other
//   quadratic   o_i = scale sum_{j <= i} (product of lambda_t, j < t <= i) (q_i.k_j) v_j, one pair after the other
//
// with lambda_t = exp(-slope) or exp(log_gate_t). The kernels are tested against them, and they against each other.
// They share no arithmetic with the kernels: see reference/rules.hpp. Slow on purpose. backward is in
// lightning_backward.hpp.

#include <algorithm>
#include <cmath>

#include "heed/core/decay.hpp"
#include "heed/core/state.hpp"
#include "heed/lightning/options.hpp"
#include "heed/reference/rules.hpp"

namespace heed::reference::lightning {
namespace detail {
inline namespace HEED_ISA {

using namespace reference::detail;

// One head of the state of one sequence. tokens: those that are not padding.
template <class Acc> struct recurrence {
  const heed::detail::decay_parts<Acc>& decay;
  sequence s;
  index_t head, tokens;

  double lambda(index_t t) const {
    if (!decay.gated) return std::exp(-decay.slopes.at(head));
    return std::exp(number(decay.log_gates(s.batch, head, s.first_query + t)));
  }
};

// Calls f(recurrence, from, to, kv_head) for every sequence and head of the state: the query heads [from, to) read it,
// the key/value head writes it.
template <class Acc, class Q, class K, class F>
void each_state(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k, const heed::detail::decay_parts<Acc>& decay,
                const heed::lightning::options<Acc>& options, const F& f) {
  const pair_rules<Acc, heed::lightning::options<Acc>> rules{options};
  const index_t states = decay.gated ? decay.log_gates.extent(1) : decay.slopes.size();
  for (const sequence& s : sequences_of(options.mask, q.extent(0), q.extent(2), q.extent(2)))
    for (index_t head = 0; head < states; ++head) {
      const index_t readers = q.extent(1) / states;
      f(recurrence<Acc>{decay, s, head, rules.length(s)}, head * readers, (head + 1) * readers,
        head / (states / k.extent(1)));
    }
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// heed::lightning::forward without context: q (B, H, N, D), k (B, Hk, N, D), v (B, Hk, N, E), o (B, H, N, E), each of
// float, double or a 16-bit type. Padding, the rows from key_lengths on, neither enters nor decays the state, and
// reads it as it is. Shapes are the caller's duty.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O&& o,
             const heed::lightning::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const auto head = [&](const auto& r, index_t from, index_t to, index_t kv_head) {
    const index_t batch = r.s.batch;
    detail::row_major s = detail::load_state(options.initial_state.s, r.s.number, r.head, q4.extent(3), v4.extent(3));
    for (index_t i = 0; i < r.s.queries; ++i) {
      const index_t at = r.s.first_query + i;
      if (i < r.tokens) {
        const double lambda = r.lambda(i);
        if (heed::detail::equals(lambda, 0))
          s.setZero();  // even of what is not finite
        else
          s *= lambda;
        s += detail::row_of(k4, batch, kv_head, at) * detail::row_of(v4, batch, kv_head, at).transpose();
      }
      for (index_t h = from; h < to; ++h)
        detail::store_row(o4, batch, h, at,
                          Eigen::VectorXd(options.scale * (s.transpose() * detail::row_of(q4, batch, h, at))));
    }
    detail::store_state(options.final_state.s, r.s.number, r.head, s);
  };
  detail::each_state(q4, k4, heed::detail::parts(decay), options, head);
}

// The same o, pair by pair; no final state.
template <viewable Q, viewable K, viewable V, viewable O>
void quadratic(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O&& o,
               const heed::lightning::options<acc_of<Q>>& options = {}) {
  const auto q4 = view(q);
  const auto k4 = view(k);
  const auto v4 = view(v);
  const auto o4 = view(o);
  const auto head = [&](const auto& r, index_t from, index_t to, index_t kv_head) {
    const index_t batch = r.s.batch, first = r.s.first_query;
    const detail::row_major s =
        detail::load_state(options.initial_state.s, r.s.number, r.head, q4.extent(3), v4.extent(3));
    for (index_t i = 0; i < r.s.queries; ++i)
      for (index_t h = from; h < to; ++h) {
        const Eigen::VectorXd query = detail::row_of(q4, batch, h, first + i);
        Eigen::VectorXd sum = Eigen::VectorXd::Zero(v4.extent(3));
        double weight = 1;  // of the state before token j + 1
        for (index_t j = std::min(i, r.tokens - 1); j >= 0 && !heed::detail::equals(weight, 0); --j) {
          sum += weight * query.dot(detail::row_of(k4, batch, kv_head, first + j)) *
                 detail::row_of(v4, batch, kv_head, first + j);
          weight *= r.lambda(j);
        }
        if (!heed::detail::equals(weight, 0)) sum += weight * (s.transpose() * query);
        detail::store_row(o4, batch, h, first + i, Eigen::VectorXd(options.scale * sum));
      }
  };
  detail::each_state(q4, k4, heed::detail::parts(decay), options, head);
}

// heed::lightning::decode without context: N new tokens; the state is read, then updated.
template <viewable Q, viewable K, viewable V, viewable O>
void decode(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, state_view<acc_of<Q>> memory, O&& o,
            heed::lightning::options<acc_of<Q>> options = {}) {
  options.initial_state = memory;
  options.final_state = memory;
  reference::lightning::forward(q, k, v, decay, o, options);
}

}  // namespace HEED_ISA
}  // namespace heed::reference::lightning

#include "heed/reference/lightning_backward.hpp"
