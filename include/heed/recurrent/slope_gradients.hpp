// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The gradient of a head's slope s, lambda = e^-s. With g = log lambda, dS/dg is one more state, as exact as S:
//
//   S'_t = lambda (S'_{t-1} + S_{t-1})
//   ds = -dL/dg = -scale sum_t q_t^T S'_t dout_t - <gradient of the final state, final S'>
//
// The sum of the gradients of gates would do as well, but it is a difference of sums that grow with the sequence. A
// chunk of tokens 0 .. n - 1 with S and S' before it, W as in decay.hpp:
//
//   q_i^T S'_i dout_i = W(i, -1) q_i^T (S' + (i + 1) S) dout_i + sum_{j <= i} (i - j) W(i, j) (q_i.k_j) (dout_i.v_j)
//   S' <- W(n-1, -1) (S' + n S) + sum_j (n - 1 - j) W(n-1, j) k_j v_j^T

#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/recurrent/pair_sums.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// The sum of a_i b_i over all elements, one after the other in double
template <class T> double dot_in_double(const T* a, const T* b, index_t count) {
  double sum = 0;
  for (index_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// Adds the sums over rows of a b to the lanes.
template <class T>
HEED_NOINLINE void add_lane_dots(const tile::lane_block<const T>& a, const tile::lane_block<const T>& b, T* sums) {
  for (index_t l = 0; l < a.lanes; l += simd::width<T>) {
    simd::batch<T> sum(T(0));
    for (index_t i = 0; i < a.rows; ++i) sum = simd::fma(simd::load(a.row(i) + l), simd::load(b.row(i) + l), sum);
    simd::store(sums + l, simd::load(sums + l) + sum);
  }
}

template <class T> class slope_gradients {
 public:
  static constexpr index_t w = simd::width<T>, max_lanes = tile::max_lanes<T>;

  slope_gradients(const backward_problem<T>& x, const chunk_sizes& sizes, heed::detail::arena& memory)
      : x_(x), stride_(odd_lines<T>(x.p.e)) {
    if (!x.wants_slopes()) return;
    s_ = memory.take<T>(x.p.d * stride_);
    product_ = {memory.take<T>(x.p.d * max_lanes), 0, x.p.d, 0};
    keys_ = memory.take<T>(sizes.chunk * odd_lines<T>(x.p.d));
    state_part_ = memory.take<T>(max_lanes), change_part_ = memory.take<T>(max_lanes);
    pairs_ = memory.take<T>(max_lanes);
  }

  void begin() { std::fill(s_, s_ + x_.p.d * stride_, T(0)), sum_ = 0, empty_ = true; }

  // Begins a tile of queries: fq, dout [.][lane], and what the state before the chunk gives, S dout.
  void begin_tile(const tile::lane_block<T>& q, const tile::lane_block<T>& dout, const tile::lane_block<T>& state_sums,
                  bool empty_state) {
    for (T* const part : {state_part_, change_part_, pairs_}) std::fill(part, part + max_lanes, T(0));
    if (!empty_state) add_lane_dots<T>(q, state_sums, state_part_);
    if (empty_) return;
    product_.stride = product_.lanes = q.lanes;
    tile::multiply(tile::product_of<T>(s_, stride_, 1, dout, product_), q.lanes / w);
    add_lane_dots<T>(q, product_, change_part_);
  }

  // Adds a block of pairs: scores q.k and dout.v, neither decayed. scores is overwritten.
  void add_pairs(const chunk_decay<T>& decay, const lane_range& range, const pair_block& block,
                 const tile::lane_block<T>& scores, const tile::lane_block<T>& dout_v) {
    const index_t count = scores.lanes - block.lane;
    const tile::lane_block<T> s = scores.part(0, block.rows, block.lane, count);
    const tile::lane_block<T> d = dout_v.part(0, block.rows, block.lane, count);
    const simd::batch<T> zero(T(0));
    for (index_t r = 0; r < s.rows; ++r)
      for (index_t l = 0; l < count; l += w) {
        const simd::batch<T> apart = lanes_after<T>(block.row + r, range.at + block.lane + l);
        const simd::batch<T> m = simd::load(s.row(r) + l) * simd::load(d.row(r) + l) * apart;
        simd::store(s.row(r) + l, simd::select<T>(apart > zero, m, zero));
      }
    decay.apply_diag_decay(s, block.row, range.at + block.lane);
    add_down(s, pairs_ + block.lane);
  }

  // Ends a tile; at < 0: its queries have no tokens of their own.
  void end_tile(const chunk_decay<T>& decay, const lane_range& range) {
    for (index_t l = 0; l < range.count; ++l) {
      const bool tokens = range.at >= 0;
      const T left = tokens && decay.decays() ? decay.q_decay(range.at)[l] : T(1);
      double sum = static_cast<double>(pairs_[l]);
      if (left > T(0))
        sum += static_cast<double>(left) *
               (static_cast<double>(change_part_[l]) +
                (tokens ? static_cast<double>(range.at + l + 1) * static_cast<double>(state_part_[l]) : 0));
      sum_ += x_.p.scale * sum;
    }
  }

  // Takes a chunk of tokens into S', before the state takes them.
  void update(const chunk_tokens<T>& x, const chunk_state<T>& state, const chunk_decay<T>& decay) {
    const index_t n = x.keys.rows, first = decay.first_kept(), e = tile::whole_vectors<T>(x_.p.e);
    const index_t behind = n - 1 - first;  // tokens that leave something: the last has not decayed yet
    const index_t stride = odd_lines<T>(x_.p.d);
    const simd::batch<T> left(decay.block_decay()), tokens(static_cast<T>(n));
    for (index_t f = 0; f < x_.p.d; ++f)
      for (index_t c = 0; c < e; c += w) {
        T* const s = s_ + f * stride_ + c;
        simd::batch<T> sum = simd::load(s);
        if (!state.empty()) sum = simd::fma(tokens, simd::load(state.s() + f * state.stride() + c), sum);
        simd::store(s, heed::detail::equals(decay.block_decay(), T(0)) ? simd::batch<T>(T(0)) : left * sum);
      }
    for (index_t j = first; j < n - 1; ++j)
      scale_values(x.keys.row(j), x_.p.d, static_cast<T>(n - 1 - j) * (decay.decays() ? decay.k_decay()[j] : T(1)),
                   keys_ + j * stride);
    for (index_t c = 0; c < e; c += max_lanes) {
      const index_t lanes = std::min(max_lanes, e - c);
      auto product = tile::product_of<T>(keys_ + first * stride, 1, stride, x.values.part(first, behind, c, lanes),
                                         {s_ + c, stride_, x_.p.d, lanes});
      product.accumulate = tile::accumulate::keep;
      tile::multiply(product, lanes / w);
    }
    empty_ = false;
  }

  // Returns dL/dg of a sequence. after: of the gradient of the final state, or null
  double end(const sequence& s, index_t state) const {
    double sum = sum_;
    for (index_t f = 0; f < (x_.dafter.s.data() != nullptr && !empty_ ? x_.p.d : 0); ++f)
      sum += dot_in_double(s_ + f * stride_, &x_.dafter.s(s.number, state, f, 0), x_.p.e);
    return sum;
  }

 private:
  const backward_problem<T>& x_;
  index_t stride_;
  T *s_ = nullptr, *keys_ = nullptr, *state_part_ = nullptr, *change_part_ = nullptr, *pairs_ = nullptr;
  tile::lane_block<T> product_;
  double sum_ = 0;
  bool empty_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
