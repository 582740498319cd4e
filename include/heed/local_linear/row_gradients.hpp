// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The row pass of backward, a tile of queries in lanes as in forward: weights, mean keys and slopes y, read or made
// anew; with g = dout_i
//
//   b_j = g . v_j;  u = sum_j p_j (b_j - mean of b)(k_j - mean);  C x = u, the second solve, with forward's C
//   ds_j = p_j (a_j c_j - delta), see pair_gradients.hpp;  dq = x + scale sum_j ds_j k_j;  dridge = - x . y
//
// and what the key pass needs of the rows. w stands for -x.

#include "heed/local_linear/pair_gradients.hpp"
#include "heed/local_linear/saved_rows.hpp"
#include "heed/local_linear/tile_solver.hpp"
#include "heed/local_linear/value_products.hpp"
#include "heed/tile/weight_gradients.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> class row_gradients {
 public:
  using tile_type = pairwise::score_tiles<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows;

  row_gradients(const gradient_problem<T>& p, heed::detail::arena& memory)
      : p_(p), weights_(p, memory), values_(p, memory), sums_(p.d, memory), solver_(p, memory) {
    for (T** x : {&mean_, &y_, &w_, &r_, &q_, &dq_}) *x = memory.take<T>(lanes * p.d);
    for (T** x : {&t_, &rows_r_}) *x = memory.take<T>(lanes * tile_type::most_keys);
    for (T** x : {&a_, &c_, &b_mean_, &deviation_, &total_, &squares_, &sum_a_, &sum_c_, &delta_, &dridge_, &dbias_,
                  &factor_})
      *x = memory.take<T>(lanes);
    const index_t pairs = lanes * tile_type::most_keys;
    cap_slopes_ = memory.take<T>(p.scores.has_cap() ? pairs : 0);
    function_slopes_ = memory.take<T>(p.scores.has_function() ? pairs : 0);
  }

  // Rows of a tile that share key/value head kv_head. Where query heads serve several key/value heads, their tasks are
  // one after the other: dq is their sum. first, last: of them
  void run(const pairwise::sequence& s, index_t kv_head, index_t number, const saved_rows<T>& saved, bool first,
           bool last) {
    first_row_ = number * lanes;
    rows_.take(kv_head, p_.group, first_row_, std::min(lanes, p_.rows(s) - first_row_));
    weights_.begin(s, kv_head, rows_, mean_, {p_.lse.data() != nullptr, p_.knows_mean()});
    find_slopes(s);
    if (p_.wants_adjoint()) {
      values_.begin(s, rows_, weights_.row());
      find_mean_values();
      find_adjoints();
    } else {
      clear_adjoints();
    }
    if (p_.wants_ridge()) save_ridges(s, kv_head, saved);
    if (!p_.wants_scores() && !p_.has_key_pass()) return;
    make_offsets();
    sum_pairs();
    if (p_.has_slopes() && (p_.wants_queries() || p_.wants_row_bias())) {
      correct_offsets();
      sum_through_slopes();
    } else {
      if (p_.wants_queries()) finish_sums();
      correct_offsets();
    }
    if (p_.wants_queries()) add_queries(s, first, last);
    if (p_.wants_row_bias()) save_biases(s, kv_head, saved);
    if (p_.has_key_pass()) save(s, kv_head, saved);
  }
  const tally& counts() const { return solver_.counts(); }

 private:
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }
  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  using visited = pairwise::key_tile<T>;
  using known = tile::known_weights<T>;

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
        solver_.each_group(weights_, direct, [&](index_t g) {
          solver_.direct().weigh(g, direct, keys.block[i], p, keys.k, t_);
        });
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

  void make_offsets() {
    const index_t row = weights_.row();
    lane_dot(mean_, y_, row, p_.d, row, a_), lane_dot(mean_, w_, row, p_.d, row, c_);
    for (index_t l = 0; l < row; ++l) a_[l] = T(1) - a_[l], c_[l] = -c_[l], dbias_[l] = T(0);
  }

  // delta and the sums of p a and p c; where nothing is between q . k and the score also the sums of p a c k
  void sum_pairs() {
    for (T* x : {sum_a_, sum_c_, delta_}) std::fill(x, x + weights_.row(), T(0));
    sums_.begin(weights_.vectors(), factor_);
    values_.rewind();
    const bool sums = p_.wants_queries() && !p_.has_slopes();
    weights_.each([&](visited& keys, const known& p) {
      make_score_gradients(keys, p, nullptr, {sum_a_, sum_c_, delta_});
      for (index_t i = 0; sums && i < keys.count; ++i)
        sums_.add(keys.k, {t_, p.stride, keys.keys, p.stride}, keys.block[i]);
    });
    sums_.finish();
  }
  // t_ = p (a c - delta) over the blocks of a tile
  void make_score_gradients(visited& keys, const known& p, const T* delta, const pair_sums<T>& sums) {
    const bool adjoint = p_.wants_scores();
    T* const b = adjoint ? values_.of(weights_, keys) : rows_r_;
    for (index_t i = 0; i < keys.count; ++i) {
      const pairwise::weight_block& block = keys.block[i];
      const index_t lane = block.from * w;
      row_products<T>(keys.k, block, {y_, p.stride, p_.d, p.stride}, t_);
      if (adjoint) row_products<T>(keys.k, block, {w_, p.stride, p_.d, p.stride}, rows_r_);
      score_gradients(p.at(block.first, lane), block.keys, block.to - block.from,
                      pair_products<T>{t_, rows_r_, b, p.stride}.at(block.first, lane),
                      lane_offsets<T>{a_, c_, b_mean_, delta}.at(lane), adjoint, sums.at(lane));
    }
  }
  // The sums of ds k, from those of p a c k: the sum of ds is 0
  void finish_sums() {
    const index_t row = weights_.row();
    for (index_t d = 0; d < p_.d; ++d)
      for (index_t l = 0; l < row; l += w) {
        T* const sum = sums_.data() + d * row + l;
        simd::store(sum, simd::load(sum) - simd::load(delta_ + l) * simd::load(mean_ + d * row + l));
      }
  }
  // The sums of ds k and ds where ds goes through the slopes of the score function, and then of the soft-cap
  void sum_through_slopes() {
    sums_.begin(weights_.vectors(), factor_);
    values_.rewind();
    weights_.each_with_slopes({nullptr, cap_slopes_, function_slopes_}, [&](visited& keys, const known& p) {
      make_score_gradients(keys, p, delta_, {total_, squares_, r_});
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        const tile::lane_block<T> ds = b.of(tile::lane_block<T>{t_, p.stride, keys.keys, p.stride});
        const index_t at = ds.data - t_;
        if (function_slopes_ != nullptr) tile::multiply_slopes<T>(ds, function_slopes_ + at);
        tile::sum_rows<T>(ds, dbias_ + b.from * w);
        if (cap_slopes_ != nullptr) tile::multiply_slopes<T>(ds, cap_slopes_ + at);
        sums_.add(keys.k, {t_, p.stride, keys.keys, p.stride}, b);
      }
    });
    sums_.finish();
  }
  // The sum of p a is 1 and that of p c is 0, but for the rounding of products with long y and w, which moves all a or c
  // of a row together. The key pass multiplies with y, w and dout: there it would count.
  void correct_offsets() {
    for (index_t l = 0; l < weights_.row(); ++l) {
      if ((seen_ & bit(l)) == 0) continue;
      const T a = T(1) - sum_a_[l], c = -sum_c_[l];
      if (std::isfinite(a)) a_[l] += a;
      if (std::isfinite(c)) c_[l] += c;
      delta_[l] += a * sum_c_[l] + c * sum_a_[l] + a * c;
    }
  }

  // dq, from w and the sums of ds k
  void add_queries(const pairwise::sequence& s, bool first, bool last) {
    const index_t row = weights_.row();
    const simd::batch<T> scale(p_.scale_of_products);
    for (index_t i = 0; i < p_.d * row; i += w)
      simd::store(q_ + i, simd::fma(scale, simd::load(sums_.data() + i), simd::batch<T>(T(0)) - simd::load(w_ + i)));
    clear(q_, ~seen_), spoil(q_, p_.d, lost_values_);
    for (index_t i = 0; i < p_.d * row; i += w)
      simd::store(dq_ + i, first ? simd::load(q_ + i) : simd::load(dq_ + i) + simd::load(q_ + i));
    if (!last) return;
    std::fill(factor_, factor_ + row, T(1));
    const heed::detail::output_tensor output(p_.dq);
    tile::scatter<T>(dq_, row, factor_, pairwise::find_rows(rows_, output, s, p_.repeat).data(), rows_.count, p_.d);
  }

  void save_biases(const pairwise::sequence& s, index_t kv_head, const saved_rows<T>& saved) {
    const index_t at = p_.row_number(s, kv_head, first_row_);
    for (index_t l = 0; l < rows_.count; ++l) saved.dbias(at + l) = (lost_values_ & bit(l)) != 0 ? nan : dbias_[l];
  }
  void save_ridges(const pairwise::sequence& s, index_t kv_head, const saved_rows<T>& saved) {
    lane_dot(y_, w_, weights_.row(), p_.d, weights_.row(), dridge_);
    const index_t at = p_.row_number(s, kv_head, first_row_);
    for (index_t l = 0; l < rows_.count; ++l) {
      const bool finite = std::isfinite(p_.ridge.at(rows_.row[l].head));
      saved.dridge(at + l) = !finite ? T(0) : (lost_values_ & bit(l)) != 0 ? nan : dridge_[l];
    }
  }

  void save(const pairwise::sequence& s, index_t kv_head, const saved_rows<T>& saved) {
    using rows = saved_rows<T>;
    const index_t row = weights_.row(), at = p_.row_number(s, kv_head, first_row_);
    for (index_t l = 0; l < rows_.count; ++l) {
      *saved.of(rows::m, at + l) = weights_.m()[l];
      *saved.of(rows::inv_l, at + l) = (lost_ & bit(l)) != 0 ? nan : weights_.inv_l()[l];
      *saved.of(rows::a, at + l) = a_[l], *saved.of(rows::c, at + l) = c_[l];
      *saved.of(rows::b_mean, at + l) = b_mean_[l], *saved.of(rows::delta, at + l) = delta_[l];
    }
    pairwise::row_pointers<std::byte> y_rows, w_rows;
    for (index_t l = 0; l < rows_.count; ++l) {
      y_rows[l] = reinterpret_cast<std::byte*>(saved.y(at + l));
      w_rows[l] = reinterpret_cast<std::byte*>(saved.w(at + l));
      std::fill(saved.y(at + l) + p_.d, saved.y(at + l) + saved.stride(), T(0));
      std::fill(saved.w(at + l) + p_.d, saved.w(at + l) + saved.stride(), T(0));
    }
    std::fill(factor_, factor_ + row, T(1));
    tile::scatter<T>(y_, row, factor_, y_rows.data(), rows_.count, p_.d);
    tile::scatter<T>(w_, row, factor_, w_rows.data(), rows_.count, p_.d);
  }

  const gradient_problem<T>& p_;
  tile_weights<T> weights_;
  value_products<T> values_;
  pairwise::weighted_sums<T> sums_;
  tile_solver<T> solver_;
  T *mean_, *y_, *w_, *r_, *q_, *dq_;  // [d][lane]
  T *t_, *rows_r_;                     // [key][lane]
  T *a_, *c_, *b_mean_, *deviation_, *total_, *squares_, *sum_a_, *sum_c_, *delta_, *dridge_, *dbias_, *factor_;
  T *cap_slopes_, *function_slopes_;  // [key][lane]
  pairwise::row_tile rows_;
  index_t first_row_ = 0;
  std::uint64_t open_ = 0, seen_ = 0, lost_ = 0, lost_values_ = 0;
  pairwise::seen_keys<T> seen_keys_;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
