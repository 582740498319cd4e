// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "heed/local_linear/kept_weights.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Vectors of conjugate gradients for A x = b, one system per lane: solution, residual, direction and A times the
// direction. Each is [row][lane], rows `stride` apart.
template <class T> struct cg_vectors {
  T *x, *r, *p, *Ap;
  index_t stride, rows, lanes;
};

// Per lane: dot = a . b
template <class T>
HEED_NOINLINE void lane_dot(const T* a, const T* b, index_t stride, index_t rows, index_t lanes, T* dot) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    simd::batch<T> sum(T(0));
    for (index_t i = l; i < rows * stride; i += stride) sum = simd::fma(simd::load(a + i), simd::load(b + i), sum);
    simd::store(dot + l, sum);
  }
}

// Ap <- Ap - sum mean + ridge p;  pAp = p . Ap
template <class T>
HEED_NOINLINE void add_mean_and_ridge(const cg_vectors<T>& v, const T* sum, const T* mean, const T* ridge, T* pAp) {
  for (index_t l = 0; l < v.lanes; l += simd::width<T>) {
    const simd::batch<T> zero(T(0)), penalty = simd::load(ridge + l), minus_sum = zero - simd::load(sum + l);
    simd::batch<T> dot = zero;
    for (index_t i = l; i < v.rows * v.stride; i += v.stride) {
      const simd::batch<T> p = simd::load(v.p + i);
      const simd::batch<T> centred = simd::fma(minus_sum, simd::load(mean + i), simd::load(v.Ap + i));
      const simd::batch<T> Ap = simd::fma(penalty, p, centred);
      simd::store(v.Ap + i, Ap);
      dot = simd::fma(p, Ap, dot);
    }
    simd::store(pAp + l, dot);
  }
}

// x <- x + alpha_x p;  r <- r - alpha_r Ap;  rr = r . r
template <class T> HEED_NOINLINE void update_x_r(const cg_vectors<T>& v, const T* alpha_x, const T* alpha_r, T* rr) {
  for (index_t l = 0; l < v.lanes; l += simd::width<T>) {
    const simd::batch<T> zero(T(0)), forth = simd::load(alpha_x + l), back = zero - simd::load(alpha_r + l);
    simd::batch<T> dot = zero;
    for (index_t i = l; i < v.rows * v.stride; i += v.stride) {
      simd::store(v.x + i, simd::fma(forth, simd::load(v.p + i), simd::load(v.x + i)));
      const simd::batch<T> r = simd::fma(back, simd::load(v.Ap + i), simd::load(v.r + i));
      simd::store(v.r + i, r);
      dot = simd::fma(r, r, dot);
    }
    simd::store(rr + l, dot);
  }
}

// p <- r + beta p;  dot = mean . p
template <class T> HEED_NOINLINE void update_p(const cg_vectors<T>& v, const T* beta, const T* mean, T* dot) {
  for (index_t l = 0; l < v.lanes; l += simd::width<T>) {
    const simd::batch<T> b = simd::load(beta + l);
    simd::batch<T> sum(T(0));
    for (index_t i = l; i < v.rows * v.stride; i += v.stride) {
      const simd::batch<T> p = simd::fma(b, simd::load(v.p + i), simd::load(v.r + i));
      simd::store(v.p + i, p);
      sum = simd::fma(simd::load(mean + i), p, sum);
    }
    simd::store(dot + l, sum);
  }
}

// The systems of a tile: C y = r, with one ridge per lane; everything else is [d][lane].
template <class T> struct lane_systems {
  const T *q, *mean, *ridge;
  T* r;                     // q - mean, or q where not `centred`; the solver overwrites it
  T* y;                     // written
  bool centred = true;      // backward solves for other right sides
  const T* unit = nullptr;  // what (k - mean) . y is added to, per lane; null: 1
};

// Solves C y = r, r = q - mean, for the lanes of a tile by conjugate gradients, without forming C: with the weights w_j
// and t_j = (k_j - mean) . x
//
//   C x = sum_j w_j t_j k_j - (sum_j w_j t_j) mean + ridge x
//
// is one product with the keys, one pass over the weights and one weighted sum of keys. Each lane stops by its own
// residual, and the tile with its last lane. No lane affects the numbers of another. There is no preconditioner and no
// initial guess: the diagonal, the covariance of a tile's keys, its mean weights and the slopes of the tile before did
// not pay (docs/kernels/local_linear.md).
//
// Each lane scales r, and with it y, by a power of two to a length below 1, so that squares overflow only where C
// itself does. Where C is so large that y would come near the smallest normal number, the solver holds 2^64 y.
template <class T> class conjugate_gradients {
 public:
  static constexpr index_t w = simd::width<T>, lanes = pairwise::score_tiles<T>::most_rows;
  template <class X> using per_lane = tile::lane_array<X, lanes>;

  conjugate_gradients(const problem<T>& p, heed::detail::arena& memory)
      : d_(p.d),
        Ap_(p.d, memory),
        t_(memory.take<T>(lanes * pairwise::score_tiles<T>::most_keys)),
        p_(memory.take<T>(lanes * p.d)) {
    for (T** x : {&alpha_, &alpha_y_, &y_unit_, &beta_, &mean_p_, &next_rr_, &pAp_, &r_unit_, &sum_, &factor_})
      *x = memory.take<T>(lanes);
  }

  struct outcome {
    index_t iterations = 0;       // of the tile
    per_lane<index_t> each{};     // of a lane
    per_lane<double> residual{};  // |C y - r| / |r|, at least the part of 1 + (k - mean) . y that T rounds off
  };

  // Solves for the lanes in `which`, starting at y = 0.
  outcome solve(tile_weights<T>& weights, std::uint64_t which, const lane_systems<T>& c, double tolerance,
                index_t max_iterations) {
    const index_t row = weights.row();
    const cg_vectors<T> v{c.y, c.r, p_, Ap_.data(), row, d_, row};
    outcome out;
    which = begin(which, c.mean, v, tolerance);
    for (index_t d = 0; d < d_; ++d)  // 0, or NaN in a row that has no residual
      for (index_t l = 0; l < row; l += w)
        simd::store(c.y + d * row + l, simd::batch<T>(T(0)) * simd::load(next_rr_ + l));
    std::uint64_t active = which;
    while (active != 0 && out.iterations < max_iterations) {
      apply(weights, c, p_);
      active = choose_alpha(active, row, out.iterations == 0);
      update_x_r(v, alpha_y_, alpha_, next_rr_);
      ++out.iterations;
      active = choose_beta(active, row, out);
      update_p(v, beta_, c.mean, mean_p_);
    }
    if (const std::uint64_t inexact = find_rounding(weights, which, c, tolerance, out); inexact != 0) {
      true_residual(weights, c);
      lane_dot(c.r, c.r, row, d_, row, next_rr_);
      for (index_t l = 0; l < row; ++l)
        if ((inexact & bit(l)) != 0) rr_[l] = next_rr_[l];
    }
    for (index_t l = 0; l < row; ++l) {
      if ((which & bit(l)) != 0) {
        const double residual = std::sqrt(static_cast<double>(rr_[l]) / first_rr_[l]);
        if (!(residual <= out.residual[l] || std::isnan(out.residual[l]))) out.residual[l] = residual;
      }
      r_unit_[l] = T(1) / r_unit_[l] / y_unit_[l];
    }
    scale(c.y, row);
    const index_t unsure = tile::all_finite(c.y, row, d_, row) ? 0 : d_ * row;
    for (index_t i = 0; i < unsure; ++i)  // a slope beyond the range of T
      if (!std::isfinite(c.y[i])) out.residual[i % row] = HUGE_VAL;
    return out;
  }

 private:
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }

  // Returns the lanes of `which` that have a residual.
  std::uint64_t begin(std::uint64_t which, const T* mean, const cg_vectors<T>& v, double tolerance) {
    choose_units(v.r, v.lanes);
    scale(v.r, v.lanes);
    std::copy(v.r, v.r + d_ * v.stride, v.p);
    lane_dot(v.r, v.r, v.stride, d_, v.lanes, next_rr_);
    lane_dot(mean, v.r, v.stride, d_, v.lanes, mean_p_);
    for (index_t l = 0; l < v.lanes; ++l) {
      rr_[l] = next_rr_[l];
      first_rr_[l] = static_cast<double>(next_rr_[l]);
      rr_bound_[l] = tolerance * tolerance * first_rr_[l];
      alpha_[l] = alpha_y_[l] = beta_[l] = T(0), y_unit_[l] = T(1), eigenvalue_[l] = 0;
      if (!(next_rr_[l] > T(0))) which &= ~bit(l);
    }
    return which;
  }
  // Chooses the power of two that r of a lane is multiplied with.
  void choose_units(const T* r, index_t row) {
    std::fill(r_unit_, r_unit_ + row, T(0));
    for (index_t d = 0; d < d_; ++d)
      for (index_t l = 0; l < row; ++l) r_unit_[l] = std::max(r_unit_[l], std::abs(r[d * row + l]));  // NaN shows later
    constexpr int most = std::numeric_limits<T>::max_exponent - 2;
    const int dims = 1 + (static_cast<int>(std::bit_width(static_cast<std::uint64_t>(d_))) + 1) / 2;
    for (index_t l = 0; l < row; ++l)
      r_unit_[l] = r_unit_[l] > T(0) && std::isfinite(r_unit_[l])
                       ? std::ldexp(T(1), -std::clamp(std::ilogb(r_unit_[l]) + dims, -most, most))
                       : T(1);
  }
  void scale(T* x, index_t row) const {
    for (index_t d = 0; d < d_; ++d)
      for (index_t l = 0; l < row; l += w)
        simd::store(x + d * row + l, simd::load(r_unit_ + l) * simd::load(x + d * row + l));
  }
  // alpha = rr / pAp. Lanes where rounding ate the ridge, or where C overflows, stop.
  std::uint64_t choose_alpha(std::uint64_t active, index_t row, bool first) {
    for (index_t l = 0; l < row; ++l) {
      const T before = alpha_[l], next = (active & bit(l)) != 0 ? rr_[l] / pAp_[l] : T(0);
      if (!(next > T(0) && next <= std::numeric_limits<T>::max())) {
        active &= ~bit(l), alpha_[l] = alpha_y_[l] = T(0);
        continue;
      }
      if (first && next < T(0x1p-60)) y_unit_[l] = T(0x1p64);
      alpha_[l] = next, alpha_y_[l] = next * y_unit_[l];
      // an entry on the diagonal of the tridiagonal matrix of the Lanczos process
      const T entry = T(1) / alpha_[l] + (before > T(0) ? beta_[l] / before : T(0));
      eigenvalue_[l] = std::max(eigenvalue_[l], static_cast<double>(entry));
    }
    return active;
  }
  // beta = next rr / rr. Lanes that have converged stop.
  std::uint64_t choose_beta(std::uint64_t active, index_t row, outcome& out) {
    for (index_t l = 0; l < row; ++l) {
      beta_[l] = T(0);
      if ((active & bit(l)) == 0) continue;
      ++out.each[l];
      beta_[l] = next_rr_[l] / rr_[l];
      rr_[l] = next_rr_[l];
      if (!(static_cast<double>(next_rr_[l]) > rr_bound_[l])) active &= ~bit(l);
    }
    return active;
  }

  // Returns the lanes where rounding in C y may have come near the tolerance, which the recursion of the residual does
  // not see. No residual sees what rounding in k . y - mean . y does to the weights: the residuals in `out` start from
  // that. With all weight on one key (l = 1) the sum of the weights shows it, and the driver corrects it.
  std::uint64_t find_rounding(const tile_weights<T>& weights, std::uint64_t which, const lane_systems<T>& c,
                              double tolerance, outcome& out) {
    const index_t row = weights.row();
    per_lane<double> slopes, offsets;
    find_lengths(c.y, row, slopes), find_lengths(c.mean, row, offsets);
    constexpr double eps = std::numeric_limits<T>::epsilon() / 2;
    std::uint64_t inexact = 0;
    for (index_t l = 0; l < row; ++l) {
      if ((which & bit(l)) == 0) continue;
      const double slope = slopes[l] / static_cast<double>(y_unit_[l]), offset = offsets[l];
      const double spread = std::sqrt(eigenvalue_[l]);
      if (!(eps * slope * spread * (spread + offset) <= tolerance * std::sqrt(first_rr_[l]))) inexact |= bit(l);
      // 1, or what takes its place, in units of (k - mean) . y
      const double one = static_cast<double>(r_unit_[l]) * (c.unit == nullptr ? 1 : static_cast<double>(c.unit[l]));
      const double change = slope * std::sqrt(std::max(0.0, eigenvalue_[l] - static_cast<double>(c.ridge[l])));
      if (!weights.on_one_key(l)) out.residual[l] = eps * slope * offset / std::max(one, change);
    }
    return inexact;
  }

  // |x| of each lane, where a square may lie outside T; in units of the largest entry where T is double
  void find_lengths(const T* x, index_t row, per_lane<double>& length) const {
    per_lane<double> unit, inverse;
    for (index_t l = 0; l < row; ++l) unit[l] = std::is_same_v<T, double> ? 0 : 1, length[l] = 0;
    for (index_t i = 0; std::is_same_v<T, double> && i < d_; ++i)
      for (index_t l = 0; l < row; ++l) unit[l] = std::max(unit[l], std::abs(static_cast<double>(x[i * row + l])));
    for (index_t l = 0; l < row; ++l) {  // a power of two, so that its inverse is a number
      const bool usable = unit[l] > 0 && std::isfinite(unit[l]);
      unit[l] = usable ? std::ldexp(1.0, std::clamp(std::ilogb(unit[l]), -1000, 1000)) : 1;
      inverse[l] = 1 / unit[l];
    }
    for (index_t i = 0; i < d_; ++i)
      for (index_t l = 0; l < row; ++l) {
        const double scaled = static_cast<double>(x[i * row + l]) * inverse[l];
        length[l] += scaled * scaled;
      }
    for (index_t l = 0; l < row; ++l) length[l] = unit[l] * std::sqrt(length[l]);
  }

  // r <- r - C y as it was at first, in its units: the recursion of the residual may have drifted from it.
  void true_residual(tile_weights<T>& weights, const lane_systems<T>& c) {
    const index_t row = weights.row();
    lane_dot<T>(c.mean, c.y, row, d_, row, mean_p_);
    apply(weights, c, c.y);
    for (index_t d = 0; d < d_; ++d)
      for (index_t l = 0; l < row; l += w) {
        const index_t i = d * row + l;
        const simd::batch<T> q = simd::load(c.q + i), r = c.centred ? q - simd::load(c.mean + i) : q;
        const simd::batch<T> product = simd::divide<T>(simd::load(Ap_.data() + i), simd::load(y_unit_ + l));
        simd::store(c.r + i, simd::load(r_unit_ + l) * r - product);
      }
  }

  // Ap = C x and pAp = x . C x, from mean_p = mean . x
  void apply(tile_weights<T>& weights, const lane_systems<T>& c, T* x) {
    const index_t row = weights.row();
    std::fill(sum_, sum_ + row, T(0));
    Ap_.begin(weights.vectors(), factor_);
    weights.each([&](const pairwise::key_tile<T>& keys, const tile::known_weights<T>& known) {
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        const index_t lane = b.from * w;
        row_products<T>(keys.k, b, {x, row, d_, row}, t_);
        tile::product(known.at(b.first, lane), b.keys, b.to - b.from, t_ + b.first * row + lane, mean_p_ + lane,
                      sum_ + lane);
        Ap_.add(keys.k, {t_, row, keys.keys, row}, b);
      }
    });
    Ap_.finish();
    add_mean_and_ridge<T>({nullptr, nullptr, x, Ap_.data(), row, d_, row}, sum_, c.mean, c.ridge, pAp_);
  }

  index_t d_;
  pairwise::weighted_sums<T> Ap_;
  T *t_, *p_;
  T *alpha_, *alpha_y_, *y_unit_, *beta_, *mean_p_, *next_rr_, *pAp_, *r_unit_, *sum_, *factor_;
  per_lane<T> rr_;                                     // r . r
  per_lane<double> first_rr_, rr_bound_, eigenvalue_;  // the largest of C + ridge, roughly and from below
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
