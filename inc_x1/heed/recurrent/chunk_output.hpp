// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Outputs of one tile of queries of a chunk: lanes are queries, sums [column of v][lane]. With S the state before the
// chunk and W(i, j) the decay from token j to token i:
//
//   read_state()   o_i  = W(i, -1) S^T phi(q_i)                           A = S, B = queries, C = sums
//   add_keys()     o_i += sum_{j <= i} W(i, j) (phi(q_i).phi(k_j)) v_j     scores as in softmax, weights by decay
//   write()        o_i *= scale, or scale / (scale z.phi(q_i) + eps) where the kernel normalises
//
// where phi(q) includes q_scale. Hidden pairs have weight 0, and 0 * NaN is NaN: a tile whose sums are not finite is
// computed once more, in a nonfinite pass.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/finite.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Adds each lane's scores to its sum.
template <class T> HEED_NOINLINE void add_down(tile::lane_block<T> s, T* sums) {
  for (index_t l = 0; l < s.lanes; l += simd::width<T>) {
    simd::batch<T> sum = simd::load(sums + l);
    for (index_t j = 0; j < s.rows; ++j) sum += simd::load(s.row(j) + l);
    simd::store(sums + l, sum);
  }
}

// Queries [first, first + lanes) of a query head. The first comes with token `at` of the chunk; at < 0: they see the
// state alone.
struct query_tile {
  index_t head = 0, first = 0, lanes = 0, at = -1;
};

template <class T> class chunk_output {
 public:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>, key_block = 256;
  static constexpr index_t diagonal_keys = w < 8 ? 8 : w;  // keys of a block on the diagonal
  static constexpr index_t finite_columns = 16;            // columns of v that a nonfinite pass copies at a time

  chunk_output(const recurrence<T>& p, const chunk_task& task, const chunk_sizes& sizes,
               const chunk_features<T>& features, tile::prefetch_queue<T>& prefetch, heed::detail::arena& memory)
      : p_(p),
        task_(task),
        features_(features),
        prefetch_(prefetch),
        q_{memory.take<T>(max_lanes * p.d)},
        scores_{memory.take<T>(std::max(max_lanes, std::min(sizes.chunk, key_block)) * max_lanes)},
        sums_{memory.take<T>(sizes.columns * max_lanes)},
        weight_sum_(memory.take<T>(max_lanes)),
        factor_(memory.take<T>(max_lanes)),
        finite_(memory.take<T>(key_block * finite_columns)) {}

  // Begins the tiles of a state and a chunk.
  void begin(const chunk_decay<T>& decay, const chunk_state<T>& state, const chunk_tokens<T>& tokens) {
    decay_ = &decay, state_ = &state, tokens_ = tokens;
  }

  // Writes the task's columns of a tile's outputs; queries.lanes <= max_lanes.
  void write(const query_tile& queries) {
    tile::lane_array<const std::byte*, max_lanes> in;
    tile::lane_array<std::byte*, max_lanes> out;
    for (index_t l = 0; l < queries.lanes; ++l) {
      in[l] = p_.query(task_.sequence, queries.head, queries.first + l);
      out[l] = p_.output(task_.sequence, queries.head, queries.first + l) + task_.column * p_.o_format->element;
    }
    const index_t whole = tile::whole_vectors<T>(queries.lanes);
    queries_ = queries;
    q_ = {q_.data, whole, p_.d, whole}, sums_ = {sums_.data, whole, task_.columns, whole};
    scores_ = {scores_.data, whole, 0, whole};
    p_.q_format->gather(in.data(), queries.lanes, p_.d, p_.mapped() ? T(1) : p_.q_scale, q_.data, whole);
    if (p_.mapped() && !p_.taylor()) {
      map_lanes(p_.map, q_);
      if (!heed::detail::equals(p_.q_scale, T(1))) scale_values(q_.data, p_.d * whole, p_.q_scale, q_.data);
    }
    sum(false);
    if (queries.at >= 0 && !finite()) sum(true);  // perhaps by what some lane must not see
    for (index_t l = 0; l < whole; ++l) {
      const output_factors<T> factors = output_factor(p_, p_.normalize ? weight_sum_[l] : T(0));
      factor_[l] = factors.last;
      for (index_t c = 0; factors.two() && c < sums_.rows; ++c) sums_.row(c)[l] *= factors.first;
    }
    p_.o_format->scatter(sums_.data, whole, factor_, out.data(), queries.lanes, sums_.rows);
  }

 private:
  bool finite() const {
    const index_t all = sums_.lanes * sums_.rows;
    if (queries_.lanes == sums_.lanes) return tile::all_finite(sums_.data, all, 1, all);
    return tile::all_finite(sums_.data, sums_.stride, sums_.rows, queries_.lanes);
  }

  void sum(bool nonfinite_pass) {
    const bool empty = state_->empty();
    const index_t at = queries_.at, lanes = queries_.lanes;
    if (p_.normalize) std::fill(weight_sum_, weight_sum_ + q_.lanes, T(0));
    if (!empty) read_state();
    if (at < 0) {
      if (empty) tile::fill(sums_.data, sums_.stride, sums_.rows, sums_.lanes, T(0));
      return;
    }
    if (nonfinite_pass && decay_->has_reset() && !empty)
      for (index_t l = 0; l < lanes; ++l)
        for (index_t c = 0; c < sums_.rows && heed::detail::equals(decay_->q_decay(at)[l], T(0)); ++c)
          sums_.row(c)[l] = T(0);
    next_ = empty ? tile::accumulate::zero : decay_->decays() ? tile::accumulate::scale : tile::accumulate::keep;
    for (index_t j = 0; j < at; j += key_block) add_keys(j, std::min(key_block, at - j), 0, nonfinite_pass);
    for (index_t j = 0; j < lanes; j += diagonal_keys)
      add_keys(at + j, std::min(diagonal_keys, lanes - j), j / w * w, nonfinite_pass);
  }

  // sums = S^T phi(q), weight_sum = z.phi(q)
  void read_state() {
    auto accumulate = tile::accumulate::zero;
    features_.each_block([&](const feature_block& block) {
      const tile::lane_block<const T> phi{features_.of_queries(q_, block), q_.stride, block.count, q_.lanes};
      const T* const s = state_->s() + block.first * state_->stride();
      auto product = tile::product_of<T>(s, 1, state_->stride(), phi, sums_);
      product.accumulate = std::exchange(accumulate, tile::accumulate::keep);
      prefetch_.multiply(product, phi.lanes / w);
      if (!p_.normalize) return;
      product = tile::product_of<T>(state_->z() + block.first, 0, 1, phi, {weight_sum_, 0, 1, phi.lanes});
      product.accumulate = tile::accumulate::keep;
      tile::multiply(product, phi.lanes / w);
    });
  }

  // Adds keys [key, key + keys) of the chunk for the lanes from `lane` on.
  void add_keys(index_t key, index_t keys, index_t lane, bool nonfinite_pass) {
    const tile::lane_block<T> s = scores_.part(0, keys, lane, scores_.lanes - lane);
    const tile::lane_block<T> q = q_.part(0, p_.d, lane, s.lanes), sums = sums_.part(0, sums_.rows, lane, s.lanes);
    tile::multiply(tile::product_of<T>(tokens_.keys.row(key), tokens_.keys.stride, 1, q, s), s.lanes / w);
    if (p_.taylor()) taylor_weights(s);
    decay_->apply_diag_decay(s, key, queries_.at + lane);
    if (p_.normalize) add_down(s, weight_sum_ + lane);
    const tile::lane_block<const T> v = tokens_.values.part(key, keys, 0, sums_.rows);
    if (nonfinite_pass)
      add_visible(s, v, key, lane);
    else
      add_values(s, v, sums);
    next_ = tile::accumulate::keep;
  }

  // Adds the weighted values; the state's part, if it comes first, is scaled by its decay.
  void add_values(const tile::lane_block<T>& weights, const tile::lane_block<const T>& v,
                  const tile::lane_block<T>& sums) {
    auto product = tile::product_of<T>(v.data, 1, v.stride, weights, sums);
    product.accumulate = next_;
    if (next_ == tile::accumulate::scale) product.factor = decay_->q_decay(queries_.at);
    tile::multiply(product, weights.lanes / w);
  }

  // Adds values that are not finite to the lanes that see them and no other; the others get the bits of add_values.
  void add_visible(const tile::lane_block<T>& weights, const tile::lane_block<const T>& v, index_t key, index_t lane) {
    const auto seen = [&](index_t j) {
      std::uint64_t lanes = 0;
      for (index_t l = lane; l < queries_.lanes; ++l)
        if (decay_->sees(queries_.at + l, key + j)) lanes |= std::uint64_t{1} << l;
      return lanes;
    };
    tile::add_visible<key_block, T>(v, {scores_.data, scores_.stride, lane, queries_.lanes, sums_.data, sums_.stride},
                                    {finite_, finite_columns, v.rows, finite_columns}, seen,
                                    [&](const tile::lane_block<const T>& x, index_t c) {
                                      add_values(weights, x, sums_.part(c, x.lanes, lane, weights.lanes));
                                    });
  }

  const recurrence<T>& p_;
  const chunk_task& task_;
  const chunk_features<T>& features_;
  tile::prefetch_queue<T>& prefetch_;
  tile::lane_block<T> q_, scores_, sums_;
  T *weight_sum_, *factor_, *finite_;
  const chunk_decay<T>* decay_ = nullptr;
  const chunk_state<T>* state_ = nullptr;
  chunk_tokens<T> tokens_ = {};
  query_tile queries_ = {};
  tile::accumulate next_ = tile::accumulate::zero;  // of the next sum
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
