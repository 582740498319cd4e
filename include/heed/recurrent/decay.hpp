// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Decay of the state inside one chunk of tokens 0 .. n - 1. With lambda_t the factor of token t and
// W(i, j) = product of lambda_t for j < t <= i (W(j, j) = 1):
//
//   q_decay()             W(i, -1): the share of the state before the chunk that query i reads
//   k_decay()             W(n - 1, j): the share of token j in the state after the chunk
//   block_decay()         W(n - 1, -1)
//   apply_diag_decay()    scores of (key j, query i) *= W(i, j), exactly 0 where j > i, whatever the score
//
// A constant lambda has a table of its powers, read at i - j. Log-gates g_t have W = exp(G_i - G_j) with G their
// running sum. The difference comes before the exponential, and G is kept in two parts, so that the difference of two
// large sums is exact. A gate of -inf is a reset: G starts again from 0 there, and pairs across it are hidden.
//
// Only products of factors are formed, never a quotient. Everything below 2^-126.5 (2^-1022.5 for double) is 0.
//
// Backward goes through the tokens from the last to the first, and a chunk looks the same in reverse: row r is query
// n - 1 - r, lane l is key n - 1 - l, and a lane sees the rows up to its own. Then k_decay is by row W(i, -1), the
// share of query i in the gradient of the state before the chunk; q_decay is by lane W(n - 1, j), the share of key j
// in the state after it.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/simd/math.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// Multiplies the score of (key j, lane i) by power[i - j]. power: of lane 0 and key 0, readable from 1 - s.rows to
// s.lanes - 1; 0 where a lane does not see the key.
template <class T> HEED_NOINLINE void decay_by_powers(tile::lane_block<T> s, const T* power) {
  for (index_t j = 0; j < s.rows; ++j)
    for (index_t l = 0; l < s.lanes; l += simd::width<T>) {
      T* const x = s.row(j) + l;
      simd::store(x, simd::load(x) * simd::load(power + l - j));
    }
}

// Multiplies the score of (key j, lane i) by 2^(G_i - G_j), G = high + low. high and low: of lane 0; key 0 sits at lane
// first_key, which is at most 0.
template <class T>
HEED_NOINLINE void decay_by_sums(tile::lane_block<T> s, const T* high, const T* low, index_t first_key) {
  using batch = simd::batch<T>;
  for (index_t j = 0; j < s.rows; ++j) {
    const batch key_high(high[first_key + j]), key_low(low[first_key + j]);
    for (index_t l = 0; l < s.lanes; l += simd::width<T>) {
      T* const x = s.row(j) + l;
      const batch sum = simd::rounded(simd::load(high + l) - key_high) + (simd::load(low + l) - key_low);
      simd::store(x, simd::load(x) * simd::exp2(sum));
    }
  }
}

// Sets the score of (key j, lane i) to 0 where i < j or i >= end[j] (end null: no such bound), whatever it was. The
// block begins with token `key` and with lane `lane` of the chunk; end: of token 0.
template <class T> HEED_NOINLINE void hide_unseen(tile::lane_block<T> s, index_t key, index_t lane, const T* end) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  alignas(64) tile::lane_array<T, w> numbers;
  for (index_t i = 0; i < w; ++i) numbers[i] = static_cast<T>(lane + i);
  const batch zero(T(0));
  for (index_t j = 0; j < s.rows; ++j)
    for (index_t l = 0; l < s.lanes; l += w) {
      const batch i = simd::load(numbers.data()) + batch(static_cast<T>(l));
      batch x = simd::select<T>(i >= batch(static_cast<T>(key + j)), simd::load(s.row(j) + l), zero);
      if (end != nullptr) x = simd::select<T>(i < batch(end[key + j]), x, zero);
      simd::store(s.row(j) + l, x);
    }
}

template <class T> class chunk_decay {
 public:
  static constexpr index_t w = simd::width<T>;

  // Takes scratch for chunks of up to `chunk` tokens.
  chunk_decay(const recurrence<T>& p, index_t chunk, heed::detail::arena& memory)
      : p_(p), padded_(tile::whole_vectors<T>(chunk) + tile::max_lanes<T>) {
    if (p.decay == nullptr) return;
    end_ = memory.take<T>(padded_), k_decay_ = memory.take<T>(padded_);
    if (p.decay->gated)
      high_ = memory.take<T>(padded_), low_ = memory.take<T>(padded_), q_decay_ = memory.take<T>(padded_);
    else if (T* const table = memory.take<T>(2 * padded_ + 1); table != nullptr)  // null: sizes are counted
      powers_ = table + padded_;
  }

  // Begins the chunks of one state.
  void begin_state(const sequence& s, index_t state) {
    sequence_ = s, state_ = state;
    state_decays_ = p_.decay != nullptr;
    begin_undecayed();
    if (!state_decays_ || p_.decay->gated) return;
    const double lambda = std::exp(-p_.decay->slopes.at(state));
    state_decays_ = lambda < 1;
    if (!state_decays_) return;
    std::fill(powers_ - padded_, powers_, T(0));
    reach_ = padded_ + 1;
    double power = 1;
    for (index_t i = 0; i <= padded_; ++i, power *= lambda) {
      powers_[i] = power < static_cast<double>(std::numeric_limits<T>::min()) ? T(0) : static_cast<T>(power);
      if (heed::detail::equals(powers_[i], T(0)) && i < reach_) reach_ = i;
    }
    for (index_t j = 0; j < padded_; ++j) end_[j] = static_cast<T>(j + reach_);
  }

  // Begins the chunk of tokens [first, first + n), n > 0; reversed: in reverse.
  void begin_chunk(index_t first, index_t n, bool reversed = false) {
    decays_ = state_decays_;
    if (!decays_) return;
    if (p_.decay->gated) {
      sum_gates(first, n);
      if (reversed) reverse(n);
    } else {
      const index_t last = reversed ? 1 : 0;  // exponent of the last token
      for (index_t i = 0; i < n; ++i) k_decay_[i] = powers_[n - 1 - i + last];
      block_decay_ = powers_[n], has_reset_ = reach_ <= n, lane_decay_ = powers_ + 1 - last;
    }
    for (first_kept_ = 0; first_kept_ < n && heed::detail::equals(k_decay_[first_kept_], T(0));) ++first_kept_;
  }
  // Begins queries without tokens of their own, which all read the same state.
  void begin_undecayed() { decays_ = has_reset_ = false, block_decay_ = T(1), first_kept_ = 0; }

  bool decays() const { return decays_; }
  const T* q_decay(index_t lane) const { return lane_decay_ + lane; }
  const T* k_decay() const { return k_decay_; }
  T block_decay() const { return block_decay_; }
  index_t first_kept() const { return first_kept_; }  // k_decay is 0 for all tokens before it
  bool has_reset() const { return has_reset_; }       // some W(i, j) with j <= i is 0, and hides the pair

  static bool resets(T gate) { return static_cast<double>(gate) * std::numbers::log2e < lowest; }  // the state

  bool sees(index_t lane, index_t key) const {
    return lane >= key && (!has_reset_ || static_cast<T>(lane) < end_[key]);
  }

  // s: scores of the tokens from `key` on and the lanes from `lane` on
  void apply_diag_decay(tile::lane_block<T> s, index_t key, index_t lane) const {
    if (decays_ && p_.decay->gated)
      decay_by_sums(s, high_ + lane, low_ + lane, key - lane);
    else if (decays_)
      decay_by_powers(s, powers_ + lane - key);
    hide(s, key, lane);
  }
  // Sets the scores of pairs that are not seen to 0, whatever they are.
  void hide(tile::lane_block<T> s, index_t key, index_t lane) const {
    const index_t before = (key + s.rows - 1 - lane + w - 1) / w * w;  // lanes before the last key, in whole vectors
    if (has_reset_)
      hide_unseen(s, key, lane, end_);
    else if (before > 0)
      hide_unseen(s.part(0, s.rows, 0, std::min(s.lanes, before)), key, lane, static_cast<const T*>(nullptr));
  }

 private:
  static constexpr double lowest = std::is_same_v<T, double> ? -1022.5 : -126.5;  // 2^x is 0 for x below it

  // Sums the gates of a chunk from token `first` on, in units of log 2: high_, low_ and end_; then the factors.
  void sum_gates(index_t first, index_t n) {
    const T* const gate = p_.gate(sequence_, state_, first);
    const index_t stride = p_.decay->log_gates.stride(2);
    double sum = 0, error = 0;
    index_t last_reset = 0, first_reset = n;
    for (index_t i = 0; i < n; ++i) {
      const double g = simd::rounded(static_cast<double>(gate[i * stride]) * std::numbers::log2e);
      if (g < lowest) {
        std::fill(end_ + last_reset, end_ + i, static_cast<T>(i));
        first_reset = std::min(first_reset, i);
        last_reset = i, sum = error = 0;
      } else if constexpr (std::is_same_v<T, double>) {
        const double next = simd::rounded(sum + g), back = simd::rounded(next - sum);
        error += simd::rounded(sum - simd::rounded(next - back)) + (g - back) +
                 std::fma(gate[i * stride], std::numbers::log2e, -g);
        sum = next;
      } else {
        sum += g;
      }
      const T high = simd::rounded(static_cast<T>(sum));
      high_[i] = high;
      low_[i] = std::is_same_v<T, double> ? static_cast<T>(error) : static_cast<T>(sum - static_cast<double>(high));
    }
    std::fill(end_ + last_reset, end_ + n, static_cast<T>(n));
    factors_of_sums(n);
    std::fill(q_decay_ + first_reset, q_decay_ + n, T(0));
    std::fill(k_decay_, k_decay_ + last_reset, T(0));
    has_reset_ = first_reset < n, block_decay_ = q_decay_[n - 1], lane_decay_ = q_decay_;
    k_decay_[n - 1] = T(1);
  }
  // Turns the sums of a chunk into those of its reverse: W(i, j) = exp(-G_j - -G_i).
  void reverse(index_t n) {
    for (T* const x : {high_, low_})
      for (index_t i = 0; i < n; ++i) x[i] = -x[i];
    reverse_numbers(high_, n), reverse_numbers(low_, n);
    for (index_t i = 0; i < n; ++i) std::swap(q_decay_[i], k_decay_[i]);
    reverse_numbers(q_decay_, n), reverse_numbers(k_decay_, n);
    for (index_t begin = 0, end = 0; begin < n; begin = end) {  // what no reset cuts
      end = static_cast<index_t>(end_[begin]);
      std::fill(end_ + begin, end_ + end, static_cast<T>(n - begin));
    }
    reverse_numbers(end_, n);
  }
  static void reverse_numbers(T* x, index_t n) {
    for (index_t i = 0; i < n / 2; ++i) std::swap(x[i], x[n - 1 - i]);
  }
  void factors_of_sums(index_t n) {
    const index_t whole = tile::whole_vectors<T>(n);
    std::fill(high_ + n, high_ + whole, T(0)), std::fill(low_ + n, low_ + whole, T(0));
    const simd::batch<T> last_high(high_[n - 1]), last_low(low_[n - 1]);
    for (index_t i = 0; i < whole; i += w) {
      const simd::batch<T> high = simd::load(high_ + i), low = simd::load(low_ + i);
      simd::store(q_decay_ + i, simd::exp2(high + low));
      simd::store(k_decay_ + i, simd::exp2(simd::rounded(last_high - high) + (last_low - low)));
    }
  }

  const recurrence<T>& p_;
  index_t padded_, state_ = 0, reach_ = 0, first_kept_ = 0;  // reach: the first power of lambda that is 0
  sequence sequence_ = {};
  T *end_ = nullptr, *k_decay_ = nullptr, *q_decay_ = nullptr;  // end: the first lane that does not see a token
  T *high_ = nullptr, *low_ = nullptr, *powers_ = nullptr;
  const T* lane_decay_ = nullptr;
  T block_decay_ = T(1);
  bool state_decays_ = false, decays_ = false, has_reset_ = false;  // decays: state_decays, but in begin_undecayed()
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
