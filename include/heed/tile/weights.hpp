// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Weight steps: what turns a tile of scores, keys down and lanes across, into a tile of weights.

#include <cmath>
#include <limits>

#include "heed/simd/math.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {

inline namespace HEED_ISA {

// top = max(m, s) over the given keys. multiply does this on the way where nothing changes the scores after it.
template <int NR, class T> HEED_NOINLINE void raise(const T* scores, index_t row, index_t keys, const T* m, T* top) {
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    constexpr index_t w = simd::width<T>;
    std::array<simd::batch<T>, std::size_t{NR}> most{simd::load(m + N * w)...};
    for (; keys > 0; --keys, scores += row) ((most[N] = simd::max(most[N], simd::load(scores + N * w))), ...);
    (simd::store(top + N * w, most[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}

// online_softmax: scores are in units of log 2. Per lane, over the given keys, with top = max(m, max s) in `factor`:
//   p = 2^(s - top);  factor = 2^(m - top);  l <- factor l + sum p;  m <- top
// m starts as the lowest finite number, not -inf: then (-inf) - top is -inf and never NaN, and a tile whose keys are
// all hidden leaves l = 0. NaN scores reach l: a maximum may drop them, 2^(NaN - top) does not.
template <int NR, class T>
HEED_NOINLINE void online_softmax(T* scores, index_t row, index_t keys, T* m, T* l, T* factor) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const std::array<batch, std::size_t{NR}> most{simd::load(factor + N * w)...};
    std::array<batch, std::size_t{NR}> sum;
    ((sum[N] = batch(T(0))), ...);
    T* p = scores;
    for (index_t j = 0; j < keys; ++j, p += row) {
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

template <class T> void raise(const T* scores, index_t row, index_t keys, index_t vectors, const T* m, T* top) {
  with_vectors(vectors, [&](auto n) { raise<n>(scores, row, keys, m, top); });
}
template <class T> void online_softmax(T* scores, index_t row, index_t keys, index_t vectors, T* m, T* l, T* factor) {
  with_vectors(vectors, [&](auto n) { online_softmax<n>(scores, row, keys, m, l, factor); });
}

// The lse of a row from its m (units of log 2) and l; -inf where no key was seen
template <class T> T natural_lse(T m, T l) {
  if (heed::detail::equals(l, T(0))) return -std::numeric_limits<T>::infinity();
  return static_cast<T>(static_cast<double>(m) * 0.6931471805599453 + std::log(static_cast<double>(l)));
}

// out = 1 / l per lane, 0 where l is 0
template <class T> HEED_NOINLINE void reciprocals(const T* l, index_t lanes, T* out) {
  const simd::batch<T> zero(T(0)), one(T(1));
  for (index_t lane = 0; lane < lanes; lane += simd::width<T>) {
    const simd::batch<T> x = simd::load(l + lane);
    simd::store(out + lane, simd::select<T>(x == zero, zero, one / x));
  }
}

// known_lse: p = 2^(s - lse), lse per lane in units of log 2 (backward)
template <class T> HEED_NOINLINE void known_lse(T* scores, index_t row, index_t keys, index_t lanes, const T* lse) {
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < lanes; l += simd::width<T>) {
      T* s = scores + j * row + l;
      simd::store(s, simd::exp2(simd::load(s) - simd::load(lse + l)));
    }
}

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

// Weights of keys at hand, as they were kept or as scores: p = factor * kept, or factor * 2^(score - m); per lane.
template <class T> struct known_weights {
  const T* p;  // [key][lane], stride row
  index_t row;
  const T *factor, *m = nullptr;  // m: p are scores

  HEED_INLINE known_weights at(index_t key, index_t lane) const {
    return {p + key * row + lane, row, factor + lane, m == nullptr ? m : m + lane};
  }
};

// product: t(key, lane) = p(key, lane) * (t(key, lane) - shift(lane)), and sum(lane) += its sum: local-linear's p t and
// backward's p (dp - delta). Where p is 0 it is 0, whatever t is: a hidden key may be of any size.
template <bool Scores, int NR, class T>
HEED_NOINLINE void product(const known_weights<T>& p, index_t keys, T* t, const T* shift, T* sum) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const batch zero(T(0));
    const std::array<batch, std::size_t{NR}> f{simd::load(p.factor + N * w)...};
    const std::array<batch, std::size_t{NR}> g{(zero - f[N] * simd::load(shift + N * w))...};
    std::array<batch, std::size_t{NR}> m, total;
    ((total[N] = zero), ...);
    if constexpr (Scores) ((m[N] = simd::load(p.m + N * w)), ...);
    const T* x = p.p;
    for (; keys > 0; --keys, x += p.row, t += p.row) {
      std::array<batch, std::size_t{NR}> y{simd::load(x + N * w)...};
      if constexpr (Scores) ((y[N] = simd::exp2_nonpositive(y[N] - m[N])), ...);
      ((y[N] = simd::select<T>(y[N] == zero, zero, y[N] * simd::fma(simd::load(t + N * w), f[N], g[N]))), ...);
      ((total[N] += y[N]), ...);
      (simd::store(t + N * w, y[N]), ...);
    }
    (simd::store(sum + N * w, simd::load(sum + N * w) + total[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}
template <class T>
void product(const known_weights<T>& p, index_t keys, index_t vectors, T* t, const T* shift, T* sum) {
  with_vectors(vectors, [&](auto n) {
    p.m != nullptr ? product<true, n>(p, keys, t, shift, sum) : product<false, n>(p, keys, t, shift, sum);
  });
}

// out(key, lane) = p(key, lane) of one vector of lanes, stride width
template <class T> HEED_NOINLINE void copy_weights(const known_weights<T>& p, index_t keys, T* out) {
  constexpr index_t w = simd::width<T>;
  for (index_t j = 0; j < keys; ++j) {
    const simd::batch<T> x = simd::load(p.p + j * p.row), f = simd::load(p.factor);
    simd::store(out + j * w, f * (p.m != nullptr ? simd::exp2_nonpositive(x - simd::load(p.m)) : x));
  }
}

// hide: scores of one vector of lanes to -inf where key first + j is not in [lo, hi) or below keep_first; all of them
// relative to the tile and small, hence exact in T
template <class T>
HEED_NOINLINE void hide(T* scores, index_t row, index_t first, index_t keys, const T* lo, const T* hi, T keep_first) {
  using batch = simd::batch<T>;
  const batch low = simd::load(lo), high = simd::load(hi), kept(keep_first);
  const batch hidden(-std::numeric_limits<T>::infinity());
  for (index_t j = 0; j < keys; ++j) {
    const batch key(static_cast<T>(first + j));
    T* s = scores + (first + j) * row;
    simd::store(s, simd::select<T>(((key >= low) | (key < kept)) & (key < high), simd::load(s), hidden));
  }
}

template <class T> HEED_NOINLINE void fill(T* c, index_t row, index_t rows, index_t lanes, T value) {
  for (index_t j = 0; j < rows; ++j)
    for (index_t l = 0; l < lanes; l += simd::width<T>) simd::store(c + j * row + l, simd::batch<T>(value));
}

}  // namespace HEED_ISA
}  // namespace heed::tile
