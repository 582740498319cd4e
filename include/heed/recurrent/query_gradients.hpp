// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients of one tile of queries of a chunk: lanes are queries, sums [dim][lane]. With S and z the state before the
// chunk, W(i, j) the decay, and delta_i = dout_i.o_i where the kernel normalises, else 0:
//
//   read_state()   x_i  = W(i, -1) (S dout_i - delta_i z)                           A = S, B = dout, C = sums
//   add_pairs()    x_i += sum_{j <= i} W(i, j) (dout_i.v_j - delta_i) phi(k_j)
//   finish()       dq_i = q_scale factor_i phi'(q_i) x_i, factor = scale, or scale / denominator
//
// The denominator comes from z.phi(q_i) and the scores, as in forward. With taylor features a pair's term has the
// factor 1 + q_i.k_j, and the state's part goes through the features block by block.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_output.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/feature_gradients.hpp"
#include "heed/recurrent/pair_sums.hpp"
#include "heed/recurrent/slope_gradients.hpp"
#include "heed/recurrent/sweep_terms.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Subtracts from every row of x the lanes' numbers.
template <class T> HEED_NOINLINE void subtract_lanes(const tile::lane_block<T>& x, const T* numbers) {
  for (index_t r = 0; r < x.rows; ++r)
    for (index_t l = 0; l < x.lanes; l += simd::width<T>)
      simd::store(x.row(r) + l, simd::load(x.row(r) + l) - simd::load(numbers + l));
}

// d *= 1 + s, the derivative of s -> 1 + s + s^2 / 2
template <class T> HEED_NOINLINE void chain_taylor(const tile::lane_block<const T>& s, const tile::lane_block<T>& d) {
  for (index_t r = 0; r < d.rows; ++r)
    for (index_t l = 0; l < d.lanes; l += simd::width<T>) {
      const simd::batch<T> x = simd::load(d.row(r) + l);
      simd::store(d.row(r) + l, simd::fma(x, simd::load(s.row(r) + l), x));
    }
}

template <class T> class query_gradients {
 public:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>;

  query_gradients(const backward_problem<T>& x, const sweep_terms<T>& terms, const chunk_task& task,
                  const chunk_sizes& sizes, const chunk_features<T>& features, slope_gradients<T>& slopes,
                  tile::prefetch_queue<T>& prefetch, heed::detail::arena& memory)
      : x_(x),
        p_(x.p),
        terms_(terms),
        task_(task),
        features_(features),
        slopes_(slopes),
        prefetch_(prefetch),
        pairs_(prefetch, memory),
        scores_needed_(p_.normalize || p_.taylor() || x.wants_slopes()),
        reads_q_((p_.mapped() && x.sums_keys()) || scores_needed_ || x.wants_gates()),
        dout_{memory.take<T>(p_.e * max_lanes), 0, p_.e, 0},
        o_{memory.take<T>(p_.normalize ? p_.e * max_lanes : 0), 0, p_.e, 0},
        phi_{memory.take<T>(reads_q_ ? p_.d * max_lanes : 0), 0, p_.d, 0},
        q_{memory.take<T>(needs_argument(p_.map) ? p_.d * max_lanes : 0), 0, p_.d, 0},
        sums_{memory.take<T>(p_.d * max_lanes), 0, p_.d, 0},
        features_sum_{memory.take<T>(p_.taylor() ? features.capacity() * max_lanes : 0), 0, 0, 0},
        dout_v_{memory.take<T>(pairs_.most_rows(sizes.chunk) * max_lanes), 0, 0, 0},
        scores_{memory.take<T>(scores_needed_ ? pairs_.most_rows(sizes.chunk) * max_lanes : 0), 0, 0, 0},
        delta_(memory.take<T>(max_lanes)),
        minus_delta_(memory.take<T>(max_lanes)),
        weight_sum_(memory.take<T>(max_lanes)),
        factor_(memory.take<T>(max_lanes)) {}

  bool reads_q() const { return reads_q_; }

  // Begins the tiles of a state, head `number` of it, and a chunk. finite: all keys are
  void begin(index_t number, const chunk_decay<T>& decay, const chunk_state<T>& state, const chunk_tokens<T>& tokens,
             bool finite) {
    number_ = number, decay_ = &decay, state_ = &state, tokens_ = tokens, finite_ = finite;
  }

  // Computes the gradients of a tile, and what the reverse sweep needs of its rows; queries.lanes <= max_lanes.
  void write(const query_tile& queries) {
    queries_ = queries;
    const index_t whole = tile::whole_vectors<T>(queries.lanes);
    for (tile::lane_block<T>* const x : {&dout_, &o_, &phi_, &q_, &sums_, &features_sum_, &dout_v_, &scores_})
      x->stride = x->lanes = whole;
    gather();
    read_state();
    if (x_.wants_slopes()) slopes_.begin_tile(phi_, dout_, sums_, state_->empty());
    if (x_.wants_gates()) leave_for_gates();
    if (queries.at >= 0) add_pairs();
    finish();
  }

 private:
  lane_range range() const { return {queries_.at, queries_.lanes}; }
  bool empty() const { return state_->empty(); }

  void gather() {
    tile::lane_array<const std::byte*, max_lanes> q, o, dout;
    for (index_t l = 0; l < queries_.lanes; ++l) {
      q[l] = p_.query(task_.sequence, queries_.head, queries_.first + l);
      o[l] = p_.output(task_.sequence, queries_.head, queries_.first + l);
      dout[l] = x_.dout_row(task_.sequence, queries_.head, queries_.first + l);
    }
    const index_t n = queries_.lanes, whole = dout_.lanes;
    x_.dout_format->gather(dout.data(), n, p_.e, T(1), dout_.data, whole);
    if (p_.normalize) {
      p_.o_format->gather(o.data(), n, p_.e, T(1), o_.data, whole);
      std::fill(delta_, delta_ + whole, T(0));
      add_lane_dots<T>(dout_, o_, delta_);
      for (index_t l = 0; l < whole; ++l) minus_delta_[l] = -delta_[l];
    }
    if (!reads_q_) return;
    p_.q_format->gather(q.data(), n, p_.d, p_.mapped() ? T(1) : p_.q_scale, phi_.data, whole);
    if (!p_.mapped() || p_.taylor()) return;
    if (q_.data != nullptr) std::copy(phi_.data, phi_.data + p_.d * whole, q_.data);
    map_lanes(p_.map, phi_);
    if (!heed::detail::equals(p_.q_scale, T(1))) scale_values(phi_.data, p_.d * whole, p_.q_scale, phi_.data);
  }

  // sums = S dout - delta z, through the features where they are taylor's; weight_sum = z.phi(q)
  void read_state() {
    if (p_.normalize) std::fill(weight_sum_, weight_sum_ + dout_.lanes, T(0));
    if (x_.sums_keys() && (p_.taylor() || (empty() && queries_.at < 0)))
      tile::fill(sums_.data, sums_.stride, sums_.rows, sums_.lanes, T(0));
    if (empty()) return;
    features_.each_block([&](const feature_block& block) {
      if (x_.sums_keys()) read_block(block);
      if (!p_.normalize) return;
      const tile::lane_block<const T> phi{features_.of_queries(phi_, block), phi_.stride, block.count, phi_.lanes};
      auto product = tile::product_of<T>(state_->z() + block.first, 0, 1, phi, {weight_sum_, 0, 1, phi.lanes});
      product.accumulate = tile::accumulate::keep;
      tile::multiply(product, phi.lanes / w);
    });
    if (x_.sums_keys() && queries_.at >= 0) pairs_.cut_resets(*decay_, range(), sums_);
  }
  void read_block(const feature_block& block) {
    tile::lane_block<T> out = p_.taylor() ? features_sum_ : sums_;
    out.rows = block.count;
    const T* const s = state_->s() + block.first * state_->stride();
    prefetch_.multiply(tile::product_of<T>(s, state_->stride(), 1, dout_, out), out.lanes / w);
    if (p_.normalize) {
      const tile::lane_block<const T> delta{minus_delta_, 0, 1, out.lanes};
      auto product = tile::product_of<T>(state_->z() + block.first, 1, 0, delta, out);
      product.accumulate = tile::accumulate::keep;
      tile::multiply(product, out.lanes / w);
    }
    if (p_.taylor()) add_taylor_gradients<T>(block, out, phi_, sums_);
  }

  void add_pairs() {
    auto from = pairs_.start_of(*decay_, range(), empty() && !p_.taylor());
    pairs_.each_block(range(), [&](const pair_block& block) {
      const index_t lane = block.lane, count = sums_.lanes - lane;
      const tile::lane_block<T> d = dout_v_.part(0, block.rows, lane, count);
      const tile::lane_block<T> s = scores_needed_ ? scores_.part(0, block.rows, lane, count) : tile::lane_block<T>();
      if (scores_needed_) pairs_.multiply(block, tokens_.keys, phi_, scores_);
      if (x_.sums_keys()) {
        pairs_.multiply(block, tokens_.values, dout_, dout_v_);
        if (p_.normalize) subtract_lanes(d, delta_ + lane);
        if (p_.taylor()) chain_taylor<T>(s, d);
      }
      if (x_.wants_slopes()) slopes_.add_pairs(*decay_, range(), block, scores_, dout_v_);
      if (p_.normalize) {
        if (p_.taylor()) taylor_weights(s);
        decay_->apply_diag_decay(s, block.row, queries_.at + lane);
        add_down(s, weight_sum_ + lane);
      }
      if (!x_.sums_keys()) return;
      decay_->apply_diag_decay(d, block.row, queries_.at + lane);
      pairs_.add(*decay_, range(), block, dout_v_, tokens_.keys, sums_, from, finite_);
      from = {tile::accumulate::keep};
    });
  }

  void finish() {
    for (index_t l = 0; l < sums_.lanes; ++l) {
      const output_factors<T> factors = output_factor(p_, p_.normalize ? weight_sum_[l] : T(0));
      factor_[l] = factors.last;
      for (index_t c = 0; factors.two() && x_.sums_keys() && c < sums_.rows; ++c) sums_.row(c)[l] *= factors.first;
      if (terms_.factor == nullptr || l >= queries_.lanes) continue;
      const index_t row = x_.number_of(task_.sequence, queries_.head, queries_.first + l);
      terms_.factor[row] = factors.first * factors.last, terms_.delta[row] = delta_[l];
    }
    if (x_.wants_slopes()) slopes_.end_tile(*decay_, range());
    if (x_.dq.data() == nullptr) return;
    if (p_.mapped() && !p_.taylor()) map_gradients<T>(p_.map, q_, phi_, T(1) / p_.q_scale, sums_);
    tile::lane_array<std::byte*, max_lanes> out;
    for (index_t l = 0; l < queries_.lanes; ++l)
      out[l] = x_.dq.row(task_.sequence.batch, queries_.head, task_.sequence.first_query + queries_.first + l);
    for (index_t l = 0; l < sums_.lanes; ++l) factor_[l] *= p_.q_scale;
    tile::row_format_of<T, T>.scatter(sums_.data, sums_.stride, factor_, out.data(), queries_.lanes, p_.d);
  }

  // Leaves a_i of gate_gradients.hpp, summed over the heads of the state, where the gradient of gate i will be.
  void leave_for_gates() {
    std::fill(weight_sum_, weight_sum_ + sums_.lanes, T(0));
    if (!empty()) add_lane_dots<T>(phi_, sums_, weight_sum_);
    const bool first = queries_.head % p_.queries_per_state == 0, decays = queries_.at >= 0 && decay_->decays();
    for (index_t l = 0; l < queries_.lanes; ++l) {
      T& sum = x_.dlog_gates(task_.sequence.batch, number_, task_.sequence.first_query + queries_.first + l);
      const T left = decays ? decay_->q_decay(queries_.at)[l] : T(1);
      const T a = left > T(0) ? static_cast<T>(p_.scale) * left * weight_sum_[l] : T(0);
      sum = first ? a : sum + a;
    }
  }

  const backward_problem<T>& x_;
  const recurrence<T>& p_;
  const sweep_terms<T>& terms_;
  const chunk_task& task_;
  const chunk_features<T>& features_;
  slope_gradients<T>& slopes_;
  tile::prefetch_queue<T>& prefetch_;
  pair_sums<T> pairs_;
  bool scores_needed_, reads_q_;
  tile::lane_block<T> dout_, o_, phi_, q_, sums_, features_sum_;  // q: before the feature map
  tile::lane_block<T> dout_v_, scores_;
  T *delta_, *minus_delta_, *weight_sum_, *factor_;
  index_t number_ = 0;
  const chunk_decay<T>* decay_ = nullptr;
  const chunk_state<T>* state_ = nullptr;
  chunk_tokens<T> tokens_ = {};
  bool finite_ = true;
  query_tile queries_ = {};
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
