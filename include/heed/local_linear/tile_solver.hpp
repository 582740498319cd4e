// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The solves of a tile: which solver takes which lanes, and what is counted of them.

#include <bit>
#include <cmath>

#include "heed/local_linear/conjugate_gradients.hpp"
#include "heed/local_linear/direct_adjoint.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// What a report is made of; sums and maxima, so that no order of tasks shows.
struct tally {
  index_t rows = 0, iterations = 0, tiles = 0, tile_iterations = 0, most = 0, unconverged = 0, direct = 0;
  double residual = 0;

  void add(const tally& x) {
    rows += x.rows, iterations += x.iterations, tiles += x.tiles, tile_iterations += x.tile_iterations;
    most = std::max(most, x.most), unconverged += x.unconverged, direct += x.direct;
    residual = std::max(residual, x.residual);
  }
  local_linear::report report() const {
    const auto mean = [](index_t sum, index_t count) {
      return count == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(count);
    };
    return {residual, mean(iterations, rows), mean(tile_iterations, tiles), most, unconverged, direct};
  }
};

// Solves C x = r for the lanes of a tile, by conjugate gradients, directly, or as solver::automatic says.
template <class T> class tile_solver {
 public:
  static constexpr index_t w = simd::width<T>, lanes = pairwise::score_tiles<T>::most_rows;
  static constexpr index_t wide = adjoint_solver<T>::wide;

  tile_solver(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        ridge_(memory.take<T>(lanes)),
        exact_ridge_(memory.take<double>(lanes)),
        cg_(with<conjugate_gradients<T>>(p, p.solves && p.opt.solver != solver::direct, memory)),
        direct_(with<adjoint_solver<T>>(p, p.solves && p.opt.solver != solver::conjugate_gradient, memory)) {}

  // Reads the ridges of a tile. Returns the lanes that have something to solve: some key and a finite ridge.
  std::uint64_t begin(const tile_weights<T>& weights, const pairwise::row_tile& rows) {
    std::uint64_t open = 0;
    for (index_t l = 0; l < weights.row(); ++l) {
      const double ridge = l < rows.count ? p_.ridge.at(rows.row[l].head) : 1;
      const bool finite = std::isfinite(ridge);
      exact_ridge_[l] = finite ? ridge : 1;
      ridge_[l] = static_cast<T>(
          std::clamp<double>(exact_ridge_[l], std::numeric_limits<T>::min(), std::numeric_limits<T>::max() / 4));
      if (l < rows.count && finite && weights.l()[l] > T(0)) open |= bit(l);
    }
    return open & ~weights.nonfinite_rows();
  }

  // Solves for the lanes `open`; c.r holds the right sides. directly(group) solves for a group of lanes with direct().
  // Returns the lanes that were solved so.
  template <class Directly>
  std::uint64_t solve(tile_weights<T>& weights, std::uint64_t open, lane_systems<T> c, Directly directly) {
    if (open != 0 && p_.opt.solver != solver::direct && !(p_.opt.solver == solver::automatic && few_keys(weights)))
      open = iterate(weights, open, c);
    if (open == 0 || p_.opt.solver == solver::conjugate_gradient) return 0;
    counts_.direct += std::popcount(open);
    each_group(weights, open, [&](index_t g) {
      directly(g);
      for (index_t l = g * wide; l < (g + 1) * wide; ++l)
        for (index_t d = 0; (open & bit(l)) != 0 && d < p_.d; ++d)
          c.y[d * weights.row() + l] = nearest(direct_.slope(l, d));
    });
    return open;
  }

  // Counts a lane that is solved.
  void settle(double residual) {
    const bool converged = residual <= p_.opt.tolerance;  // NaN has not
    counts_.residual = std::max(counts_.residual, std::isnan(residual) ? HUGE_VAL : residual);
    counts_.unconverged += converged ? 0 : 1;
  }

  // f(group) for the groups of lanes that have some of `which`
  template <class F> static void each_group(const tile_weights<T>& weights, std::uint64_t which, F f) {
    for (index_t g = 0; g * wide < weights.row(); ++g)
      if (in_group(which, g)) f(g);
  }
  static bool in_group(std::uint64_t which, index_t g) {
    return (which >> (g * wide) & ((std::uint64_t{1} << wide) - 1)) != 0;
  }
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }

  adjoint_solver<T>& direct() { return direct_; }
  const T* ridge() const { return ridge_; }
  const double* exact_ridge() const { return exact_ridge_; }
  const tally& counts() const { return counts_; }

 private:
  // A solver that the call does not need has no scratch.
  template <class Solver> static Solver with(const problem<T>& p, bool needed, heed::detail::arena& memory) {
    heed::detail::arena none;
    return needed ? Solver(p, memory) : Solver(p, none);
  }

  // With so few keys the matrices cost about what the iterations do, and small ridges make iterations fail.
  // bench/local_linear_bench.cpp, rows solver.
  bool few_keys(const tile_weights<T>& weights) const { return weights.keys() <= p_.d / 4; }

  // Returns what has not converged.
  std::uint64_t iterate(tile_weights<T>& weights, std::uint64_t open, const lane_systems<T>& c) {
    const auto out = cg_.solve(weights, open, c, p_.opt.tolerance, p_.opt.max_iterations);
    counts_.tiles += 1, counts_.tile_iterations += out.iterations;
    std::uint64_t unconverged = 0;
    for (index_t l = 0; l < weights.row(); ++l) {
      if ((open & bit(l)) == 0) continue;
      counts_.rows += 1, counts_.iterations += out.each[l];
      counts_.most = std::max(counts_.most, out.each[l]);
      if (!(out.residual[l] <= p_.opt.tolerance)) unconverged |= bit(l);
      if (p_.opt.solver != solver::automatic || (unconverged & bit(l)) == 0) settle(out.residual[l]);
    }
    return unconverged;
  }
  static T nearest(double x) {
    constexpr double most = std::numeric_limits<T>::max();
    return static_cast<T>(std::clamp(x, -most, most));
  }

  const problem<T>& p_;
  T* ridge_;
  double* exact_ridge_;
  conjugate_gradients<T> cg_;
  adjoint_solver<T> direct_;
  tally counts_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
