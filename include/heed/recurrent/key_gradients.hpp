// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients of the keys and values of a chunk, which is in reverse: lanes are keys, rows are queries (decay.hpp). With
// R and r the gradients of S and z after the chunk, and u_i = factor_i q_scale phi(q_i), factor and delta as in
// query_gradients.hpp:
//
//   read_state()   x_j   = W(n-1, j) (R v_j + r)
//                  dv_j  = W(n-1, j) R^T phi(k_j)
//   add_pairs()    x_j  += sum_{i >= j} W(i, j) (dout_i.v_j - delta_i) u_i
//                  dv_j += sum_{i >= j} W(i, j) (u_i.phi(k_j)) dout_i
//   finish()       dk_j  = phi'(k_j) x_j
//
// Sums go over all query heads that read the state. With taylor features the factor is in dout and delta instead, and a
// pair's terms have the factor 1 + q_i.k_j for x, and 1 + q_i.k_j + (q_i.k_j)^2 / 2 in place of the product for dv.

#include <algorithm>
#include <cstddef>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/feature_gradients.hpp"
#include "heed/recurrent/gate_gradients.hpp"
#include "heed/recurrent/pair_sums.hpp"
#include "heed/recurrent/query_gradients.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Queries of a chunk and a head, from the last to the first: u [query][dim], dout [query][column].
template <class T> struct chunk_queries {
  tile::lane_block<const T> u, dout;
  const T* minus_delta = nullptr;  // where the kernel normalises
  bool finite = true;
};

template <class T> class key_gradients {
 public:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>;

  key_gradients(const backward_problem<T>& x, const chunk_task& task, const chunk_sizes& sizes,
                const chunk_features<T>& features, tile::prefetch_queue<T>& prefetch, heed::detail::arena& memory)
      : x_(x),
        p_(x.p),
        task_(task),
        features_(features),
        prefetch_(prefetch),
        pairs_(prefetch, memory),
        reads_k_(x.wants_values() || p_.taylor() || p_.mapped() || x.wants_gates()),
        scores_needed_(x.wants_values() || p_.taylor() || x.wants_gates()) {
    const index_t all = tile::whole_vectors<T>(sizes.chunk), most = pairs_.most_rows(sizes.chunk) * max_lanes;
    const bool keys = x.wants_keys(), values = x.wants_values();
    phi_ = memory.take<T>(reads_k_ ? p_.d * all : 0);
    k_ = memory.take<T>(keys && needs_argument(p_.map) ? p_.d * all : 0);
    v_ = memory.take<T>(keys ? p_.e * all : 0);
    dk_ = memory.take<T>(keys ? p_.d * all : 0), dv_ = memory.take<T>(values ? p_.e * all : 0);
    block_ = memory.take<T>(keys && p_.taylor() ? features.capacity() * max_lanes : 0);
    dout_v_ = memory.take<T>(keys ? most : 0), scores_ = memory.take<T>(scores_needed_ ? most : 0);
    others_ = memory.take<T>(x.states_per_kv_head() > 1 ? std::max(p_.d, p_.e) * max_lanes : 0);
    lanes_ = memory.take<T>(max_lanes);
  }

  // Begins the tiles of n tokens from token j on, with what the state after them gives. gates: of the state
  void begin(index_t kv_head, index_t j, index_t n, const chunk_decay<T>& decay, const chunk_state<T>& state,
             gate_gradients<T>& gates) {
    kv_head_ = kv_head, first_ = j, n_ = n, decay_ = &decay, state_ = &state, gates_ = &gates;
    if (gates.wanted()) gates.begin_chunk();
    each_tile([&](const lane_range& range) {
      gather(range);
      read_state(range);
      if (gates.wanted()) set_gate_keys(range);
    });
    started_ = false;
  }

  // Adds the pairs of the chunk's tokens with one head's queries.
  void add_pairs(const chunk_queries<T>& queries) {
    each_tile([&](const lane_range& range) {
      auto from = pairs_.start_of(*decay_, range, state_->empty() && !p_.taylor());
      if (started_) from = {tile::accumulate::keep};
      pairs_.each_block(range, [&](const pair_block& block) {
        add_block(queries, range, block, from);
        from = {tile::accumulate::keep};
      });
    });
    started_ = true;
  }

  // Writes the gradients, or adds them to those of other states.
  void finish(bool add) {
    each_tile([&](const lane_range& range) {
      const tile::lane_block<T> dk = block(dk_, p_.d, range), dv = block(dv_, p_.e, range);
      if (!started_) scale_unpaired(range, dk), scale_unpaired(range, dv);
      if (dk.data != nullptr && p_.mapped() && !p_.taylor())
        map_gradients<T>(p_.map, block(k_, p_.d, range), block(phi_, p_.d, range), T(1), dk);
      scatter(x_.dk, dk, range, add), scatter(x_.dv, dv, range, add);
    });
  }

 private:
  template <class F> void each_tile(F f) const {
    for (index_t at = 0; at < n_; at += max_lanes) f(lane_range{at, std::min(max_lanes, n_ - at)});
  }
  // The tile's part of an array of all lanes of the chunk
  static tile::lane_block<T> block(T* data, index_t rows, const lane_range& range) {
    const index_t whole = tile::whole_vectors<T>(range.count);
    return {data == nullptr ? nullptr : data + rows * range.at, whole, data == nullptr ? 0 : rows, whole};
  }
  index_t token(const lane_range& range, index_t lane) const { return first_ + n_ - 1 - range.at - lane; }

  void gather(const lane_range& range) {
    tile::lane_array<const std::byte*, max_lanes> k, v;
    for (index_t l = 0; l < range.count; ++l) {
      k[l] = p_.key(task_.sequence, kv_head_, token(range, l));
      v[l] = p_.value(task_.sequence, kv_head_, token(range, l));
    }
    const tile::lane_block<T> phi = block(phi_, p_.d, range), to = block(v_, p_.e, range);
    if (v_ != nullptr) p_.kv_format->gather(v.data(), range.count, p_.e, T(1), to.data, to.lanes);
    if (!reads_k_) return;
    p_.kv_format->gather(k.data(), range.count, p_.d, T(1), phi.data, phi.lanes);
    if (!p_.mapped() || p_.taylor()) return;
    if (k_ != nullptr) std::copy(phi.data, phi.data + p_.d * phi.lanes, block(k_, p_.d, range).data);
    map_lanes(p_.map, phi);
  }

  void read_state(const lane_range& range) {
    const tile::lane_block<T> dk = block(dk_, p_.d, range), dv = block(dv_, p_.e, range);
    if (state_->empty() || p_.taylor()) {
      for (const tile::lane_block<T>& x : {dk, dv}) tile::fill(x.data, x.stride, x.rows, x.lanes, T(0));
      if (state_->empty()) return;
    }
    auto accumulate = p_.taylor() ? tile::accumulate::keep : tile::accumulate::zero;
    features_.each_block([&](const feature_block& features) {
      if (dk.rows > 0) read_keys(range, features);
      if (dv.rows == 0) return;
      const tile::lane_block<T> phi = block(phi_, p_.d, range);
      const tile::lane_block<const T> of_block{features_.of_queries(phi, features), phi.stride, features.count,
                                               phi.lanes};
      auto product =
          tile::product_of<T>(state_->s() + features.first * state_->stride(), 1, state_->stride(), of_block, dv);
      product.accumulate = accumulate;
      prefetch_.multiply(product, dv.lanes / w);
    });
    pairs_.cut_resets(*decay_, range, dk), pairs_.cut_resets(*decay_, range, dv);
  }
  void set_gate_keys(const lane_range& range) {
    std::fill(lanes_, lanes_ + max_lanes, T(0));
    if (!state_->empty()) add_lane_dots<T>(block(phi_, p_.d, range), block(dk_, p_.d, range), lanes_);
    gates_->set_keys(*decay_, range.at, range.count, lanes_);
  }
  // dk = R v + r, through the features where they are taylor's
  void read_keys(const lane_range& range, const feature_block& features) {
    const tile::lane_block<T> dk = block(dk_, p_.d, range), v = block(v_, p_.e, range);
    const tile::lane_block<T> out = p_.taylor() ? tile::lane_block<T>{block_, dk.stride, features.count, dk.lanes} : dk;
    const T* const s = state_->s() + features.first * state_->stride();
    prefetch_.multiply(tile::product_of<T>(s, state_->stride(), 1, v, out), out.lanes / w);
    if (p_.normalize) {
      std::fill(lanes_, lanes_ + out.lanes, T(1));
      auto product = tile::product_of<T>(state_->z() + features.first, 1, 0, {lanes_, 0, 1, out.lanes}, out);
      product.accumulate = tile::accumulate::keep;
      tile::multiply(product, out.lanes / w);
    }
    if (p_.taylor()) add_taylor_gradients<T>(features, out, block(phi_, p_.d, range), dk);
  }

  void add_block(const chunk_queries<T>& queries, const lane_range& range, const pair_block& pairs,
                 const typename pair_sums<T>::start& from) {
    const tile::lane_block<T> dk = block(dk_, p_.d, range), dv = block(dv_, p_.e, range);
    const index_t rows = std::max(pairs.rows, index_t{1}), whole = dk.lanes, lane = pairs.lane;
    const tile::lane_block<T> dout_v{dout_v_, whole, rows, whole}, scores{scores_, whole, rows, whole};
    const auto part_of = [&](const tile::lane_block<T>& x, bool needed) {
      return needed ? x.part(0, pairs.rows, lane, whole - lane) : tile::lane_block<T>();
    };
    const tile::lane_block<T> d = part_of(dout_v, dk.rows > 0), s = part_of(scores, scores_needed_);
    if (scores_needed_) pairs_.multiply(pairs, queries.u, block(phi_, p_.d, range), scores);
    if (dk.rows > 0) {
      pairs_.multiply(pairs, queries.dout, block(v_, p_.e, range), dout_v);
      for (index_t r = 0; p_.normalize && r < d.rows; ++r) add_to_row(d, r, queries.minus_delta[pairs.row + r]);
      if (p_.taylor()) chain_taylor<T>(s, d);
      decay_->apply_diag_decay(d, pairs.row, range.at + lane);
      if (gates_->wanted()) {
        decay_->hide(s, pairs.row, range.at + lane);
        gates_->add_pairs(s, d, pairs.row, range.at + lane);
      }
      pairs_.add(*decay_, range, pairs, dout_v, queries.u, dk, from, queries.finite);
    }
    if (dv.rows == 0) return;
    if (p_.taylor()) taylor_weights(s);
    decay_->apply_diag_decay(s, pairs.row, range.at + lane);
    pairs_.add(*decay_, range, pairs, scores, queries.dout, dv, from, queries.finite);
  }
  static void add_to_row(const tile::lane_block<T>& x, index_t row, T number) {
    const simd::batch<T> y(number);
    for (index_t l = 0; l < x.lanes; l += w) simd::store(x.row(row) + l, simd::load(x.row(row) + l) + y);
  }

  // Decays the state's part of tokens that no query of the chunk has read.
  void scale_unpaired(const lane_range& range, const tile::lane_block<T>& x) const {
    if (!decay_->decays()) return;
    for (index_t r = 0; r < x.rows; ++r)
      for (index_t l = 0; l < range.count; ++l) x.row(r)[l] *= decay_->q_decay(range.at)[l];
  }

  void scatter(const heed::detail::output_tensor& to, const tile::lane_block<T>& x, const lane_range& range, bool add) {
    if (to.data() == nullptr || x.rows == 0) return;
    constexpr const tile::row_format<T>& format = tile::row_format_of<T, T>;
    tile::lane_array<std::byte*, max_lanes> rows;
    tile::lane_array<const std::byte*, max_lanes> others;
    for (index_t l = 0; l < range.count; ++l)
      others[l] = rows[l] = to.row(task_.sequence.batch, kv_head_, task_.sequence.first_key + token(range, l));
    if (add) {
      format.gather(others.data(), range.count, x.rows, T(1), others_, x.lanes);
      for (index_t i = 0; i < x.rows * x.lanes; i += w)
        simd::store(x.data + i, simd::load(x.data + i) + simd::load(others_ + i));
    }
    std::fill(lanes_, lanes_ + x.lanes, T(1));
    format.scatter(x.data, x.stride, lanes_, rows.data(), range.count, x.rows);
  }

  const backward_problem<T>& x_;
  const recurrence<T>& p_;
  const chunk_task& task_;
  const chunk_features<T>& features_;
  tile::prefetch_queue<T>& prefetch_;
  pair_sums<T> pairs_;
  bool reads_k_, scores_needed_;
  T *phi_, *k_, *v_, *dk_, *dv_;  // [.][lane], tile after tile; k: before the feature map
  T *block_, *dout_v_, *scores_, *others_, *lanes_;
  index_t kv_head_ = 0, first_ = 0, n_ = 0;
  gate_gradients<T>* gates_ = nullptr;
  const chunk_decay<T>* decay_ = nullptr;
  const chunk_state<T>* state_ = nullptr;
  bool started_ = false;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
