// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/local_linear/direct_factors.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Solves C y = q - mean key by Cholesky factors, a group of lanes at a time. With few keys, for r = q - mean and the
// matrix X of direct_factors, X y = (X X^T + ridge)^-1 X r and y = (r - X^T X y) / ridge.
//
// The weights p_j (1 + (k_j - c - m) . y) are made in double too: where C is nearly singular y is long, and the
// rounding of its product with a key is as large as what the ridge adds.
template <class T> class direct_solver : public direct_factors<T> {
 public:
  using base = direct_factors<T>;
  using base::w, base::wide, base::d_, base::n_, base::at, base::c_, base::m_, base::y_, base::sum_, base::total_,
      base::inv_sum_, base::rounding_, base::few_, base::matrix_, base::p_, base::solution, base::root, base::key;
  using typename base::batch, typename base::matrix;
  using base::groups;
  using direct_factors<T>::direct_factors;

  // Finds the slopes of the lanes of a group, from q and mean keys [d][lane] and one ridge per lane.
  HEED_NOINLINE void solve(tile_weights<T>& weights, index_t group, const T* q, const T* mean, const double* ridge) {
    const index_t lane = group * wide;
    const batch penalty = this->begin(weights, group, mean, ridge);
    if (few_)
      solve_among_keys(weights, group, q + lane, penalty);
    else
      solve_among_dims(weights, group, q + lane, penalty);
  }

  // Prepares for the weights of a group, which weigh then makes block by block.
  void begin_weights(index_t group) {
    std::fill(at(sum_, group), at(sum_, group) + n_ * wide, 0.0);
    std::fill(total_ + group * wide, total_ + (group + 1) * wide, 0.0);
    next_[group] = 0;
  }
  // Writes the weights of the group's lanes in `which` to out [key][lane] of the tile's first key.
  HEED_NOINLINE void weigh(index_t group, std::uint64_t which, const pairwise::weight_block& b,
                           const tile::known_weights<T>& p, const tile::lane_block<const T>& k, T* out) {
    const index_t lane = group * wide;
    if (!this->load_weights(b, p, lane)) return;
    batch total = simd::load(total_ + lane);
    for (index_t j = 0; j < b.keys; j += 4) {
      const index_t count = std::min<index_t>(4, b.keys - j);
      batch weight[4];
      weigh_keys(group, p_ + j * w + lane % w, count, k.row(b.first + j), k.stride, weight);
      for (index_t i = 0; i < count; ++i) {
        total += weight[i];
        tile::lane_array<double, wide> each;
        simd::store(each.data(), weight[i]);
        for (index_t l = 0; l < wide; ++l)
          if ((which >> (lane + l) & 1) != 0) out[(b.first + j + i) * p.stride + lane + l] = static_cast<T>(each[l]);
      }
    }
    simd::store(total_ + lane, total);
  }

  // After the last weights: |C y - r| / |r| of a lane, r = q - mean key, or by how much its weights do not add up to 1
  double residual(index_t lane, const T* q, index_t row, double ridge) const {
    const index_t group = lane / wide;
    double rest = 0, all = 0;
    for (index_t d = 0; d < d_; ++d) {
      const index_t i = d * wide + lane % wide;
      const double r = static_cast<double>(q[d * row + lane]) - at(c_, group)[i] - at(m_, group)[i];
      const double image = at(sum_, group)[i] + ridge * at(y_, group)[i];
      rest += (r - image) * (r - image), all += r * r;
    }
    const double missing = std::abs(1 - total_[lane]);
    const double found = rest <= missing * missing * all ? missing : std::sqrt(rest / all);
    return all > 0 ? found < rounding_[lane] ? rounding_[lane] : found : 0;
  }

 private:
  void solve_among_dims(tile_weights<T>& weights, index_t group, const T* q, batch penalty) {
    double* const y = at(y_, group);
    this->factor_among_dims(weights, group, penalty);
    for (index_t d = 0; d < d_; ++d)
      simd::store(y + d * wide, simd::load_double(q + d * weights.row()) - simd::load(at(c_, group) + d * wide) -
                                    simd::load(at(m_, group) + d * wide));
    std::fill(y + d_ * wide, y + n_ * wide, 0.0);
    matrix_.solve(y);
  }
  void solve_among_keys(tile_weights<T>& weights, index_t group, const T* q, batch penalty) {
    const index_t keys = this->collect(weights, group);
    double* const b = solution(group);  // X r, then X y
    std::fill(b, b + matrix::padded(keys) * wide, 0.0);
    this->factor_among_keys(group, keys, q, weights.row(), penalty);
    this->solve_for_keys(group, keys);
    const batch unit = simd::sqrt(simd::load(inv_sum_ + group * wide));
    for (index_t d = 0; d < d_; ++d) {
      const batch c = simd::load(at(c_, group) + d * wide), m = simd::load(at(m_, group) + d * wide);
      batch rest = simd::rounded(simd::load_double(q + d * weights.row()) - c) - m;
      for (index_t j = 0; j < keys; ++j)
        rest = rest - root(j) * unit * (simd::rounded(key(j, d) - c) - m) * simd::load(b + j * wide);
      simd::store(at(y_, group) + d * wide, simd::divide<double>(rest, penalty));
    }
  }
  // p (1 + (k - c - m) . y) of up to 4 keys, which also join the sum that `residual` reads
  void weigh_keys(index_t group, const T* p, index_t count, const T* k, index_t k_row, batch* weight) {
    const double *const y = at(y_, group), *const c = at(c_, group), *const m = at(m_, group);
    double* const sum = at(sum_, group);
    const batch inv_sum = simd::load(inv_sum_ + group * wide);
    const auto centred = [&](index_t i, index_t d) {  // in this order: what keys have in common leaves first
      return batch(static_cast<double>(k[i * k_row + d])) - simd::load(c + d * wide) - simd::load(m + d * wide);
    };
    for (index_t i = 0; i < count; ++i) weight[i] = batch(1.0);
    for (index_t d = 0; !few_ && d < d_; ++d) {
      const batch slope = simd::load(y + d * wide);
      for (index_t i = 0; i < count; ++i) weight[i] = simd::fma(centred(i, d), slope, weight[i]);
    }
    const double* const known = solution(group) + next_[group] * wide;
    next_[group] += count;
    for (index_t i = 0; i < count; ++i) {
      const batch weighted = inv_sum * simd::load_double(p + i * w);
      weight[i] = few_ ? simd::fma(simd::sqrt(weighted), simd::load(known + i * wide), weighted)
                       : simd::select<double>(weighted == batch(0.0), batch(0.0), weighted * weight[i]);
    }
    for (index_t d = 0; d < d_; ++d) {
      batch image = simd::load(sum + d * wide);
      for (index_t i = 0; i < count; ++i) image = simd::fma(centred(i, d), weight[i], image);
      simd::store(sum + d * wide, image);
    }
  }

  tile::lane_array<index_t, groups> next_{};  // keys weighed so far
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
