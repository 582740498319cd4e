// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/weights.hpp"
#include "heed/tile/solve.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// C y = r for the lanes of a tile by conjugate gradients, without a matrix: with t_j = (k_j - mean) . x
//
//   C x = sum_j p_j t_j k_j - (sum_j p_j t_j) mean + ridge x
//
// is one product with the keys, one weight step and one sum of keys. A lane stops by its own residual, the tile with
// its last lane. No preconditioner, no first guess: the diagonal, the covariance of a tile's keys, its mean weights and
// the slopes of the tile before were tried, see docs/kernels/local_linear.md.
template <class T> class conjugate_gradients {
 public:
  static constexpr index_t w = simd::width<T>, lanes = tile::query_tile<T>::most_rows;

  conjugate_gradients(const problem<T>& p, heed::detail::arena& memory)
      : d_(p.d),
        image_(p.d, memory),
        t_(memory.take<T>(lanes * tile::query_tile<T>::most_keys)),
        direction_(memory.take<T>(lanes * p.d)),
        per_lane_(memory.take<T>(8 * lanes)) {}

  struct outcome {
    index_t iterations = 0;              // of the tile
    std::array<index_t, lanes> each;     // of a lane
    std::array<double, lanes> residual;  // |C y - r| / |r|
  };

  // y from 0 on for the lanes in `which`, r = q - mean; all [d][lane]; one ridge per lane. r is used up.
  outcome solve(tile_weights<T>& weights, std::uint64_t which, const T* q, const T* mean, const T* ridge, T* r, T* y,
                double tolerance, index_t most) {
    const index_t row = weights.row();
    outcome out;
    out.each.fill(0), out.residual.fill(0);
    std::array<double, lanes> bound, first, largest;  // largest: of the eigenvalues, roughly and from below
    largest.fill(0);
    T *const square = lane_values(0), *const step = lane_values(1), *const turn = lane_values(2),
             *const shift = lane_values(3), *const curve = lane_values(4);
    std::copy(r, r + d_ * row, direction_);
    std::fill(y, y + d_ * row, T(0));
    tile::lane_dot(r, r, row, d_, row, square);
    tile::lane_dot(mean, direction_, row, d_, row, shift);
    for (index_t l = 0; l < row; ++l) {
      first[at(l)] = static_cast<double>(square[l]);
      bound[at(l)] = tolerance * tolerance * first[at(l)];
      if (!(square[l] > T(0))) which &= ~bit(l);
    }
    std::uint64_t active = which;
    std::fill(step, step + row, T(0));
    std::array<T, lanes> now;
    std::copy(square, square + row, now.begin());
    while (active != 0 && out.iterations < most) {
      apply(weights, direction_, mean, shift, ridge, curve);
      for (index_t l = 0; l < row; ++l) {
        if ((active & bit(l)) != 0 && !(curve[l] > T(0))) active &= ~bit(l);  // rounding ate the ridge
        const T before = step[l];
        step[l] = (active & bit(l)) != 0 ? now[at(l)] / curve[l] : T(0);
        if (step[l] > T(0))  // a diagonal entry of the tridiagonal matrix of the Lanczos process
          largest[at(l)] =
              std::max(largest[at(l)], static_cast<double>(T(1) / step[l] + (before > T(0) ? turn[l] / before : T(0))));
      }
      tile::take_step(y, r, direction_, image_.data(), step, row, d_, row, square);
      ++out.iterations;
      for (index_t l = 0; l < row; ++l) {
        turn[l] = T(0);
        if ((active & bit(l)) == 0) continue;
        ++out.each[at(l)];
        turn[l] = square[l] / now[at(l)];
        now[at(l)] = square[l];
        if (!(static_cast<double>(square[l]) > bound[at(l)])) active &= ~bit(l);
      }
      tile::turn(direction_, r, turn, mean, row, d_, row, shift);
    }
    if (loses_to_rounding(which, mean, y, row, tolerance, first, largest)) {
      true_residual(weights, q, mean, ridge, y, r);
      tile::lane_dot(r, r, row, d_, row, now.data());
    }
    for (index_t l = 0; l < row; ++l)
      if ((which & bit(l)) != 0) out.residual[at(l)] = std::sqrt(static_cast<double>(now[at(l)]) / first[at(l)]);
    return out;
  }

 private:
  static constexpr std::size_t at(index_t l) { return static_cast<std::size_t>(l); }
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }
  T* lane_values(index_t i) const { return per_lane_ + i * lanes; }

  // Whether rounding in C y may have come near the tolerance: the recursion of the residual does not see it.
  bool loses_to_rounding(std::uint64_t which, const T* mean, const T* y, index_t row, double tolerance,
                         const std::array<double, lanes>& first, const std::array<double, lanes>& largest) const {
    T *const y2 = lane_values(3), *const mean2 = lane_values(4);
    tile::lane_dot(y, y, row, d_, row, y2);
    tile::lane_dot(mean, mean, row, d_, row, mean2);
    constexpr double unit = std::numeric_limits<T>::epsilon() / 2;
    for (index_t l = 0; l < row; ++l) {
      if ((which & bit(l)) == 0) continue;
      const double spread = std::sqrt(largest[at(l)]);
      const double image =
          std::sqrt(static_cast<double>(y2[l])) * spread * (spread + std::sqrt(static_cast<double>(mean2[l])));
      if (unit * image > tolerance * std::sqrt(first[at(l)])) return true;
    }
    return false;
  }

  // r <- q - mean - C y: what the recursion of the residual may have lost to rounding
  void true_residual(tile_weights<T>& weights, const T* q, const T* mean, const T* ridge, const T* y, T* r) {
    const index_t row = weights.row();
    T *const shift = lane_values(3), *const curve = lane_values(4);
    tile::lane_dot(mean, y, row, d_, row, shift);
    apply(weights, y, mean, shift, ridge, curve);
    for (index_t i = 0; i < d_ * row; i += w)
      simd::store(r + i, simd::load(q + i) - simd::load(mean + i) - simd::load(image_.data() + i));
  }

  // image = C x; curve = x . C x
  void apply(tile_weights<T>& weights, const T* x, const T* mean, const T* shift, const T* ridge, T* curve) {
    const index_t row = weights.row();
    T* const sum = lane_values(5);
    std::fill(sum, sum + row, T(0));
    image_.begin(weights.vectors(), lane_values(6));
    weights.each([&](const tile::key_tile& keys, const tile::known_weights<T>& p, const T* k, index_t k_row) {
      for (index_t i = 0; i < keys.count; ++i) {
        const tile::weight_block& b = keys.block[at(i)];
        key_products(k, k_row, b, x, d_, row, t_);
        const index_t lane = b.from * w;
        tile::product(p.at(b.first, lane), b.keys, b.to - b.from, t_ + b.first * row + lane, shift + lane, sum + lane);
        image_.add(k, k_row, t_, b);
      }
    });
    image_.finish();
    tile::complete_image(image_.data(), sum, mean, ridge, x, row, d_, row, curve);
  }

  index_t d_;
  tile::lane_sums<T> image_;
  T *t_, *direction_, *per_lane_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
