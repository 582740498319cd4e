// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Gradients of log-gates. That of gate t sums m_ij = scale W(i, j) (q_i.k_j) (dout_i.v_j) over the pairs j < t <= i, on
// both sides of it. For a chunk of tokens 0 .. n - 1 these are
//
//   pairs inside          sum_{i >= t} (row sum of m)_i - sum_{j >= t} (column sum of m)_j
//   queries inside        sum_{i >= t} a_i     a_i = scale W(i, -1) q_i^T S dout_i, by the forward sweep
//   keys inside           sum_{j < t} b_j      b_j = W(n-1, j) k_j^T R v_j
//   neither inside        x = y - sum_j b_j, with y what crosses the end of the chunk
//
// and x + sum_i a_i crosses its beginning. What crosses the last token is <gradient of the final state, final state>.
// Sums over tokens are in double. The errors of m cancel, those of a and b add up from chunk to chunk. So every few
// chunks y is <R, S> instead, S a saved state (sweep_terms.hpp). Where the chunk's decay is below the rounding of T, x
// is 0.

#include <algorithm>
#include <limits>

#include "heed/core/context.hpp"
#include "heed/recurrent/backward_problem.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/pair_sums.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

template <class T> class gate_gradients {
 public:
  static constexpr index_t w = simd::width<T>;

  gate_gradients(const backward_problem<T>& x, index_t chunk, heed::detail::arena& memory)
      : x_(x), padded_(tile::whole_vectors<T>(chunk) + tile::max_lanes<T>) {
    if (!x.wants_gates()) return;
    keys_ = memory.take<T>(padded_), rows_ = memory.take<double>(padded_), lanes_ = memory.take<double>(padded_);
  }

  bool wanted() const { return x_.wants_gates(); }

  // Begins with what crosses the last token of a sequence: queries [i, i + count) read the final state. term: of the
  // final state
  void begin(const sequence& s, index_t state, double term, index_t i, index_t count) {
    sequence_ = s, state_ = state, crossing_ = term;
    for (index_t t = i; t < i + count; ++t) {
      T& query = gradient(t);
      crossing_ += static_cast<double>(query), query = T(0);
    }
  }

  // Takes <R, S> for what crosses the end of the next chunk.
  void cross(double sum) { crossing_ = sum; }

  void begin_chunk() { std::fill(rows_, rows_ + padded_, 0.0), std::fill(lanes_, lanes_ + padded_, 0.0); }

  // Sets b of `count` lanes from lane `at` on of the chunk in reverse; dots: k.(R v)
  void set_keys(const chunk_decay<T>& decay, index_t at, index_t count, const T* dots) {
    for (index_t l = 0; l < count; ++l) {
      const T left = decay.decays() ? decay.q_decay(at)[l] : T(1);
      keys_[at + l] = left > T(0) ? left * dots[l] : T(0);
    }
  }

  // Adds the products a b of a block from (row, lane) on of the chunk in reverse; a pair of a token with itself has no
  // gate.
  HEED_NOINLINE void add_pairs(const tile::lane_block<T>& a, const tile::lane_block<T>& b, index_t row, index_t lane) {
    constexpr index_t half = simd::width<double>;
    const simd::batch<T> zero(T(0));
    for (index_t r = 0; r < a.rows; ++r) {
      simd::batch<double> sum(0.0);
      for (index_t l = 0; l < a.lanes; l += w) {
        const simd::batch<T> product = simd::load(a.row(r) + l) * simd::load(b.row(r) + l);
        alignas(64) tile::lane_array<T, w> m;
        simd::store(m.data(), simd::select<T>(lanes_after<T>(row + r, lane + l) > zero, product, zero));
        double* const lanes = lanes_ + lane + l;
        for (index_t i = 0; i < w; i += half) {
          const simd::batch<double> each = simd::load_double(m.data() + i);
          simd::store(lanes + i, simd::load(lanes + i) + each);
          sum += each;
        }
      }
      rows_[row + r] += sum_of(sum);
    }
  }

  // Writes the gradients of the gates of tokens [j, j + n), where the forward sweep has left a.
  void write(const chunk_decay<T>& decay, index_t j, index_t n) {
    constexpr double rounding = std::numeric_limits<T>::epsilon() / T(4);
    double before = 0, after = 0, inside = 0;  // sums of b of the tokens before t, of a from t on, of pairs
    for (index_t l = 0; l < n; ++l) before += static_cast<double>(keys_[l]);
    crossing_ = static_cast<double>(decay.block_decay()) < rounding ? 0 : crossing_ - before;
    for (index_t t = n - 1; t >= 0; --t) {
      const index_t r = n - 1 - t;
      T& g = gradient(j + t);
      after += static_cast<double>(g), before -= static_cast<double>(keys_[r]);
      inside += rows_[r] - lanes_[r];
      if (decay.resets(*x_.p.gate(sequence_, state_, j + t))) inside = 0, before = 0;
      g = static_cast<T>(crossing_ + after + before + inside);
    }
    crossing_ += after;
  }

 private:
  static double sum_of(simd::batch<double> x) {
    alignas(64) tile::lane_array<double, simd::width<double>> lanes;
    simd::store(lanes.data(), x);
    double sum = 0;
    for (const double each : lanes) sum += each;
    return sum;
  }
  T& gradient(index_t t) const { return x_.dlog_gates(sequence_.batch, state_, sequence_.first_key + t); }

  const backward_problem<T>& x_;
  index_t padded_;
  T* keys_ = nullptr;  // b of the chunk in reverse, as are the sums of rows and of lanes
  double *rows_ = nullptr, *lanes_ = nullptr;
  sequence sequence_ = {};
  index_t state_ = 0;
  double crossing_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
