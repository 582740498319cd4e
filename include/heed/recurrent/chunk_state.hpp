// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The task of a worker, and its state S (features x columns of v), in cache, with z where the kernel normalises. A
// chunk of tokens 0 .. n - 1 updates it, W as in decay.hpp:
//
//   S <- W(n-1, -1) S + sum_j W(n-1, j) phi(k_j) v_j^T               A = keys, B = values, C = S [feature][column]
//   z <- z + sum_j phi(k_j)                                           (kernels that normalise have no decay)
//
// Traffic: an update loads and stores S once; the chunk's queries load it once more.

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Which share of the chunks of pairs a task computes; those before it only update its state.
struct piece {
  static constexpr index_t whole = index_t{1} << 20;
  index_t begin = 0, end = whole;

  bool first() const { return begin == 0; }
  bool last() const { return end == whole; }
};
// Returns how many pairs come before a share of them, in whole chunks.
inline index_t pairs_before(index_t share, index_t pairs, index_t chunk) {
  const index_t chunks = (pairs + chunk - 1) / chunk;
  return std::min(pairs, (share * chunks + piece::whole / 2) / piece::whole * chunk);
}

// Heads of the state that a task takes through the tokens side by side, at most
inline constexpr index_t max_states_per_task = 8;

// `states` heads of the state from `state` on, columns [column, column + columns) of v, a piece of the tokens.
struct chunk_task {
  recurrent::sequence sequence = {};
  index_t state = 0, states = 1;
  index_t column = 0, columns = 0;
  recurrent::piece piece = {};
};

// The most that a task may have, for which scratch is taken
struct chunk_sizes {
  index_t chunk = 0, columns = 0, states = 1;
};

// Where a state comes from (null: zeros) and where it goes (null: nowhere). s and z each.
template <class T> struct state_ends {
  state_view<const T> from;
  state_view<T> to;
};

template <class T> class chunk_state {
 public:
  static constexpr index_t w = simd::width<T>;

  chunk_state(const recurrence<T>& p, const chunk_task& task, const chunk_sizes& sizes, heed::detail::arena& memory)
      : chunk_state(p, {p.before, p.after}, task, sizes, memory) {}
  chunk_state(const recurrence<T>& p, const state_ends<T>& ends, const chunk_task& task, const chunk_sizes& sizes,
              heed::detail::arena& memory)
      : p_(p),
        ends_(ends),
        task_(task),
        stride_(odd_lines<T>(sizes.columns)),
        s_(memory.take<T>(p.features * stride_)),
        z_(memory.take<T>(p.normalize ? tile::whole_vectors<T>(p.features) : 0)),
        factor_(memory.take<T>(tile::max_lanes<T>)) {}

  // Begins with the task's columns of head number `state` of where it comes from.
  void begin(index_t state) {
    const auto& [s, z] = ends_.from;
    const bool has_s = s.data() != nullptr, has_z = p_.normalize && z.data() != nullptr;
    state_ = state, empty_ = !has_s && !has_z;
    const index_t number = task_.sequence.number, columns = task_.columns, whole = tile::whole_vectors<T>(columns);
    if (!has_s && has_z) std::fill(s_, s_ + p_.features * stride_, T(0));
    for (index_t f = 0; f < (has_s ? p_.features : 0); ++f) {
      const T* const from = &s(number, state, f, task_.column);
      std::copy(from, from + columns, s_ + f * stride_);
      std::fill(s_ + f * stride_ + columns, s_ + f * stride_ + whole, T(0));
    }
    for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) z_[f] = has_z ? z(number, state, f) : T(0);
  }

  // Writes the state to where it goes.
  void end() {
    const auto& [s, z] = ends_.to;
    const bool to_z = p_.normalize && task_.column == 0 && z.data() != nullptr;
    if (empty_) std::fill(s_, s_ + p_.features * stride_, T(0));
    for (index_t f = 0; f < (s.data() != nullptr ? p_.features : 0); ++f) {
      const T* const from = s_ + f * stride_;
      std::copy(from, from + task_.columns, &s(task_.sequence.number, state_, f, task_.column));
    }
    for (index_t f = 0; f < (to_z ? p_.features : 0); ++f) z(task_.sequence.number, state_, f) = z_[f];
  }

  bool empty() const { return empty_; }  // all 0, and neither s() nor z() has taken a token
  const T* s() const { return s_; }      // [feature][column]
  index_t stride() const { return stride_; }
  const T* z() const { return z_; }

  // Takes a chunk of tokens into the state. x.values: rows of whole vectors; decayed: by other tokens of this chunk
  void update(const chunk_tokens<T>& x, const chunk_features<T>& features, const chunk_decay<T>& decay,
              tile::prefetch_queue<T>& prefetch, bool decayed = false) {
    const index_t n = x.keys.rows, first = decay.first_kept(), all = tile::whole_vectors<T>(task_.columns) / w;
    const T left = empty_ ? T(0) : decayed ? T(1) : decay.block_decay();
    const auto accumulate = heed::detail::equals(left, T(0))   ? tile::accumulate::zero
                            : heed::detail::equals(left, T(1)) ? tile::accumulate::keep
                                                               : tile::accumulate::scale;
    std::fill(factor_, factor_ + tile::max_lanes<T>, left);
    features.each_block([&](const feature_block& block) {
      const tile::lane_block<const T> k = features.of_keys(x.keys, decay, block);
      for (index_t groups = (all + tile::max_vectors - 1) / tile::max_vectors, from = 0; groups > 0; --groups) {
        const index_t vectors = (all - from + groups - 1) / groups;
        const tile::lane_block<T> s{s_ + block.first * stride_ + from * w, stride_, block.count, vectors * w};
        const tile::lane_block<const T> v = x.values.part(first, n - first, from * w, s.lanes);
        auto product = tile::product_of<T>(k.row(first), 1, k.stride, v, s);
        product.accumulate = accumulate, product.factor = factor_;
        prefetch.multiply(product, vectors);
        from += vectors;
      }
      if (p_.normalize) add_rows(k.part(0, n, 0, block.count), x.z_weight, z_ + block.first);
    });
    empty_ = false;
  }

  // Lets the state decay where no token updates it.
  void scale(T left) {
    if (empty_ || heed::detail::equals(left, T(1))) return;
    for (index_t i = 0; i < p_.features * stride_; ++i) s_[i] = left > T(0) ? left * s_[i] : T(0);
  }

  // Takes the keys into z alone, where nobody reads s.
  void update_z(const chunk_tokens<T>& x, const chunk_features<T>& features, const chunk_decay<T>& decay) {
    empty_ = false;
    features.each_block([&](const feature_block& block) {
      add_rows(features.of_keys(x.keys, decay, block).part(0, x.keys.rows, 0, block.count), x.z_weight,
               z_ + block.first);
    });
  }

 private:
  // Adds the rows to the sums, each times its weight; null: 1.
  static void add_rows(const tile::lane_block<const T>& x, const T* weight, T* sums) {
    for (index_t c = 0; c < x.lanes; c += w) {
      const index_t there = std::min(w, x.lanes - c);
      simd::batch<T> sum(T(0));
      for (index_t j = 0; j < x.rows; ++j) {
        const simd::batch<T> row = there == w ? simd::load(x.row(j) + c) : simd::load_partial(x.row(j) + c, there);
        sum = weight == nullptr ? sum + row : simd::fma(simd::batch<T>(weight[j]), row, sum);
      }
      simd::store_partial(sums + c, simd::load_partial(sums + c, there) + sum, there);
    }
  }

  const recurrence<T>& p_;
  state_ends<T> ends_;
  const chunk_task& task_;
  index_t stride_;
  T *s_, *z_, *factor_;
  index_t state_ = 0;
  bool empty_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
