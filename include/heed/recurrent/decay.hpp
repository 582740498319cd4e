// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How much of a token is left in a memory that fades, inside one chunk of tokens 0 .. n - 1. With lambda_t the factor
// of token t and W(i, j) = product of lambda_t for j < t <= i (W(j, j) = 1):
//
//   apply()   weighs pair (key j, lane i) by W(i, j), exactly 0 where j > i, whatever the score
//   read()    W(i, -1): what lane i reads of the state before the chunk
//   write()   W(n - 1, j): what token j leaves in the state after the chunk
//   total()   W(n - 1, -1)
//
// A constant lambda: a table of its powers, which a Toeplitz matrix reads at i - j. Log-gates g_t: W = exp(G_i - G_j)
// with G their running sum, the difference before the exponential; G is kept in two parts, so that the difference of
// two large sums is exact. A gate of -inf cuts: G starts again from 0 there, and pairs across are hidden.
//
// Only products of factors are formed, never a quotient. Everything below 2^-126.5 (2^-1022.5) is 0.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "heed/core/context.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// decay: s(key j, lane i) *= power[first + i - j], the weight of a key i - j tokens back; power may be read from
// first - (keys - 1) to first + lanes - 1 and is 0 where a lane does not see the key
template <class T>
HEED_NOINLINE void decay(T* scores, index_t row, index_t keys, index_t lanes, const T* power, index_t first) {
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < lanes; l += simd::width<T>) {
      T* s = scores + j * row + l;
      simd::store(s, simd::load(s) * simd::load(power + first + l - j));
    }
}

// scores(key j, lane i) *= 2^(G_i - G_j), G = high + low. high and low: of lane 0; key 0 sits at lane `first`, <= 0
template <class T>
HEED_NOINLINE void fade_by_sums(T* scores, index_t row, index_t keys, index_t lanes, const T* high, const T* low,
                                index_t first) {
  using batch = simd::batch<T>;
  for (index_t j = 0; j < keys; ++j) {
    const batch key_high(high[first + j]), key_low(low[first + j]);
    for (index_t l = 0; l < lanes; l += simd::width<T>) {
      T* const s = scores + j * row + l;
      const batch sum = simd::rounded(simd::load(high + l) - key_high) + (simd::load(low + l) - key_low);
      simd::store(s, simd::load(s) * simd::exp2(sum));
    }
  }
}

// scores(key j, lane i) = 0 where i < j or i >= end[j] (end null: no such bound), whatever is there; keys from `key`
// on, lanes from `lane` on
template <class T>
HEED_NOINLINE void hide_unseen(T* scores, index_t row, index_t key, index_t keys, index_t lane, index_t lanes,
                               const T* end) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  alignas(64) T numbers[std::size_t{w}];
  for (index_t i = 0; i < w; ++i) numbers[i] = static_cast<T>(lane + i);
  const batch zero(T(0));
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < lanes; l += w) {
      T* const s = scores + j * row + l;
      const batch i = simd::load(numbers) + batch(static_cast<T>(l));
      batch x = simd::select<T>(i >= batch(static_cast<T>(key + j)), simd::load(s), zero);
      if (end != nullptr) x = simd::select<T>(i < batch(end[key + j]), x, zero);
      simd::store(s, x);
    }
}

template <class T> class fade {
 public:
  static constexpr index_t w = simd::width<T>;

  // For chunks of up to `chunk` tokens
  fade(const recurrence<T>& p, index_t chunk, heed::detail::arena& memory)
      : p_(p), padded_(tile::whole_vectors<T>(chunk) + tile::max_lanes<T>) {
    if (p.decay == nullptr) return;
    end_ = memory.take<T>(padded_), write_ = memory.take<T>(padded_);
    if (p.decay->gated)
      high_ = memory.take<T>(padded_), low_ = memory.take<T>(padded_), read_ = memory.take<T>(padded_);
    else if (T* const table = memory.take<T>(2 * padded_ + 1); table != nullptr)  // null: sizes are counted
      powers_ = table + padded_;
  }

  // The chunks that follow are of this state.
  void begin_state(const track& t, index_t state) {
    track_ = t, state_ = state;
    fades_ = p_.decay != nullptr;
    cuts_ = false, total_ = T(1), first_written_ = 0;
    if (!fades_ || p_.decay->gated) return;
    const double lambda = std::exp(-p_.decay->slopes.at(state));
    fades_ = lambda < 1;
    if (!fades_) return;
    std::fill(powers_ - padded_, powers_, T(0));
    reach_ = padded_ + 1;
    double power = 1;
    for (index_t i = 0; i <= padded_; ++i, power *= lambda) {
      powers_[i] = power < static_cast<double>(std::numeric_limits<T>::min()) ? T(0) : static_cast<T>(power);
      if (heed::detail::equals(powers_[i], T(0)) && i < reach_) reach_ = i;
    }
    for (index_t j = 0; j < padded_; ++j) end_[j] = static_cast<T>(j + reach_);
  }

  // The chunk of n tokens from token j on
  void begin_chunk(index_t j, index_t n) {
    if (!fades_) return;
    if (p_.decay->gated) {
      sum_gates(j, n);
    } else {
      for (index_t i = 0; i < n; ++i) write_[i] = powers_[n - 1 - i];
      total_ = powers_[n], cuts_ = reach_ <= n;
    }
    for (first_written_ = 0; heed::detail::equals(write_[first_written_], T(0));) ++first_written_;  // the last is 1
  }

  bool fades() const { return fades_; }
  const T* read(index_t lane) const { return p_.decay->gated ? read_ + lane : powers_ + 1 + lane; }
  const T* write() const { return write_; }
  index_t first_written() const { return first_written_; }  // no token before it leaves anything
  T total() const { return total_; }
  bool cuts() const { return cuts_; }  // some weight that is 0 hides what it weighs

  bool sees(index_t lane, index_t key) const { return lane >= key && (!cuts_ || static_cast<T>(lane) < end_[key]); }

  // scores: of keys [key, key + keys) and lanes [lane, lane + lanes) of the chunk
  void apply(T* scores, index_t row, index_t key, index_t keys, index_t lane, index_t lanes) const {
    if (fades_ && p_.decay->gated)
      fade_by_sums(scores, row, keys, lanes, high_ + lane, low_ + lane, key - lane);
    else if (fades_)
      decay(scores, row, keys, lanes, powers_, lane - key);
    const index_t before = (key + keys - 1 - lane + w - 1) / w * w;  // lanes that are before some key
    if (cuts_)
      hide_unseen(scores, row, key, keys, lane, lanes, end_);
    else if (before > 0)
      hide_unseen(scores, row, key, keys, lane, std::min(lanes, before), static_cast<const T*>(nullptr));
  }

 private:
  static constexpr double lowest = std::is_same_v<T, double> ? -1022.5 : -126.5;  // 2^less is 0

  void sum_gates(index_t first, index_t n) {
    const T* const gate = p_.gate(track_, state_, first);
    const index_t step = p_.decay->log_gates.stride(2), whole = tile::whole_vectors<T>(n);
    double sum = 0, error = 0;
    index_t open = 0, first_cut = n;  // open: the first token since the last cut
    for (index_t i = 0; i < n; ++i) {
      const double g = simd::rounded(static_cast<double>(gate[i * step]) * std::numbers::log2e);
      if (g < lowest) {
        std::fill(end_ + open, end_ + i, static_cast<T>(i));
        first_cut = std::min(first_cut, i);
        open = i, sum = error = 0;
      } else if constexpr (std::is_same_v<T, double>) {
        const double next = simd::rounded(sum + g), back = simd::rounded(next - sum);
        error += simd::rounded(sum - simd::rounded(next - back)) + (g - back) + std::fma(gate[i * step], std::numbers::log2e, -g);
        sum = next;
      } else {
        sum += g;
      }
      const T high = simd::rounded(static_cast<T>(sum));
      high_[i] = high;
      low_[i] = std::is_same_v<T, double> ? static_cast<T>(error) : static_cast<T>(sum - static_cast<double>(high));
    }
    std::fill(end_ + open, end_ + n, static_cast<T>(n));
    std::fill(high_ + n, high_ + whole, T(0)), std::fill(low_ + n, low_ + whole, T(0));
    const simd::batch<T> last_high(high_[n - 1]), last_low(low_[n - 1]);
    for (index_t i = 0; i < whole; i += w) {
      const simd::batch<T> high = simd::load(high_ + i), low = simd::load(low_ + i);
      simd::store(read_ + i, simd::exp2(high + low));
      simd::store(write_ + i, simd::exp2(simd::rounded(last_high - high) + (last_low - low)));
    }
    std::fill(read_ + first_cut, read_ + n, T(0));
    std::fill(write_, write_ + open, T(0));
    cuts_ = first_cut < n;
    total_ = read_[n - 1];
    write_[n - 1] = T(1);
  }

  const recurrence<T>& p_;
  index_t padded_, state_ = 0, reach_ = 0, first_written_ = 0;
  track track_ = {};
  T *end_ = nullptr, *write_ = nullptr, *high_ = nullptr, *low_ = nullptr, *read_ = nullptr, *powers_ = nullptr;
  T total_ = T(1);
  bool fades_ = false, cuts_ = false;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
