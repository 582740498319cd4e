// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "heed/local_linear/kept_weights.hpp"
#include "heed/local_linear/cholesky.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Per lane, over `rows` rows of stride `row`: dot = a . b
template <class T>
HEED_NOINLINE void lane_dot(const T* a, const T* b, index_t row, index_t rows, index_t lanes, T* dot) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    simd::batch<T> sum(T(0));
    for (index_t d = 0; d < rows; ++d) sum = simd::fma(simd::load(a + d * row + l), simd::load(b + d * row + l), sum);
    simd::store(dot + l, sum);
  }
}

// z <- z - s mean + ridge p; curve = p . z
template <class T>
HEED_NOINLINE void complete_image(T* z, const T* s, const T* mean, const T* ridge, const T* p, index_t row,
                                  index_t rows, index_t lanes, T* curve) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    const simd::batch<T> zero(T(0)), r = simd::load(ridge + l), t = zero - simd::load(s + l);
    simd::batch<T> sum = zero;
    for (index_t d = 0; d < rows; ++d) {
      const simd::batch<T> x = simd::load(p + d * row + l);
      const simd::batch<T> y = simd::fma(t, simd::load(mean + d * row + l), simd::load(z + d * row + l));
      const simd::batch<T> image = simd::fma(r, x, y);
      simd::store(z + d * row + l, image);
      sum = simd::fma(x, image, sum);
    }
    simd::store(curve + l, sum);
  }
}

// y <- y + b p; r <- r - a z; square = r . r
template <class T>
HEED_NOINLINE void take_step(T* y, T* r, const T* p, const T* z, const T* b, const T* a, index_t row, index_t rows,
                             index_t lanes, T* square) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    const simd::batch<T> zero(T(0)), forth = simd::load(b + l), back = zero - simd::load(a + l);
    simd::batch<T> sum = zero;
    for (index_t d = 0; d < rows; ++d) {
      const index_t at = d * row + l;
      simd::store(y + at, simd::fma(forth, simd::load(p + at), simd::load(y + at)));
      const simd::batch<T> rest = simd::fma(back, simd::load(z + at), simd::load(r + at));
      simd::store(r + at, rest);
      sum = simd::fma(rest, rest, sum);
    }
    simd::store(square + l, sum);
  }
}

// p <- r + b p; dot = mean . p
template <class T>
HEED_NOINLINE void turn(T* p, const T* r, const T* b, const T* mean, index_t row, index_t rows, index_t lanes, T* dot) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    const simd::batch<T> f = simd::load(b + l);
    simd::batch<T> sum(T(0));
    for (index_t d = 0; d < rows; ++d) {
      const index_t at = d * row + l;
      const simd::batch<T> x = simd::fma(f, simd::load(p + at), simd::load(r + at));
      simd::store(p + at, x);
      sum = simd::fma(simd::load(mean + at), x, sum);
    }
    simd::store(dot + l, sum);
  }
}

// C y = r for the lanes of a tile by conjugate gradients, without a matrix: with t_j = (k_j - mean) . x
//
//   C x = sum_j p_j t_j k_j - (sum_j p_j t_j) mean + ridge x
//
// is one product with the keys, one weight step and one sum of keys. A lane stops by its own residual, the tile with
// its last lane, and no lane's numbers reach another. No preconditioner, no first guess: the diagonal, the covariance
// of a tile's keys, its mean weights and the slopes of the tile before were tried, see docs/kernels/local_linear.md.
//
// r, and with it y, is solved for as 2^-n r of a length below 1: squares overflow only where C itself does. Where C is
// so large that y would come near the smallest normal number, it is kept as 2^64 y.
template <class T> class conjugate_gradients {
 public:
  static constexpr index_t w = simd::width<T>, lanes = pairwise::score_tiles<T>::most_rows;
  template <class X> using per_lane = std::array<X, std::size_t{lanes}>;

  conjugate_gradients(const problem<T>& p, heed::detail::arena& memory)
      : d_(p.d),
        image_(p.d, memory),
        t_(memory.take<T>(lanes * pairwise::score_tiles<T>::most_keys)),
        direction_(memory.take<T>(lanes * p.d)),
        step_(memory.take<T>(lanes)),
        y_step_(memory.take<T>(lanes)),
        y_unit_(memory.take<T>(lanes)),
        turn_(memory.take<T>(lanes)),
        shift_(memory.take<T>(lanes)),
        square_(memory.take<T>(lanes)),
        curve_(memory.take<T>(lanes)),
        unit_(memory.take<T>(lanes)),
        sum_(memory.take<T>(lanes)),
        factor_(memory.take<T>(lanes)) {}

  struct outcome {
    index_t iterations = 0;              // of the tile
    per_lane<index_t> each;     // of a lane
    per_lane<double> residual;  // |C y - r| / |r|, at least the share of 1 + (k - mean) . y that T rounds off
  };

  // y from 0 on for the lanes in `which`, r = q - mean; all [d][lane]; one ridge per lane. r is used up.
  outcome solve(tile_weights<T>& weights, std::uint64_t which, const T* q, const T* mean, const T* ridge, T* r, T* y,
                double tolerance, index_t most) {
    const index_t row = weights.row();
    outcome out;
    out.each.fill(0), out.residual.fill(0);
    which = begin(which, mean, r, row, tolerance);
    for (index_t d = 0; d < d_; ++d)  // 0, or NaN in a row that has no residual
      for (index_t l = 0; l < row; l += w) simd::store(y + d * row + l, simd::batch<T>(T(0)) * simd::load(square_ + l));
    std::uint64_t active = which;
    while (active != 0 && out.iterations < most) {
      apply(weights, direction_, mean, shift_, ridge, curve_);
      active = choose_steps(active, row, out.iterations == 0);
      take_step(y, r, direction_, image_.data(), y_step_, step_, row, d_, row, square_);
      ++out.iterations;
      active = choose_turns(active, row, out);
      turn(direction_, r, turn_, mean, row, d_, row, shift_);
    }
    if (const std::uint64_t lost = find_rounding(weights, which, mean, ridge, y, tolerance, out); lost != 0) {
      true_residual(weights, q, mean, ridge, y, r);
      lane_dot(r, r, row, d_, row, square_);
      for (index_t l = 0; l < row; ++l)
        if ((lost & bit(l)) != 0) now_[at(l)] = square_[l];
    }
    for (index_t l = 0; l < row; ++l) {
      if ((which & bit(l)) != 0) {
        const double left = std::sqrt(static_cast<double>(now_[at(l)]) / first_[at(l)]);
        if (!(left <= out.residual[at(l)] || std::isnan(out.residual[at(l)]))) out.residual[at(l)] = left;
      }
      unit_[l] = T(1) / unit_[l] / y_unit_[l];
    }
    scale(y, row);
    const index_t unsure = tile::all_finite(y, row, d_, row) ? 0 : d_ * row;
    for (index_t i = 0; i < unsure; ++i)  // a slope beyond the range of T
      if (!std::isfinite(y[i])) out.residual[at(i % row)] = HUGE_VAL;
    return out;
  }

 private:
  static constexpr std::size_t at(index_t l) { return static_cast<std::size_t>(l); }
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }

  // Returns the lanes that have a residual.
  std::uint64_t begin(std::uint64_t which, const T* mean, T* r, index_t row, double tolerance) {
    choose_units(r, row);
    scale(r, row);
    std::copy(r, r + d_ * row, direction_);
    lane_dot(r, r, row, d_, row, square_);
    lane_dot(mean, r, row, d_, row, shift_);
    for (index_t l = 0; l < row; ++l) {
      now_[at(l)] = square_[l];
      first_[at(l)] = static_cast<double>(square_[l]);
      bound_[at(l)] = tolerance * tolerance * first_[at(l)];
      step_[l] = y_step_[l] = turn_[l] = T(0), y_unit_[l] = T(1), largest_[at(l)] = 0;
      if (!(square_[l] > T(0))) which &= ~bit(l);
    }
    return which;
  }
  // The power of two that r of a lane is multiplied with
  void choose_units(const T* r, index_t row) {
    std::fill(unit_, unit_ + row, T(0));
    for (index_t d = 0; d < d_; ++d)
      for (index_t l = 0; l < row; ++l) unit_[l] = std::max(unit_[l], std::abs(r[d * row + l]));  // NaN shows later
    constexpr int most = std::numeric_limits<T>::max_exponent - 2;
    const int dims = 1 + (static_cast<int>(std::bit_width(static_cast<std::uint64_t>(d_))) + 1) / 2;
    for (index_t l = 0; l < row; ++l)
      unit_[l] = unit_[l] > T(0) && std::isfinite(unit_[l])
                     ? std::ldexp(T(1), -std::clamp(std::ilogb(unit_[l]) + dims, -most, most))
                     : T(1);
  }
  void scale(T* x, index_t row) const {
    for (index_t d = 0; d < d_; ++d)
      for (index_t l = 0; l < row; l += w)
        simd::store(x + d * row + l, simd::load(unit_ + l) * simd::load(x + d * row + l));
  }
  // How far along the direction; lanes where rounding ate the ridge, or where C overflows, stop.
  std::uint64_t choose_steps(std::uint64_t active, index_t row, bool first) {
    for (index_t l = 0; l < row; ++l) {
      const T before = step_[l], next = (active & bit(l)) != 0 ? now_[at(l)] / curve_[l] : T(0);
      if (!(next > T(0) && next <= std::numeric_limits<T>::max())) {
        active &= ~bit(l), step_[l] = y_step_[l] = T(0);
        continue;
      }
      if (first && next < T(0x1p-60)) y_unit_[l] = T(0x1p64);
      step_[l] = next, y_step_[l] = next * y_unit_[l];
      // an entry on the diagonal of the tridiagonal matrix of the Lanczos process
      const T entry = T(1) / step_[l] + (before > T(0) ? turn_[l] / before : T(0));
      largest_[at(l)] = std::max(largest_[at(l)], static_cast<double>(entry));
    }
    return active;
  }
  // How much of the direction stays; lanes that have converged stop.
  std::uint64_t choose_turns(std::uint64_t active, index_t row, outcome& out) {
    for (index_t l = 0; l < row; ++l) {
      turn_[l] = T(0);
      if ((active & bit(l)) == 0) continue;
      ++out.each[at(l)];
      turn_[l] = square_[l] / now_[at(l)];
      now_[at(l)] = square_[l];
      if (!(static_cast<double>(square_[l]) > bound_[at(l)])) active &= ~bit(l);
    }
    return active;
  }

  // Lanes where rounding in C y may have come near the tolerance: the recursion of the residual does not see it. What
  // rounding in k . y - mean . y does to the weights no residual sees: the residuals in `out` start from there. With
  // all weight on one key (l = 1) the sum of the weights shows it, and it is made up.
  std::uint64_t find_rounding(const tile_weights<T>& weights, std::uint64_t which, const T* mean, const T* ridge,
                              const T* y, double tolerance, outcome& out) {
    const index_t row = weights.row();
    per_lane<double> slopes, offsets;
    find_lengths(y, row, slopes), find_lengths(mean, row, offsets);
    for (index_t l = 0; l < row; ++l) slopes[at(l)] /= static_cast<double>(y_unit_[l]);
    constexpr double unit = std::numeric_limits<T>::epsilon() / 2;
    std::uint64_t lost = 0;
    for (index_t l = 0; l < row; ++l) {
      if ((which & bit(l)) == 0) continue;
      const double spread = std::sqrt(largest_[at(l)]), offset = offsets[at(l)], slope = slopes[at(l)];
      if (!(unit * slope * spread * (spread + offset) <= tolerance * std::sqrt(first_[at(l)]))) lost |= bit(l);
      const double one = static_cast<double>(unit_[l]);  // 1 in units of (k - mean) . y
      const double change = slope * std::sqrt(std::max(0.0, largest_[at(l)] - static_cast<double>(ridge[l])));
      if (!heed::detail::equals(weights.l()[l], T(1)))
        out.residual[at(l)] = unit * slope * offset / std::max(one, change);
    }
    return lost;
  }

  // |x| of each lane, of which no square must be a number of T; in units of the largest entry where T is double
  void find_lengths(const T* x, index_t row, per_lane<double>& out) const {
    per_lane<double> unit;
    unit.fill(std::is_same_v<T, double> ? 0 : 1), out.fill(0);
    for (index_t i = 0; std::is_same_v<T, double> && i < d_; ++i)
      for (index_t l = 0; l < row; ++l)
        unit[at(l)] = std::max(unit[at(l)], std::abs(static_cast<double>(x[i * row + l])));
    for (index_t l = 0; l < row; ++l)  // a power of two, so that its inverse is a number
      unit[at(l)] = unit[at(l)] > 0 && std::isfinite(unit[at(l)])
                        ? std::ldexp(1.0, std::clamp(std::ilogb(unit[at(l)]), -1000, 1000))
                        : 1;
    per_lane<double> inverse;
    for (index_t l = 0; l < row; ++l) inverse[at(l)] = 1 / unit[at(l)];
    for (index_t i = 0; i < d_; ++i)
      for (index_t l = 0; l < row; ++l) {
        const double share = static_cast<double>(x[i * row + l]) * inverse[at(l)];
        out[at(l)] += share * share;
      }
    for (index_t l = 0; l < row; ++l) out[at(l)] = unit[at(l)] * std::sqrt(out[at(l)]);
  }

  // r <- q - mean - C y: what the recursion of the residual may have lost to rounding
  void true_residual(tile_weights<T>& weights, const T* q, const T* mean, const T* ridge, const T* y, T* r) {
    const index_t row = weights.row();
    lane_dot(mean, y, row, d_, row, shift_);
    apply(weights, y, mean, shift_, ridge, curve_);
    for (index_t d = 0; d < d_; ++d)
      for (index_t l = 0; l < row; l += w) {
        const index_t i = d * row + l;
        const simd::batch<T> rest = simd::load(q + i) - simd::load(mean + i);
        simd::store(r + i, simd::load(unit_ + l) * rest - simd::load(image_.data() + i) / simd::load(y_unit_ + l));
      }
  }

  // image = C x; curve = x . C x
  void apply(tile_weights<T>& weights, const T* x, const T* mean, const T* shift, const T* ridge, T* curve) {
    const index_t row = weights.row();
    std::fill(sum_, sum_ + row, T(0));
    image_.begin(weights.vectors(), factor_);
    weights.each([&](const pairwise::key_tile<T>& keys, const tile::known_weights<T>& p) {
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        key_products<T>(keys, b, {x, row, d_, row}, t_);
        const index_t lane = b.from * w;
        tile::product(p.at(b.first, lane), b.keys, b.to - b.from, t_ + b.first * row + lane, shift + lane, sum_ + lane);
        image_.add(keys.k, {t_, row, keys.keys, row}, b);
      }
    });
    image_.finish();
    complete_image(image_.data(), sum_, mean, ridge, x, row, d_, row, curve);
  }

  index_t d_;
  pairwise::weighted_sums<T> image_;
  T *t_, *direction_, *step_, *y_step_, *y_unit_, *turn_, *shift_, *square_, *curve_, *unit_, *sum_, *factor_;
  per_lane<T> now_;                           // squares of the residuals
  per_lane<double> first_, bound_, largest_;  // largest: eigenvalue of C + ridge, roughly and from below
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
