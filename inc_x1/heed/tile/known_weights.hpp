// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Weights that are known already: kept from a pass before, or made of scores and their maximum.

#include "heed/simd/math.hpp"
#include "heed/tile/multiply.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

// Weights of keys at hand, as they were kept or as scores: p = factor * kept, or factor * 2^(score - m); per lane.
template <class T> struct known_weights {
  const T* p;  // [key][lane]
  index_t stride;
  const T *factor, *m = nullptr;  // m: p are scores

  HEED_INLINE known_weights at(index_t key, index_t lane) const {
    return {p + key * stride + lane, stride, factor + lane, m == nullptr ? m : m + lane};
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
    for (; keys > 0; --keys, x += p.stride, t += p.stride) {
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
    const simd::batch<T> x = simd::load(p.p + j * p.stride), f = simd::load(p.factor);
    simd::store(out + j * w, f * (p.m != nullptr ? simd::exp2_nonpositive(x - simd::load(p.m)) : x));
  }
}

}  // namespace HEED_ISA
}  // namespace heed::tile
