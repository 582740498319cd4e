// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/direct.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Solves the adjoint of backward too: C w = u, u = sum_j p_j b_j (k_j - mean), for numbers b_j about their mean. With
// few keys w = X^T (X X^T + ridge)^-1 a, a_j = sqrt(p_j) b_j, in which nothing is divided by the ridge.
template <class T> class adjoint_solver : public direct_solver<T> {
 public:
  using base = direct_factors<T>;
  using base::w, base::wide, base::d_, base::n_, base::at, base::c_, base::m_, base::y_, base::sum_, base::total_,
      base::inv_sum_, base::rounding_, base::few_, base::matrix_, base::p_, base::solution, base::root, base::key;
  using typename base::batch, typename base::matrix;
  using direct_solver<T>::direct_solver;

  // Finds the solutions of the adjoint; slope() returns them. numbers(keys): b [key][lane] of a tile, for the tiles in
  // their order; about: what is subtracted from b first, per lane, to keep digits
  template <class Numbers>
  void solve_adjoint(tile_weights<T>& weights, index_t group, Numbers numbers, const T* about, const T* mean,
                     const double* ridge) {
    const batch penalty = this->begin(weights, group, mean, ridge);
    const batch shift = simd::load_double(about + group * wide);
    if (few_)
      solve_adjoint_among_keys(weights, group, numbers, shift, penalty);
    else
      solve_adjoint_among_dims(weights, group, numbers, shift, penalty);
  }
  // |C w - u| / |u| of a lane after solve_adjoint, or what rounding may have made of it
  double adjoint_residual(index_t lane) const { return rounding_[lane]; }

 private:
  template <class Numbers>
  void solve_adjoint_among_dims(tile_weights<T>& weights, index_t group, Numbers numbers, batch shift, batch penalty) {
    double *const u = solution(group), *const x = at(y_, group), *const sum = at(sum_, group);
    this->factor_among_dims(weights, group, penalty);
    const batch zero(0.0), inv_sum = simd::load(inv_sum_ + group * wide);
    std::fill(u, u + n_ * wide, 0.0);
    batch total = zero;
    const auto add = [&](index_t keys, const T* k, index_t k_row, const T* p, const T* b) {
      for (index_t j = 0; j < keys; ++j) {
        const batch weight = simd::load_double(p + j * w),
                    all = weight * (simd::load_double(b + j * weights.row()) - shift);
        const batch each = simd::select<double>(weight == zero, zero, all);
        total += each;
        for (index_t d = 0; d < d_; ++d)
          simd::store(u + d * wide, simd::fma(each, shifted(group, k[j * k_row + d], d), simd::load(u + d * wide)));
      }
    };
    this->each_block(weights, group * wide, add, numbers);
    for (index_t d = 0; d < n_; ++d) {
      const batch m = simd::load(at(m_, group) + d * wide);
      simd::store(u + d * wide, inv_sum * (simd::load(u + d * wide) - total * m));
    }
    std::copy(u, u + n_ * wide, x);
    matrix_.solve(x);
    std::fill(sum, sum + n_ * wide, 0.0);
    this->each_block(weights, group * wide, [&](index_t keys, const T* k, index_t k_row, const T* p, const T*) {
      for (index_t j = 0; j < keys; ++j) add_image(group, k + j * k_row, inv_sum * simd::load_double(p + j * w));
    });
    batch rest = zero, all = zero;
    for (index_t d = 0; d < d_; ++d) {
      const batch right = simd::load(u + d * wide);
      const batch left = right - simd::load(sum + d * wide) - penalty * simd::load(x + d * wide);
      rest = simd::fma(left, left, rest), all = simd::fma(right, right, all);
    }
    simd::store(rounding_ + group * wide,
                simd::select<double>(all > zero, simd::sqrt(simd::divide<double>(rest, all)), zero));
  }
  batch shifted(index_t group, T k, index_t d) const {
    return batch(static_cast<double>(k)) - simd::load(at(c_, group) + d * wide);
  }
  // sum += weight (x . y) x, x = k - c - m
  void add_image(index_t group, const T* k, batch weight) {
    const double *const y = at(y_, group), *const m = at(m_, group);
    double* const sum = at(sum_, group);
    batch product(0.0);
    for (index_t d = 0; d < d_; ++d)
      product = simd::fma(shifted(group, k[d], d) - simd::load(m + d * wide), simd::load(y + d * wide), product);
    for (index_t d = 0; d < d_; ++d)
      simd::store(sum + d * wide, simd::fma(shifted(group, k[d], d) - simd::load(m + d * wide), weight * product,
                                            simd::load(sum + d * wide)));
  }

  template <class Numbers>
  void solve_adjoint_among_keys(tile_weights<T>& weights, index_t group, Numbers numbers, batch shift, batch penalty) {
    const index_t keys = this->collect(weights, group, numbers);
    double* const b = solution(group);  // the numbers, then a, then (X X^T + ridge)^-1 a
    const batch zero(0.0), inv_sum = simd::load(inv_sum_ + group * wide), unit = simd::sqrt(inv_sum);
    batch mean = zero;
    for (index_t j = 0; j < keys; ++j) {
      const batch each = simd::select<double>(root(j) == zero, zero, simd::load(b + j * wide) - shift);
      simd::store(b + j * wide, each);
      mean = simd::fma(root(j) * root(j), each, mean);
    }
    mean = mean * inv_sum;
    for (index_t j = 0; j < keys; ++j) simd::store(b + j * wide, root(j) * unit * (simd::load(b + j * wide) - mean));
    std::fill(b + keys * wide, b + matrix::padded(keys) * wide, 0.0);
    this->factor_among_keys(group, keys, nullptr, 0, penalty);
    this->solve_for_keys(group, keys);
    for (index_t d = 0; d < d_; ++d) {
      const batch c = simd::load(at(c_, group) + d * wide), m = simd::load(at(m_, group) + d * wide);
      batch sum = zero;
      for (index_t j = 0; j < keys; ++j)
        sum = simd::fma(root(j) * unit * (simd::rounded(key(j, d) - c) - m), simd::load(b + j * wide), sum);
      simd::store(at(y_, group) + d * wide, sum);
    }
  }
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
