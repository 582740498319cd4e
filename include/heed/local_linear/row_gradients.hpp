// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The row pass of backward, a tile of queries in lanes as in forward: from the solutions of its rows
//
//   ds_j = p_j (a_j c_j - delta), see pair_gradients.hpp;   dq = -w + scale sum_j ds_j k_j;   dridge = w . y
//
// and what the key pass needs of the rows.

#include "heed/local_linear/row_solutions.hpp"
#include "heed/local_linear/saved_rows.hpp"
#include "heed/tile/weight_gradients.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> class row_gradients : public row_solutions<T> {
 public:
  using base = row_solutions<T>;
  using base::w, base::lanes;

  row_gradients(const gradient_problem<T>& p, heed::detail::arena& memory) : base(p, memory) {
    dq_ = memory.take<T>(p.wants_queries() ? lanes * p.d : 0);
    for (T** x : {&a_, &c_, &sum_a_, &sum_c_, &delta_, &dbias_}) *x = memory.take<T>(lanes);
    const index_t pairs = lanes * base::tile_type::most_keys;
    cap_slopes_ = memory.take<T>(p.scores.has_cap() ? pairs : 0);
    function_slopes_ = memory.take<T>(p.scores.has_function() ? pairs : 0);
  }

  // Rows of a tile that share key/value head kv_head. Where query heads serve several key/value heads, their tasks are
  // one after the other: dq is their sum. first, last: of them
  void run(const pairwise::sequence& s, index_t kv_head, index_t number, const saved_rows<T>& saved, bool first,
           bool last) {
    pairwise::row_tile rows;
    first_row_ = number * lanes;
    rows.take(kv_head, p_.group, first_row_, std::min(lanes, p_.rows(s) - first_row_));
    this->solve(s, kv_head, rows);
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

 private:
  using base::p_, base::weights_, base::values_, base::sums_, base::mean_, base::y_, base::w_, base::q_, base::r_,
      base::t_, base::r_pairs_, base::b_mean_, base::total_, base::squares_, base::factor_, base::rows_, base::seen_,
      base::lost_, base::lost_values_, base::bit, base::nan;
  using typename base::visited, typename base::known;

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
    T* const b = adjoint ? values_.of(weights_, keys) : r_pairs_;
    for (index_t i = 0; i < keys.count; ++i) {
      const pairwise::weight_block& block = keys.block[i];
      const index_t lane = block.from * w;
      row_products<T>(keys.k, block, {y_, p.stride, p_.d, p.stride}, t_);
      if (adjoint) row_products<T>(keys.k, block, {w_, p.stride, p_.d, p.stride}, r_pairs_);
      score_gradients(p.at(block.first, lane), block.keys, block.to - block.from,
                      pair_products<T>{t_, r_pairs_, b, p.stride}.at(block.first, lane),
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
  // The sum of p a is 1 and that of p c is 0, but for the rounding of products with long y and w, which moves all a or
  // c of a row together. The key pass multiplies with y, w and dout: there it would count.
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
    this->clear(q_, ~seen_), this->spoil(q_, p_.d, lost_values_);
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
    const index_t at = p_.row_number(s, kv_head, first_row_), row = weights_.row();
    for (index_t l = 0; l < rows_.count; ++l) {
      const bool finite = std::isfinite(p_.ridge.at(rows_.row[l].head));
      double sum = 0;
      for (index_t d = 0; finite && d < p_.d; ++d)
        sum += static_cast<double>(y_[d * row + l]) * static_cast<double>(w_[d * row + l]);
      saved.dridge(at + l) = finite && (lost_values_ & bit(l)) != 0 ? std::numeric_limits<double>::quiet_NaN() : sum;
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

  T* dq_;  // [d][lane]
  T *a_, *c_, *sum_a_, *sum_c_, *delta_, *dbias_;
  T *cap_slopes_, *function_slopes_;  // [key][lane]
  index_t first_row_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
