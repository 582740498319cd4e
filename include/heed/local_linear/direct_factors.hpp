// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/cholesky.hpp"
#include "heed/local_linear/kept_weights.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// The matrices of the direct solver and their Cholesky factors, in double whatever T is. The lanes of one vector of
// double, a group, are solved at a time:
//
//   C = sum_j p_j (k_j - c)(k_j - c)^T - m m^T + ridge,   c the mean key as T,   m = sum_j p_j (k_j - c)
//
// With few keys the smaller matrix of the keys among themselves takes its place: X X^T + ridge, for the rows of X,
// x_j = sqrt(p_j) (k_j - mean).
template <class T> class direct_factors {
 public:
  using matrix = lane_matrix<double>;
  using batch = simd::batch<double>;
  static constexpr index_t w = simd::width<T>, wide = simd::width<double>, groups = tile::max_lanes<T> / wide;
  static constexpr index_t depth = 8;  // keys whose products join the matrix at once

  direct_factors(const problem<T>& p, heed::detail::arena& memory)
      : d_(p.d),
        n_(matrix::padded(p.d)),
        storage_(memory.take<double>(matrix::size(p.d))),
        x_(memory.take<double>(depth * n_ * wide)),
        roots_(memory.take<double>(few(p.d) * wide)),
        among_keys_(memory.take<double>(groups * matrix::padded(few(p.d)) * wide)),
        p_(memory.take<T>(pairwise::score_tiles<T>::most_keys * w)),
        keys_(memory.take<T>(few(p.d) * p.d)) {
    for (double** x : {&c_, &m_, &y_, &sum_}) *x = memory.take<double>(groups * n_ * wide);
    for (double** x : {&total_, &inv_sum_, &rounding_}) *x = memory.take<double>(groups * wide);
  }

  // Up to so many keys the matrix of the keys is the smaller one, and the other is singular but for the ridge.
  static constexpr index_t few(index_t d) { return d; }

  // Of the solution of a lane
  double slope(index_t lane, index_t d) const { return at(y_, lane / wide)[d * wide + lane % wide]; }

 protected:
  // Where each_block has no numbers to find
  struct no_numbers {
    const T* operator()(pairwise::key_tile<T>&) const { return nullptr; }
  };

  // Takes the mean keys of a group. Returns its ridges.
  batch begin(const tile_weights<T>& weights, index_t group, const T* mean, const double* ridge) {
    const index_t lane = group * wide, row = weights.row();
    double* const c = at(c_, group);
    for (index_t d = 0; d < n_; ++d)
      simd::store(c + d * wide, d < d_ ? simd::load_double(mean + d * row + lane) : batch(0.0));
    simd::store(rounding_ + lane, batch(0.0));
    few_ = weights.keys() <= few(d_);
    return simd::load(ridge + lane);
  }

  // X y of a group, a number per key
  double* solution(index_t group) const { return among_keys_ + group * matrix::padded(few(d_)) * wide; }
  double* at(double* x, index_t group) const { return x + group * n_ * wide; }  // of [d][lane] per group
  static batch reciprocal(batch x) {
    return simd::select<double>(x == batch(0.0), batch(0.0), simd::divide<double>(batch(1.0), x));
  }

  // p_ [key][lane] = the weights of a block, of the vector with this lane. False if the block does not have it.
  bool load_weights(const pairwise::weight_block& b, const tile::known_weights<T>& p, index_t lane) {
    const index_t x = lane / w;
    if (x < b.from || x >= b.to) return false;
    tile::copy_weights(p.at(b.first, x * w), b.keys, p_);
    return true;
  }
  // f(keys, k, k_row, p, b) for every block that has this lane: p [key], a vector of T apart; b [key], a row of lanes
  // apart, of numbers(tile)
  template <class F, class Numbers = no_numbers>
  void each_block(tile_weights<T>& weights, index_t lane, F f, Numbers numbers = {}) {
    weights.each([&](pairwise::key_tile<T>& keys, const tile::known_weights<T>& p) {
      const T* const all = numbers(keys);
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        const T* const x = all == nullptr ? all : all + b.first * weights.row() + lane;
        if (load_weights(b, p, lane)) f(b.keys, keys.k.row(b.first), keys.k.stride, p_ + lane % w, x);
      }
    });
  }

  // Makes C and its factors, and m.
  void factor_among_dims(tile_weights<T>& weights, index_t group, batch penalty) {
    double* const m = at(m_, group);
    std::fill(m, m + n_ * wide, 0.0);
    matrix_ = matrix(storage_, d_);
    const batch inv_sum = reciprocal(add_moments(weights, group));
    simd::store(inv_sum_ + group * wide, inv_sum);
    batch trace(0.0);
    for (index_t i = 0; i < n_; ++i) {
      const batch m_i = simd::load(m + i * wide) * inv_sum;
      simd::store(m + i * wide, m_i);
      for (index_t j = 0; j <= i; ++j) {
        double* const e = matrix_.entry(i, j);
        simd::store(e, simd::load(e) * inv_sum - m_i * simd::load(m + j * wide));
      }
      trace += simd::load(matrix_.entry(i, i));
    }
    factor(d_, trace, penalty);
  }
  // Adds p (k - c)(k - c)^T to the matrix and p (k - c) to m, over the keys. Returns the sum of p.
  batch add_moments(tile_weights<T>& weights, index_t group) {
    batch sum(0.0);
    matrix_.clear();
    each_block(weights, group * wide, [&](index_t keys, const T* k, index_t k_row, const T* p, const T*) {
      for (index_t j = 0; j < keys; j += depth) {
        const index_t count = std::min(depth, keys - j);
        sum += centre(group, p + j * w, count, k + j * k_row, k_row);
        matrix_.add_products(x_, count);
      }
    });
    return sum;
  }
  // x_ = sqrt(p) (k - c) of up to `depth` keys; adds p (k - c) to m. Returns the sum of p.
  batch centre(index_t group, const T* p, index_t count, const T* k, index_t k_row) {
    batch root[depth], sum(0.0);
    for (index_t i = 0; i < count; ++i) {
      const batch weight = simd::load_double(p + i * w);
      sum += weight;
      root[i] = simd::sqrt(weight);
    }
    for (index_t d = 0; d < n_; ++d) {
      const batch centre = simd::load(at(c_, group) + d * wide);
      double* const m = at(m_, group) + d * wide;
      batch total = simd::load(m);
      for (index_t i = 0; i < count; ++i) {
        const batch key(d < d_ ? static_cast<double>(k[i * k_row + d]) : 0.0);
        const batch x = root[i] * (key - centre);
        simd::store(x_ + (i * n_ + d) * wide, x);
        total = simd::fma(root[i], x, total);
      }
      simd::store(m, total);
    }
    return sum;
  }

  // Makes X X^T + ridge and its factors; adds X r to the solution where q is not null.
  void factor_among_keys(index_t group, index_t keys, const T* q, index_t row, batch penalty) {
    const index_t order = matrix::padded(keys);
    const batch inv_sum = simd::load(inv_sum_ + group * wide), unit = simd::sqrt(inv_sum);
    matrix_ = matrix(storage_, keys);
    matrix_.clear();
    const batch trace = add_key_products(group, keys, q, row, inv_sum);
    // sum_j sqrt(p_j) x_j is 0, and so is sum_j sqrt(p_j) (X y)_j: the square of sqrt(p) joins the matrix, which would
    // be singular but for the ridge, and changes nothing else
    const batch spread =
        simd::sqrt(simd::divide<double>(trace, batch(static_cast<double>(std::max<index_t>(1, keys)))));
    for (index_t j = 0; j < order; ++j) simd::store(x_ + j * wide, j < keys ? root(j) * unit * spread : batch(0.0));
    matrix_.add_products(x_, 1);
    factor(keys, trace, penalty);
    simd::store(rounding_ + group * wide, rounding_among_keys(keys, trace));
  }
  // Replaces the solution by (X X^T + ridge)^-1 times it.
  void solve_for_keys(index_t group, index_t keys) {
    double* const b = solution(group);
    const batch unit = simd::sqrt(simd::load(inv_sum_ + group * wide));
    matrix_.solve(b);
    batch excess(0.0);
    for (index_t j = 0; j < keys; ++j) excess = simd::fma(root(j) * unit, simd::load(b + j * wide), excess);
    for (index_t j = 0; j < keys; ++j) simd::store(b + j * wide, simd::load(b + j * wide) - root(j) * unit * excess);
  }
  // Adds X X^T to the matrix and, with q, X r to the solution, `depth` dims at a time; m is found on the way. Returns
  // the trace.
  batch add_key_products(index_t group, index_t keys, const T* q, index_t row, batch inv_sum) {
    const index_t order = matrix::padded(keys);
    const batch unit = simd::sqrt(inv_sum);
    double* const b = solution(group);
    batch trace(0.0);
    for (index_t first = 0; first < d_; first += depth) {
      const index_t count = std::min(depth, d_ - first);
      for (index_t d = first; d < first + count; ++d) {
        batch m(0.0);
        const batch c = simd::load(at(c_, group) + d * wide);
        for (index_t j = 0; j < keys; ++j) m = simd::fma(root(j) * root(j), simd::rounded(key(j, d) - c), m);
        m = m * inv_sum;
        const batch r = q == nullptr ? batch(0.0) : simd::rounded(simd::load_double(q + d * row) - c) - m;
        simd::store(at(m_, group) + d * wide, m);
        double* const x = x_ + (d - first) * order * wide;
        for (index_t j = 0; j < order; ++j) {
          const batch each = j < keys ? root(j) * unit * (simd::rounded(key(j, d) - c) - m) : batch(0.0);
          simd::store(x + j * wide, each);
          simd::store(b + j * wide, simd::fma(each, r, simd::load(b + j * wide)));
          trace = simd::fma(each, each, trace);
        }
      }
      matrix_.add_products(x_, count);
    }
    return trace;
  }
  // What rounding may have moved X y by: |C y - r| is 0 by the making of y, however good the factors are. It is the
  // variance over the smallest pivot, or infinite where a key that has a weight has no pivot.
  batch rounding_among_keys(index_t keys, batch trace) const {
    const batch zero(0.0), all(HUGE_VAL);
    batch largest(0.0);
    for (index_t j = 0; j < keys; ++j) {
      const batch inverse = simd::load(matrix_.entry(j, j));  // of the root of a pivot, 0 for none
      const batch none = simd::select<double>(root(j) > zero, all, zero);
      largest = simd::max(largest, simd::select<double>(inverse > zero, inverse * inverse, none));
    }
    return batch(1.1e-16) * trace * largest;
  }
  batch root(index_t j) const { return simd::load(roots_ + j * wide); }
  batch key(index_t j, index_t d) const { return batch(static_cast<double>(keys_[j * d_ + d])); }

  // Copies all keys and the roots of their weights; with numbers, those to the solution. Returns how many they are.
  template <class Numbers = no_numbers> index_t collect(tile_weights<T>& weights, index_t group, Numbers numbers = {}) {
    index_t all = 0;
    const auto add = [&](index_t keys, const T* k, index_t k_row, const T* p, const T* b) {
      for (index_t j = 0; j < keys; ++j, ++all) {
        std::copy_n(k + j * k_row, d_, keys_ + all * d_);
        simd::store(roots_ + all * wide, simd::sqrt(simd::load_double(p + j * w)));
        if (b != nullptr) simd::store(solution(group) + all * wide, simd::load_double(b + j * weights.row()));
      }
    };
    each_block(weights, group * wide, add, numbers);
    batch sum(0.0);
    for (index_t j = 0; j < all; ++j) sum = simd::fma(root(j), root(j), sum);
    simd::store(inv_sum_ + group * wide, reciprocal(sum));
    return all;
  }

  // Factors the matrix plus the ridge.
  void factor(index_t order, batch trace, batch penalty) {
    for (index_t i = 0; i < matrix_.order(); ++i) {
      double* const e = matrix_.entry(i, i);
      simd::store(e, i < order ? simd::load(e) + penalty : batch(1.0));
    }
    tile::lane_array<double, wide> least;
    simd::store(least.data(), trace * batch(2.2e-16));
    matrix_.factor(least.data());
  }

  index_t d_, n_;
  double *storage_, *x_, *roots_, *among_keys_;
  double *c_, *m_, *y_, *sum_;            // [d][lane], group after group; sum: of the weighted keys about their mean
  double *total_, *inv_sum_, *rounding_;  // one per lane; total: of the weights
  bool few_ = false;
  T *p_, *keys_;
  matrix matrix_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
