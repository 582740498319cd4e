// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/kept_weights.hpp"
#include "heed/local_linear/cholesky.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// C y = q - mean key by Cholesky factors, in double whatever T is, for a vector of double of a tile's lanes at a time:
//
//   C = sum_j p_j (k_j - c)(k_j - c)^T - m m^T + ridge,   c the mean key as T,   m = sum_j p_j (k_j - c)
//
// With few keys the smaller matrix of the keys among themselves takes its place: for the rows of X,
// x_j = sqrt(p_j) (k_j - mean), and r = q - mean, X y = (X X^T + ridge)^-1 X r and y = (r - X^T X y) / ridge.
//
// The weights p_j (1 + (k_j - c - m) . y) are made in double too: where C is nearly singular y is long, and its
// product with a key loses to rounding what the ridge is about.
template <class T> class direct_solver {
 public:
  using matrix = lane_matrix<double>;
  using batch = simd::batch<double>;
  static constexpr index_t w = simd::width<T>, wide = simd::width<double>, groups = tile::max_lanes<T> / wide;
  static constexpr index_t depth = 8;  // keys whose products join the matrix at once

  direct_solver(const problem<T>& p, heed::detail::arena& memory)
      : d_(p.d),
        n_(matrix::padded(p.d)),
        storage_(memory.take<double>(matrix::size(p.d))),
        x_(memory.take<double>(depth * n_ * wide)),
        mean_(memory.take<double>(2 * groups * n_ * wide)),
        y_(memory.take<double>(groups * n_ * wide)),
        sum_(memory.take<double>(groups * n_ * wide)),
        total_(memory.take<double>(groups * wide)),
        gain_(memory.take<double>(groups * wide)),
        lost_(memory.take<double>(groups * wide)),
        roots_(memory.take<double>(few(p.d) * wide)),
        among_keys_(memory.take<double>(groups * matrix::padded(few(p.d)) * wide)),
        p_(memory.take<T>(pairwise::score_tiles<T>::most_keys * w)),
        keys_(memory.take<T>(few(p.d) * p.d)) {}

  // Up to so many keys the matrix of the keys is the smaller one, and the other is singular but for the ridge.
  static constexpr index_t few(index_t d) { return d; }

  // Slopes of the lanes of a group, from q and mean keys [d][lane] and one ridge per lane
  HEED_NOINLINE void solve(tile_weights<T>& weights, index_t group, const T* q, const T* mean, const double* ridge) {
    const index_t lane = group * wide, row = weights.row();
    double *const c = at(mean_, group), *const y = at(y_, group);
    for (index_t d = 0; d < n_; ++d)
      simd::store(c + d * wide, d < d_ ? simd::load_double(mean + d * row + lane) : batch(0.0));
    const batch penalty = simd::load(ridge + lane);
    simd::store(lost_ + lane, batch(0.0));
    few_ = weights.keys() <= few(d_);
    if (few_)
      solve_among_keys(weights, lane, q + lane, row, c, y, penalty);
    else
      solve_among_dims(weights, lane, q + lane, row, c, y, penalty);
  }

  double slope(index_t lane, index_t d) const { return at(y_, lane / wide)[d * wide + lane % wide]; }

  // Before the weights of a tile's first keys
  void begin_weights(index_t group) {
    std::fill(at(sum_, group), at(sum_, group) + n_ * wide, 0.0);
    std::fill(total_ + group * wide, total_ + (group + 1) * wide, 0.0);
    next_[static_cast<std::size_t>(group)] = 0;
  }
  // The weights of the group's lanes in `which`, in place of those at out [key][lane] (of the tile's first key)
  HEED_NOINLINE void weigh(index_t group, std::uint64_t which, const pairwise::weight_block& b,
                           const tile::known_weights<T>& p, const T* k, index_t k_row, T* out) {
    const index_t lane = group * wide, x = lane / w;
    if (x < b.from || x >= b.to) return;
    tile::copy_weights(p.at(b.first, x * w), b.keys, p_);
    batch total = simd::load(total_ + lane);
    for (index_t j = 0; j < b.keys; j += 4) {
      const index_t count = std::min<index_t>(4, b.keys - j);
      batch weight[4];
      weigh_keys(group, lane % w, j, count, k + (b.first + j) * k_row, k_row, weight);
      for (index_t i = 0; i < count; ++i) {
        total += weight[i];
        double each[std::size_t{wide}];
        simd::store(&each[0], weight[i]);
        for (index_t l = 0; l < wide; ++l)
          if ((which >> (lane + l) & 1) != 0) out[(b.first + j + i) * p.stride + lane + l] = static_cast<T>(each[l]);
      }
    }
    simd::store(total_ + lane, total);
  }

  // After the last weights: |C y - r| / |r| of a lane, r = q - mean key, or by how much its weights do not add up to 1
  double residual(index_t lane, const T* q, index_t row, double ridge) const {
    const index_t g = lane / wide, l = lane % wide;
    double rest = 0, all = 0;
    for (index_t d = 0; d < d_; ++d) {
      const index_t i = d * wide + l;
      const double* const c = at(mean_, g);
      const double r = static_cast<double>(q[d * row + lane]) - c[i] - rest_of(c)[i];
      const double image = at(sum_, g)[i] + ridge * at(y_, g)[i];
      rest += (r - image) * (r - image), all += r * r;
    }
    const double missing = std::abs(1 - total_[lane]);
    const double left = rest <= missing * missing * all ? missing : std::sqrt(rest / all);
    return all > 0 ? left < lost_[lane] ? lost_[lane] : left : 0;
  }

 private:
  // X y of a group, a number per key
  double* solution(index_t group) const { return among_keys_ + group * matrix::padded(few(d_)) * wide; }
  // m of a group, behind the c of all
  double* rest_of(double* c) const { return c + groups * n_ * wide; }
  const double* rest_of(const double* c) const { return c + groups * n_ * wide; }
  double* at(double* x, index_t group) const { return x + group * n_ * wide; }
  const double* at(const double* x, index_t group) const { return x + group * n_ * wide; }

  // c: the mean key as T; y: the slope
  void solve_among_dims(tile_weights<T>& weights, index_t lane, const T* q, index_t row, double* c, double* y,
                        batch penalty) {
    double* const first = y;
    std::fill(first, first + n_ * wide, 0.0);
    matrix_ = matrix(storage_, d_);
    const batch sum = add_moments(weights, lane, c, first);
    const batch gain = reciprocal(sum);
    simd::store(gain_ + lane, gain);
    batch trace(0.0);
    for (index_t i = 0; i < n_; ++i) {
      const batch m = simd::load(first + i * wide) * gain;
      simd::store(first + i * wide, m);
      for (index_t j = 0; j <= i; ++j) {
        double* const e = matrix_.entry(i, j);
        simd::store(e, simd::load(e) * gain - m * simd::load(first + j * wide));
      }
      trace += simd::load(matrix_.entry(i, i));
    }
    factor(d_, trace, penalty);
    for (index_t d = 0; d < n_; ++d) {
      const batch m = simd::load(first + d * wide);
      simd::store(rest_of(c) + d * wide, m);
      const batch r = d < d_ ? simd::load_double(q + d * row) - simd::load(c + d * wide) - m : batch(0.0);
      simd::store(y + d * wide, r);
    }
    matrix_.solve(y);
  }

  void solve_among_keys(tile_weights<T>& weights, index_t lane, const T* q, index_t row, double* c, double* y,
                        batch penalty) {
    const index_t keys = collect(weights, lane), order = matrix::padded(keys);
    batch sum(0.0);
    for (index_t j = 0; j < keys; ++j) sum = simd::fma(root(j), root(j), sum);
    const batch gain = reciprocal(sum), unit = simd::sqrt(gain);
    simd::store(gain_ + lane, gain);
    matrix_ = matrix(storage_, keys);
    matrix_.clear();
    double* const b = solution(lane / wide);  // X r, then X y
    std::fill(b, b + order * wide, 0.0);
    batch trace(0.0);
    for (index_t first = 0; first < d_; first += depth) {
      const index_t count = std::min(depth, d_ - first);
      for (index_t d = first; d < first + count; ++d) {
        batch m(0.0);
        const batch start = simd::load(c + d * wide);
        for (index_t j = 0; j < keys; ++j) m = simd::fma(root(j) * root(j), simd::rounded(key(j, d) - start), m);
        m = m * gain;
        const batch r = simd::rounded(simd::load_double(q + d * row) - start) - m;
        simd::store(rest_of(c) + d * wide, m);
        double* const x = x_ + (d - first) * order * wide;
        for (index_t j = 0; j < order; ++j) {
          const batch each = j < keys ? root(j) * unit * (simd::rounded(key(j, d) - start) - m) : batch(0.0);
          simd::store(x + j * wide, each);
          simd::store(b + j * wide, simd::fma(each, r, simd::load(b + j * wide)));
          trace = simd::fma(each, each, trace);
        }
      }
      matrix_.add_products(x_, count);
    }
    // sum_j sqrt(p_j) x_j is 0, and so is sum_j sqrt(p_j) (X y)_j: the square of sqrt(p) joins the matrix, which would
    // be singular but for the ridge, and changes nothing else
    const batch spread = simd::sqrt(trace / batch(static_cast<double>(std::max<index_t>(1, keys))));
    for (index_t j = 0; j < order; ++j) simd::store(x_ + j * wide, j < keys ? root(j) * unit * spread : batch(0.0));
    matrix_.add_products(x_, 1);
    factor(keys, trace, penalty);
    matrix_.solve(b);
    batch excess(0.0);
    for (index_t j = 0; j < keys; ++j) excess = simd::fma(root(j) * unit, simd::load(b + j * wide), excess);
    for (index_t j = 0; j < keys; ++j) simd::store(b + j * wide, simd::load(b + j * wide) - root(j) * unit * excess);
    for (index_t d = 0; d < d_; ++d) {
      const batch start = simd::load(c + d * wide), m = simd::load(rest_of(c) + d * wide);
      batch rest = simd::rounded(simd::load_double(q + d * row) - start) - m;
      for (index_t j = 0; j < keys; ++j)
        rest = rest - root(j) * unit * (simd::rounded(key(j, d) - start) - m) * simd::load(b + j * wide);
      simd::store(y + d * wide, rest / penalty);
    }
    simd::store(lost_ + lane, lost_among_keys(keys, trace));
  }
  // What rounding may have moved X y by: |C y - r| is 0 by the making of y, whatever the factors are worth. The
  // variance over the smallest pivot; all, where there is none for a key that has a weight.
  batch lost_among_keys(index_t keys, batch trace) const {
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

  // All keys and the roots of their weights. Returns how many they are.
  index_t collect(tile_weights<T>& weights, index_t lane) {
    index_t keys = 0;
    const index_t x = lane / w;
    weights.each([&](const pairwise::key_tile<T>& keys_at, const tile::known_weights<T>& p) {
      for (index_t i = 0; i < keys_at.count; ++i) {
        const pairwise::weight_block& b = keys_at.block[i];
        if (x < b.from || x >= b.to) continue;
        tile::copy_weights(p.at(b.first, x * w), b.keys, p_);
        for (index_t j = 0; j < b.keys; ++j, ++keys) {
          std::copy_n(keys_at.k.row(b.first + j), d_, keys_ + keys * d_);
          simd::store(roots_ + keys * wide, simd::sqrt(simd::load_double(p_ + j * w + lane % w)));
        }
      }
    });
    return keys;
  }

  static batch reciprocal(batch x) { return simd::select<double>(x == batch(0.0), batch(0.0), batch(1.0) / x); }
  // Of the matrix plus the ridge
  void factor(index_t order, batch trace, batch penalty) {
    for (index_t i = 0; i < matrix_.order(); ++i) {
      double* const e = matrix_.entry(i, i);
      simd::store(e, i < order ? simd::load(e) + penalty : batch(1.0));
    }
    double least[std::size_t{wide}];
    simd::store(&least[0], trace * batch(2.2e-16));
    matrix_.factor(&least[0]);
  }

  // The matrix and `first`: sums over the keys of p (k - c)(k - c)^T and p (k - c). Returns the sum of p.
  batch add_moments(tile_weights<T>& weights, index_t lane, const double* c, double* first) {
    batch sum(0.0);
    matrix_.clear();
    const index_t x = lane / w;
    weights.each([&](const pairwise::key_tile<T>& keys, const tile::known_weights<T>& p) {
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        if (x < b.from || x >= b.to) continue;
        tile::copy_weights(p.at(b.first, x * w), b.keys, p_);
        for (index_t j = 0; j < b.keys; j += depth) {
          const index_t count = std::min(depth, b.keys - j);
          sum += centre(j, lane % w, count, keys.k.row(b.first + j), keys.k.stride, c, first);
          matrix_.add_products(x_, count);
        }
      }
    });
    return sum;
  }
  // x = sqrt(p) (k - c) for `count` keys from j on; adds p (k - c) to first. Returns the sum of p.
  batch centre(index_t j, index_t lane, index_t count, const T* k, index_t k_row, const double* c, double* first) {
    batch root[depth], sum(0.0);
    for (index_t i = 0; i < count; ++i) {
      const batch p = simd::load_double(p_ + (j + i) * w + lane);
      sum += p;
      root[i] = simd::sqrt(p);
    }
    for (index_t d = 0; d < n_; ++d) {
      const batch centre = simd::load(c + d * wide);
      batch total = simd::load(first + d * wide);
      for (index_t i = 0; i < count; ++i) {
        const batch key(d < d_ ? static_cast<double>(k[i * k_row + d]) : 0.0);
        const batch x = root[i] * (key - centre);
        simd::store(x_ + (i * n_ + d) * wide, x);
        total = simd::fma(root[i], x, total);
      }
      simd::store(first + d * wide, total);
    }
    return sum;
  }

  // p (1 + (k - c - m) . y) of up to 4 keys, into the sums too
  void weigh_keys(index_t group, index_t lane, index_t j, index_t count, const T* k, index_t k_row, batch* weight) {
    const double *const y = at(y_, group), *const c = at(mean_, group), *const m = rest_of(c);
    double* const sum = at(sum_, group);
    const batch gain = simd::load(gain_ + group * wide);
    const auto centred = [&](index_t i, index_t d) {  // in this order: what keys have in common leaves first
      return batch(static_cast<double>(k[i * k_row + d])) - simd::load(c + d * wide) - simd::load(m + d * wide);
    };
    for (index_t i = 0; i < count; ++i) weight[i] = batch(1.0);
    for (index_t d = 0; !few_ && d < d_; ++d) {
      const batch slope = simd::load(y + d * wide);
      for (index_t i = 0; i < count; ++i) weight[i] = simd::fma(centred(i, d), slope, weight[i]);
    }
    const double* const known = solution(group) + next_[static_cast<std::size_t>(group)] * wide;
    next_[static_cast<std::size_t>(group)] += count;
    for (index_t i = 0; i < count; ++i) {
      const batch p = gain * simd::load_double(p_ + (j + i) * w + lane);
      weight[i] = few_ ? simd::fma(simd::sqrt(p), simd::load(known + i * wide), p)
                       : simd::select<double>(p == batch(0.0), batch(0.0), p * weight[i]);
    }
    for (index_t d = 0; d < d_; ++d) {
      batch image = simd::load(sum + d * wide);
      for (index_t i = 0; i < count; ++i) image = simd::fma(centred(i, d), weight[i], image);
      simd::store(sum + d * wide, image);
    }
  }

  index_t d_, n_;
  double *storage_, *x_, *mean_, *y_, *sum_, *total_, *gain_, *lost_, *roots_, *among_keys_;
  std::array<index_t, static_cast<std::size_t>(groups)> next_{};  // keys weighed so far
  bool few_ = false;
  T *p_, *keys_;
  matrix matrix_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
