// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The online softmax. What is known of a row after some of its keys is its state (m, l, o):
//
//   init     m = lowest,  l = 0,  o = 0;  with a sink: m = sink, l = 1
//   update   m' = max(m, max_j s_j);  p_j = 2^(s_j - m')
//            l' = 2^(m - m') l + sum_j p_j;  o' = 2^(m - m') o + sum_j p_j v_j
//   merge    m = max(m1, m2);  l = 2^(m1 - m) l1 + 2^(m2 - m) l2;  o = 2^(m1 - m) o1 + 2^(m2 - m) o2
//   finish   o / l;  lse = ln 2 m + ln l
//
// Scores are in units of log 2. m starts as the lowest finite number, not -inf: then (-inf) - m' is -inf and never NaN,
// and keys that are all hidden leave l = 0. NaN scores reach l: a maximum may drop them, 2^(NaN - m') does not.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "heed/simd/math.hpp"
#include "heed/simd/transpose.hpp"
#include "heed/tile/lanes.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// m and l of one row; o is where the engine has its sums.
template <class T> struct row_state {
  T m = std::numeric_limits<T>::lowest(), l = T(0);

  // Joins the state of the same row over other keys. exp: 2^x for states as above, e^x where m is a natural logarithm.
  // Returns what each o is to be multiplied with, this one's first.
  template <class Exp> std::pair<T, T> merge(const row_state& x, Exp exp) {
    const T top = x.m > m || std::isnan(x.m) ? x.m : m;
    const std::pair<T, T> factors{exp(m - top), exp(x.m - top)};
    m = top, l = factors.first * l + factors.second * x.l;
    return factors;
  }

  // The natural lse; -inf where no key was seen
  T lse() const {
    if (heed::detail::equals(l, T(0))) return -std::numeric_limits<T>::infinity();
    return static_cast<T>(static_cast<double>(m) * std::numbers::ln2 + std::log(static_cast<double>(l)));
  }

  // Returns what o is to be multiplied with: gate / l. A gate that would lose digits so, or turn 0 into NaN, waits:
  // scale(1 / l) is done to o before. A row without a key, still as it was `init`ed and with o all_zero(), is 0 under
  // any gate.
  template <class Scale, class AllZero>
  HEED_INLINE T finish(T gate, const row_state& init, Scale scale, AllZero all_zero) const {
    if (heed::detail::equals(l, T(0))) return T(0);
    const T inv_l = T(1) / l;
    if (std::abs(gate) >= T(1e-30) && std::abs(gate) <= std::numeric_limits<T>::max()) [[likely]]
      return gate * inv_l;
    if (heed::detail::equals(m, init.m) && heed::detail::equals(l, init.l) && all_zero()) return T(0);
    scale(inv_l);
    return gate;
  }
};

// row_max = max(m, s) per lane over the keys. multiply does this on the way where nothing changes the scores after it.
template <int NR, class T> HEED_NOINLINE void raise_max(const lane_block<const T>& s, const T* m, T* row_max) {
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    constexpr index_t w = simd::width<T>;
    std::array<simd::batch<T>, std::size_t{NR}> most{simd::load(m + N * w)...};
    const T* scores = s.data;
    for (index_t keys = s.rows; keys > 0; --keys, scores += s.stride)
      ((most[N] = simd::max(most[N], simd::load(scores + N * w))), ...);
    (simd::store(row_max + N * w, most[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}
template <class T> void raise_max(const lane_block<const T>& scores, const T* m, T* row_max) {
  for (index_t l = 0; l < scores.lanes; l += max_lanes<T>) {
    const lane_block<const T> part = scores.part(0, scores.rows, l, std::min(max_lanes<T>, scores.lanes - l));
    with_vectors(part.lanes / simd::width<T>, [&](auto n) { raise_max<n>(part, m + l, row_max + l); });
  }
}

// The states of the rows in a tile's lanes
template <class T> struct lane_states {
  using batch = simd::batch<T>;
  static constexpr index_t w = simd::width<T>;
  T *m, *l;

  HEED_INLINE void init(index_t lanes) const {
    std::fill(m, m + lanes, row_state<T>{}.m), std::fill(l, l + lanes, row_state<T>{}.l);
  }
  HEED_INLINE void set(index_t lane, const row_state<T>& x) const { m[lane] = x.m, l[lane] = x.l; }
  HEED_INLINE row_state<T> at(index_t lane) const { return {m[lane], l[lane]}; }

  // Updates the lanes from `lane` on, one row each, with row_max = max(m, max s) in `factor`; leaves the weights
  // p in place of the scores, and 2^(m - m') in `factor`.
  void update(const lane_block<T>& scores, index_t lane, T* factor) const {
    with_vectors(scores.lanes / w, [&](auto n) { update<n>(scores, m + lane, l + lane, factor + lane); });
  }
  template <int NR> HEED_NOINLINE static void update(const lane_block<T>& scores, T* m, T* l, T* factor) {
    [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
      const std::array<batch, std::size_t{NR}> most{simd::load(factor + N * w)...};
      std::array<batch, std::size_t{NR}> sum;
      ((sum[N] = batch(T(0))), ...);
      T* p = scores.data;
      const index_t stride = scores.stride;
      for (index_t keys = scores.rows; keys > 0; --keys, p += stride) {
        std::array<batch, std::size_t{NR}> x{simd::exp2_nonpositive(simd::load(p + N * w) - most[N])...};
        ((sum[N] += x[N]), ...);
        (simd::store(p + N * w, x[N]), ...);
      }
      std::array<batch, std::size_t{NR}> f{simd::exp2_nonpositive(simd::load(m + N * w) - most[N])...};
      (simd::store(l + N * w, simd::fma(f[N], simd::load(l + N * w), sum[N])), ...);
      (simd::store(factor + N * w, f[N]), ...);
      (simd::store(m + N * w, most[N]), ...);
    }
    (std::make_integer_sequence<int, NR>{});
  }

  // Updates R rows whose scores are [key][row], end to end: lane i of a vector is row i % R. The lanes of a row share
  // its m and each keep a part of its l, until the end. Returns 2^(m - m').
  template <index_t R> HEED_INLINE batch update_rows(T* scores, index_t vectors, index_t lane) const {
    const batch before = simd::load(m + lane);
    batch most = before, sum(T(0));
    for (index_t i = 0; i < vectors; ++i) most = simd::max(most, simd::load(scores + i * w));
    most = simd::fold<R, T>(most, [](batch a, batch b) { return simd::max(a, b); });
    for (index_t i = 0; i < vectors; ++i) {
      const batch p = simd::exp2_nonpositive(simd::load(scores + i * w) - most);
      sum += p;
      simd::store(scores + i * w, p);
    }
    const batch factor = simd::exp2_nonpositive(before - most);
    simd::store(l + lane, simd::fma(factor, simd::load(l + lane), sum));
    simd::store(m + lane, most);
    return factor;
  }

  // inv_l = 1 / l per lane, 0 where l is 0
  HEED_NOINLINE void reciprocals(index_t lanes, T* inv_l) const {
    const batch zero(T(0)), one(T(1));
    for (index_t lane = 0; lane < lanes; lane += w) {
      const batch x = simd::load(l + lane);
      simd::store(inv_l + lane, simd::select<T>(x == zero, zero, simd::divide<T>(one, x)));
    }
  }
};

}  // namespace HEED_ISA
}  // namespace heed::tile
