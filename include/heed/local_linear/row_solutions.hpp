// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The solutions of backward for a tile of queries in lanes: weights, mean keys and slopes y, read or made anew; with
// g = dout_i
//
//   b_j = g . v_j;   u = sum_j p_j (b_j - mean of b)(k_j - mean);   C x = u, the second solve, with forward's C
//
// and w = -x.

#include "heed/local_linear/pair_gradients.hpp"
#include "heed/local_linear/tile_solver.hpp"
#include "heed/local_linear/value_products.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> class row_solutions {
 public:
  using tile_type = pairwise::score_tiles<T>;
  using visited = pairwise::key_tile<T>;
  using known = tile::known_weights<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows;

  row_solutions(const gradient_problem<T>& p, heed::detail::arena& memory)
      : p_(p), weights_(p, memory), values_(p, memory), sums_(p.d, memory), solver_(p, memory) {
    for (T** x : {&mean_, &y_, &w_, &r_, &q_}) *x = memory.take<T>(lanes * p.d);
    for (T** x : {&t_, &r_pairs_}) *x = memory.take<T>(lanes * tile_type::most_keys);
    for (T** x : {&b_mean_, &deviation_, &total_, &squares_, &factor_}) *x = memory.take<T>(lanes);
  }

  // Solves for the rows of a tile.
  void solve(const pairwise::sequence& s, index_t kv_head, const pairwise::row_tile& rows) {
    rows_ = rows;
    weights_.begin(s, kv_head, rows_, mean_, {p_.lse.data() != nullptr, p_.knows_mean()});
    find_slopes(s);
    if (p_.wants_adjoint()) {
      values_.begin(s, rows_, weights_.row());
      find_mean_values();
      find_adjoints();
    } else {
      clear_adjoints();
    }
  }
  const tally& counts() const { return solver_.counts(); }

 protected:
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }
  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();

  // Returns the lanes of x [row][lane] that hold something that is not finite.
  std::uint64_t nonfinite_lanes(const T* x, index_t rows) const {
    const index_t row = weights_.row();
    std::uint64_t out = 0;
    if (tile::all_finite(x, row, rows, row)) return out;
    for (index_t i = 0; i < rows * row; ++i)
      if (!std::isfinite(x[i])) out |= bit(i % row);
    return out;
  }
  void fill(T* x, index_t rows, std::uint64_t which, T value) const {
    for (index_t l = 0; which != 0 && l < weights_.row(); ++l)
      for (index_t d = 0; (which & bit(l)) != 0 && d < rows; ++d) x[d * weights_.row() + l] = value;
  }
  void clear(T* x, std::uint64_t which) const { fill(x, p_.d, which, T(0)); }
  void spoil(T* x, index_t rows, std::uint64_t which) const { fill(x, rows, which, nan); }

 private:
  // y, and which rows are lost with their weights: they see a key that is not finite, or are not so themselves
  void find_slopes(const pairwise::sequence& s) {
    const index_t row = weights_.row();
    open_ = solver_.begin(weights_, rows_), seen_ = 0, lost_ = weights_.nonfinite_rows();
    for (index_t l = 0; l < row; ++l) {
      if (!heed::detail::equals(weights_.l()[l], T(0))) seen_ |= bit(l);
      if (!std::isfinite(weights_.l()[l])) lost_ |= bit(l);
    }
    if (p_.knows_slope()) {
      const heed::detail::output_tensor given(p_.opt.slope);
      tile::gather<T>(pairwise::find_rows(rows_, given, s).data(), rows_.count, p_.d, T(1), y_, row);
    } else {
      solve_slopes(s);
    }
    clear(y_, ~open_);  // ridge infinite: softmax
    lost_ = (lost_ | nonfinite_lanes(y_, p_.d) | nonfinite_lanes(mean_, p_.d)) & seen_;
    clear(y_, lost_ | ~seen_), clear(mean_, lost_ | ~seen_);
    open_ &= ~lost_;
  }
  void solve_slopes(const pairwise::sequence& s) {
    const index_t row = weights_.row();
    p_.q_format->gather(pairwise::find_rows(rows_, p_.q, s, p_.repeat).data(), rows_.count, p_.d, T(1), q_, row);
    std::fill(y_, y_ + p_.d * row, T(0));
    for (index_t i = 0; i < p_.d * row; i += w) simd::store(r_ + i, simd::load(q_ + i) - simd::load(mean_ + i));
    const auto directly = [&](index_t group) {
      solver_.direct().solve(weights_, group, q_, mean_, solver_.exact_ridge());
    };
    const std::uint64_t direct = solver_.solve(weights_, open_, {q_, mean_, solver_.ridge(), r_, y_}, directly);
    if (direct == 0) return;
    solver_.each_group(weights_, direct, [&](index_t g) { solver_.direct().begin_weights(g); });
    weights_.each([&](const visited& keys, const known& p) {  // their residuals
      for (index_t i = 0; i < keys.count; ++i)
        solver_.each_group(weights_, direct,
                           [&](index_t g) { solver_.direct().weigh(g, direct, keys.block[i], p, keys.k, t_); });
    });
    for (index_t l = 0; l < rows_.count; ++l)
      if ((direct & bit(l)) != 0) solver_.settle(solver_.direct().residual(l, q_, row, solver_.exact_ridge()[l]));
  }

  // The mean of b, and which rows are lost with their values
  void find_mean_values() {
    std::fill(b_mean_, b_mean_ + weights_.row(), T(0));
    values_.rewind();
    weights_.each([&](visited& keys, const known& p) {
      const T* const b = values_.of(weights_, keys);
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& block = keys.block[i];
        const index_t lane = block.from * w;
        add_weighted(p.at(block.first, lane), block.keys, block.to - block.from, b + block.first * p.stride + lane,
                     b_mean_ + lane);
      }
    });
    lost_values_ = lost_ | nonfinite_lanes(values_.dout(), p_.e) | nonfinite_lanes(b_mean_, 1);
    if (values_.nonfinite()) lost_values_ |= lanes_of_nonfinite_values();
    lost_values_ &= seen_;
    spoil(b_mean_, 1, lost_values_);
  }
  // Which lanes see a value that is not finite: what their scores say
  std::uint64_t lanes_of_nonfinite_values() {
    std::uint64_t out = 0;
    weights_.each_with_scores([&](visited& keys, const known&) {
      weights_.copy_values(keys);
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        pairwise::note_seen<T>({weights_.scores(), weights_.row(), keys.keys, weights_.row()}, b, seen_keys_);
        for (index_t j = 0; j < b.keys; ++j)
          if (!tile::all_finite(keys.v.row(b.first + j), keys.v.stride, 1, p_.e)) out |= seen_keys_[j];
      }
    });
    return out;
  }

  // w = -C^-1 u
  void find_adjoints() {
    const index_t row = weights_.row();
    T* const u = q_;
    sum_about_means();
    for (index_t d = 0; d < p_.d; ++d)
      for (index_t l = 0; l < row; l += w) {
        const simd::batch<T> sum = simd::load(sums_.data() + d * row + l);
        simd::store(u + d * row + l, sum - simd::load(total_ + l) * simd::load(mean_ + d * row + l));
      }
    std::copy(u, u + p_.d * row, r_);
    std::fill(w_, w_ + p_.d * row, T(0));
    for (index_t l = 0; l < row; ++l) deviation_[l] = std::sqrt(squares_[l]);
    lane_systems<T> c{u, mean_, solver_.ridge(), r_, w_};
    c.centred = false, c.unit = deviation_;
    const auto directly = [&](index_t group) {
      values_.rewind();
      solver_.direct().solve_adjoint(
          weights_, group, [&](visited& keys) { return values_.of(weights_, keys); }, b_mean_, mean_,
          solver_.exact_ridge());
    };
    const std::uint64_t direct = solver_.solve(weights_, open_ & ~lost_values_, c, directly);
    for (index_t l = 0; l < rows_.count; ++l)
      if ((direct & bit(l)) != 0) solver_.settle(solver_.direct().adjoint_residual(l));
    for (index_t i = 0; i < p_.d * row; i += w) simd::store(w_ + i, simd::batch<T>(T(0)) - simd::load(w_ + i));
    lost_values_ |= nonfinite_lanes(w_, p_.d) & seen_;
    clear(w_, lost_values_), spoil(b_mean_, 1, lost_values_);
  }
  // The sums of p (b - mean of b) k and of p (b - mean of b)
  void sum_about_means() {
    std::fill(total_, total_ + weights_.row(), T(0)), std::fill(squares_, squares_ + weights_.row(), T(0));
    sums_.begin(weights_.vectors(), factor_);
    values_.rewind();
    weights_.each([&](visited& keys, const known& p) {
      const T* const b = values_.of(weights_, keys);
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& block = keys.block[i];
        const index_t lane = block.from * w, at = block.first * p.stride + lane;
        weigh_about(p.at(block.first, lane), block.keys, block.to - block.from, b + at, b_mean_ + lane, t_ + at,
                    total_ + lane, squares_ + lane);
        sums_.add(keys.k, {t_, p.stride, keys.keys, p.stride}, block);
      }
    });
    sums_.finish();
  }
  void clear_adjoints() {
    const index_t row = weights_.row();
    std::fill(w_, w_ + p_.d * row, T(0)), std::fill(b_mean_, b_mean_ + row, T(0));
    lost_values_ = lost_;
  }

 protected:
  const gradient_problem<T>& p_;
  tile_weights<T> weights_;
  value_products<T> values_;
  pairwise::weighted_sums<T> sums_;
  tile_solver<T> solver_;
  T *mean_, *y_, *w_, *r_, *q_;  // [d][lane]; r_, q_: to work with
  T *t_, *r_pairs_;              // [key][lane]
  T *b_mean_, *deviation_, *total_, *squares_, *factor_;
  pairwise::row_tile rows_;
  // Lanes: with something to solve; that see some key; not finite; not finite in what dout and values make
  std::uint64_t open_ = 0, seen_ = 0, lost_ = 0, lost_values_ = 0;
  pairwise::seen_keys<T> seen_keys_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
