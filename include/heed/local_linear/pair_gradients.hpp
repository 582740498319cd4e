// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What backward makes of the pairs of a tile, queries in lanes. With w for minus the adjoint slope,
//
//   a_j = 1 + (k_j - mean) . y,   c_j = (b_j - mean of b) + (k_j - mean) . w,   b_j = dout . v_j
//   ds_j = p_j (a_j c_j - delta),   delta = sum_j p_j a_j c_j
//   dv_j += p_j a_j dout,   dk_j += p_j c_j y + p_j a_j w + scale ds_j q
//
// A pair that is hidden adds 0, whatever its numbers are.

#include "heed/tile/known_weights.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Of the rows in a tile's lanes, one number each
template <class T> struct lane_offsets {
  const T *a, *c;   // 1 - mean . y, - mean . w
  const T* b_mean;  // what is subtracted from b
  const T* delta;   // null: 0

  HEED_INLINE lane_offsets at(index_t lane) const {
    return {a + lane, c + lane, b_mean + lane, delta == nullptr ? delta : delta + lane};
  }
};

// The products of a block with the keys and values, [key][lane]: t = k . y, r = k . w and b
template <class T> struct pair_products {
  T *t, *r, *b;
  index_t stride;

  HEED_INLINE pair_products at(index_t key, index_t lane) const {
    const index_t i = key * stride + lane;
    return {t + i, r + i, b + i, stride};
  }
};

// One vector of weights of known_weights
template <bool Scores, class T>
HEED_INLINE simd::batch<T> weight_at(const T* p, simd::batch<T> m, simd::batch<T> factor) {
  const simd::batch<T> x = simd::load(p);
  if constexpr (Scores)
    return factor * simd::exp2_nonpositive(x - m);
  else
    return factor * x;
}

// f(vectors, whether p are scores), both as constants
template <class T, class F> HEED_INLINE void with_weights(const tile::known_weights<T>& p, index_t vectors, F f) {
  tile::with_vectors(vectors, [&](auto n) { p.m != nullptr ? f(n, std::true_type{}) : f(n, std::false_type{}); });
}

// sum(lane) += sum over keys of p b
template <bool Scores, int NR, class T>
HEED_NOINLINE void add_weighted(const tile::known_weights<T>& p, index_t keys, const T* b, T* sum) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const batch zero(T(0));
    const std::array<batch, std::size_t{NR}> f{simd::load(p.factor + N * w)...};
    std::array<batch, std::size_t{NR}> m, total;
    ((total[N] = zero, m[N] = zero), ...);
    if constexpr (Scores) ((m[N] = simd::load(p.m + N * w)), ...);
    const T* x = p.p;
    for (; keys > 0; --keys, x += p.stride, b += p.stride) {
      const std::array<batch, std::size_t{NR}> y{weight_at<Scores>(x + N * w, m[N], f[N])...};
      ((total[N] += simd::select<T>(y[N] == zero, zero, y[N] * simd::load(b + N * w))), ...);
    }
    (simd::store(sum + N * w, simd::load(sum + N * w) + total[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}
template <class T>
void add_weighted(const tile::known_weights<T>& p, index_t keys, index_t vectors, const T* b, T* sum) {
  with_weights(p, vectors, [&](auto n, auto scores) { add_weighted<scores, n>(p, keys, b, sum); });
}

// out = p (b - about), sum(lane) += its sum, squares(lane) += the sum of p (b - about)^2
template <bool Scores, int NR, class T>
HEED_NOINLINE void weigh_about(const tile::known_weights<T>& p, index_t keys, const T* b, const T* about, T* out,
                               T* sum, T* squares) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const batch zero(T(0));
    const std::array<batch, std::size_t{NR}> f{simd::load(p.factor + N * w)...}, c{simd::load(about + N * w)...};
    std::array<batch, std::size_t{NR}> m, total, square;
    ((total[N] = zero, square[N] = zero, m[N] = zero), ...);
    if constexpr (Scores) ((m[N] = simd::load(p.m + N * w)), ...);
    const T* x = p.p;
    for (; keys > 0; --keys, x += p.stride, b += p.stride, out += p.stride) {
      std::array<batch, std::size_t{NR}> y{weight_at<Scores>(x + N * w, m[N], f[N])...};
      const std::array<batch, std::size_t{NR}> d{simd::select<T>(y[N] == zero, zero, simd::load(b + N * w) - c[N])...};
      ((y[N] = y[N] * d[N]), ...);
      ((total[N] += y[N]), ...);
      ((square[N] = simd::fma(y[N], d[N], square[N])), ...);
      (simd::store(out + N * w, y[N]), ...);
    }
    (simd::store(sum + N * w, simd::load(sum + N * w) + total[N]), ...);
    (simd::store(squares + N * w, simd::load(squares + N * w) + square[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}
template <class T>
void weigh_about(const tile::known_weights<T>& p, index_t keys, index_t vectors, const T* b, const T* about, T* out,
                 T* sum, T* squares) {
  with_weights(p, vectors, [&](auto n, auto scores) { weigh_about<scores, n>(p, keys, b, about, out, sum, squares); });
}

// Sums over the keys of a row, one number per lane
template <class T> struct pair_sums {
  T *a, *c, *ac;  // of p a, p c and p (a c - delta)

  HEED_INLINE pair_sums at(index_t lane) const { return {a + lane, c + lane, ac + lane}; }
};

// Adds to the sums; with Adjoint x.t = p (a c - delta), else only p a is summed.
template <bool Adjoint, bool Scores, int NR, class T>
HEED_NOINLINE void score_gradients(const tile::known_weights<T>& p, index_t keys, const pair_products<T>& x,
                                   const lane_offsets<T>& of, const pair_sums<T>& sum) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const batch zero(T(0));
    std::array<batch, std::size_t{NR}> sum_a, sum_c, sum_ac;
    ((sum_a[N] = zero, sum_c[N] = zero, sum_ac[N] = zero), ...);
    const T *weight = p.p, *r = x.r, *b = x.b;
    T* t = x.t;
    for (; keys > 0; --keys, weight += p.stride, t += x.stride, r += x.stride, b += x.stride) {
      const auto one = [&](auto n) __attribute__((always_inline)) {
        constexpr index_t l = n * w;
        batch m = zero;
        if constexpr (Scores) m = simd::load(p.m + l);
        const batch y = weight_at<Scores>(weight + l, m, simd::load(p.factor + l));
        const auto none = y == zero;
        const batch a = simd::load(t + l) + simd::load(of.a + l);
        sum_a[n] += simd::select<T>(none, zero, y * a);
        if constexpr (Adjoint) {
          const batch c = (simd::load(b + l) - simd::load(of.b_mean + l)) + (simd::load(r + l) + simd::load(of.c + l));
          const batch yc = simd::select<T>(none, zero, y * c);
          batch ds = simd::select<T>(none, zero, yc * a);
          if (of.delta != nullptr) ds = ds - y * simd::load(of.delta + l);
          simd::store(t + l, ds);
          sum_c[n] += yc, sum_ac[n] += ds;
        }
      };
      (one(std::integral_constant<int, N>{}), ...);
    }
    (simd::store(sum.a + N * w, simd::load(sum.a + N * w) + sum_a[N]), ...);
    if constexpr (Adjoint) {
      (simd::store(sum.c + N * w, simd::load(sum.c + N * w) + sum_c[N]), ...);
      (simd::store(sum.ac + N * w, simd::load(sum.ac + N * w) + sum_ac[N]), ...);
    }
  }
  (std::make_integer_sequence<int, NR>{});
}
template <class T>
void score_gradients(const tile::known_weights<T>& p, index_t keys, index_t vectors, const pair_products<T>& x,
                     const lane_offsets<T>& of, bool adjoint, const pair_sums<T>& sum) {
  with_weights(p, vectors, [&](auto n, auto scores) {
    adjoint ? score_gradients<true, scores, n>(p, keys, x, of, sum)
            : score_gradients<false, scores, n>(p, keys, x, of, sum);
  });
}

// From scores s: x.t = p a;  with Adjoint also x.b = p c and x.r = p (a c - delta).  p = inv_l 2^(s - m), 0 where s is
// -inf: of a row that is not finite the weights are NaN for the keys that it sees, and no other.
template <bool Adjoint, int NR, class T>
HEED_NOINLINE void pair_gradients(const tile::known_weights<T>& s, index_t keys, const pair_products<T>& x,
                                  const lane_offsets<T>& of) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    const batch zero(T(0)), hidden(-std::numeric_limits<T>::infinity());
    const T* score = s.p;
    T *t = x.t, *r = x.r, *b = x.b;
    for (; keys > 0; --keys, score += s.stride, t += x.stride, r += x.stride, b += x.stride) {
      const auto one = [&](auto n) __attribute__((always_inline)) {
        constexpr index_t l = n * w;
        const batch at = simd::load(score + l);
        const auto none = at == hidden;
        const batch p = simd::load(s.factor + l) * simd::exp2_nonpositive(at - simd::load(s.m + l));
        const batch a = simd::load(t + l) + simd::load(of.a + l);
        simd::store(t + l, simd::select<T>(none, zero, p * a));
        if constexpr (Adjoint) {
          const batch c = (simd::load(b + l) - simd::load(of.b_mean + l)) + (simd::load(r + l) + simd::load(of.c + l));
          simd::store(b + l, simd::select<T>(none, zero, p * c));
          simd::store(r + l, simd::select<T>(none, zero, p * (a * c - simd::load(of.delta + l))));
        }
      };
      (one(std::integral_constant<int, N>{}), ...);
    }
  }
  (std::make_integer_sequence<int, NR>{});
}
template <class T>
void pair_gradients(const tile::known_weights<T>& s, index_t keys, index_t vectors, const pair_products<T>& x,
                    const lane_offsets<T>& of, bool adjoint) {
  tile::with_vectors(vectors, [&](auto n) {
    adjoint ? pair_gradients<true, n>(s, keys, x, of) : pair_gradients<false, n>(s, keys, x, of);
  });
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
