// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Local linear attention: a weighted linear regression of the values at every query, in its centred form.
//
//   p = softmax weights of the visible keys;  mean = sum_j p_j k_j;  C = sum_j p_j (k_j - mean)(k_j - mean)^T + ridge
//   y = C^-1 (q - mean);  o = sum_j p_j (1 + (k_j - mean) . y) v_j
//
// One task is a tile of queries in lanes, as in softmax. Passes over the keys: weights and means; the solves, without a
// matrix or with one per lane; the output; mean values, where rounding moved the sum of a row's weights. Up to 4 MiB of
// weights are kept from pass to pass, others are computed anew: scratch does not grow with N or M, and no N x D x D or
// N x M is ever formed. A row's numbers depend on no other row of its tile, but how many keys the tile has
// says by which solver they are found.

#include <cmath>

#include "heed/local_linear/tile_solver.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

template <class T> class lanes_driver {
 public:
  using tile_type = pairwise::score_tiles<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows;

  lanes_driver(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        weights_(p, memory),
        out_(p.e, memory),
        mean_values_(p.e, memory),
        mean_(memory.take<T>(lanes * p.d)),
        y_(memory.take<T>(lanes * p.d)),
        r_(memory.take<T>(lanes * p.d)),
        q_(memory.take<T>(lanes * p.d)),
        t_(memory.take<T>(lanes * tile_type::most_keys)),
        finite_(memory.take<T>(tile_type::most_keys * pairwise::weighted_sums<T>::slice)),
        shift_(memory.take<T>(lanes)),
        total_(memory.take<T>(lanes)),
        factor_(memory.take<T>(lanes)),
        solver_(p, memory) {}

  void run(const pairwise::sequence& s, index_t kv_head, index_t number) {
    const index_t first = number * lanes;
    rows_.take(kv_head, p_.group, first, std::min(lanes, p_.rows(s) - first));
    weights_.begin(s, kv_head, rows_, mean_);
    solved_directly_ = 0;
    if (p_.solves)
      solve(s);
    else
      take_slopes(s);
    attend(out_, false);
    settle_direct();
    make_sums_one();
    finish(s);
  }
  const tally& counts() const { return solver_.counts(); }

 private:
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }

  void gather_queries(const pairwise::sequence& s) {
    p_.q_format->gather(pairwise::find_rows(rows_, p_.q, s, p_.repeat).data(), rows_.count, p_.d, T(1), q_,
                        weights_.row());
  }
  void take_slopes(const pairwise::sequence& s) {
    const heed::detail::input_tensor given(p_.given);
    tile::gather<T>(pairwise::find_rows(rows_, given, s).data(), rows_.count, p_.d, T(1), y_, weights_.row());
  }

  void solve(const pairwise::sequence& s) {
    const index_t row = weights_.row();
    gather_queries(s);
    const std::uint64_t open = solver_.begin(weights_, rows_);
    for (index_t l = 0; l < row; ++l) {
      const bool lost = (weights_.nonfinite_rows() & bit(l)) != 0 || std::isnan(weights_.l()[l]);
      for (index_t d = 0; d < p_.d; ++d) y_[d * row + l] = lost ? std::numeric_limits<T>::quiet_NaN() : T(0);
    }
    for (index_t i = 0; i < p_.d * row; i += w) simd::store(r_ + i, simd::load(q_ + i) - simd::load(mean_ + i));
    solved_directly_ = solver_.solve(weights_, open, {q_, mean_, solver_.ridge(), r_, y_}, [&](index_t group) {
      solver_.direct().solve(weights_, group, q_, mean_, solver_.exact_ridge());
    });
  }

  // sums = sum_j p_j (1 + (k_j - mean) . y) v_j, total the sum of these weights; flat: as if y were 0
  void attend(pairwise::weighted_sums<T>& sums, bool flat, bool nonfinite_pass) {
    const index_t row = weights_.row();
    lane_dot(mean_, y_, row, p_.d, row, shift_);
    for (index_t l = 0; l < row; ++l) shift_[l] = flat ? T(-1) : shift_[l] - T(1);
    std::fill(total_, total_ + row, T(0));
    solver_.each_group(weights_, solved_directly_, [&](index_t g) { solver_.direct().begin_weights(g); });
    sums.begin(weights_.vectors(), factor_);
    const auto visit = [&](pairwise::key_tile<T>& keys, const tile::known_weights<T>& p) {
      weights_.copy_values(keys);
      const bool check = nonfinite_pass && !tile::all_finite(keys.v.data, keys.v.stride, keys.keys, p_.e);
      for (index_t i = 0; i < keys.count; ++i) {
        const pairwise::weight_block& b = keys.block[i];
        make_weights(keys, b, p, flat);
        if (check) {
          pairwise::note_seen<T>({weights_.scores(), row, keys.keys, row}, b, seen_);
          sums.add_visible(keys.v, {t_, row, keys.keys, row}, b, seen_, finite_);
        } else {
          sums.add(keys.v, {t_, row, keys.keys, row}, b);
        }
      }
    };
    nonfinite_pass ? weights_.each_with_scores(visit) : weights_.each(visit);
    sums.finish();
  }
  void attend(pairwise::weighted_sums<T>& sums, bool flat) {
    attend(sums, flat, false);
    if (!sums.finite()) attend(sums, flat, true);  // perhaps by a value that some lane must not see
  }
  void make_weights(const pairwise::key_tile<T>& keys, const pairwise::weight_block& b, const tile::known_weights<T>& p,
                    bool flat) {
    constexpr index_t wide = direct_solver<T>::wide;
    const index_t row = weights_.row(), lane = b.from * w, end = b.to * w;
    if (flat)
      tile::fill(t_ + b.first * row + lane, row, b.keys, end - lane, T(0));
    else
      row_products<T>(keys.k, b, {y_, row, p_.d, row}, t_);
    tile::product(p.at(b.first, lane), b.keys, b.to - b.from, t_ + b.first * row + lane, shift_ + lane, total_ + lane);
    for (index_t g = lane / wide; !flat && g * wide < end; ++g)
      if (solver_.in_group(solved_directly_, g)) solver_.direct().weigh(g, solved_directly_, b, p, keys.k, t_);
  }

  void settle_direct() {
    for (index_t l = 0; l < rows_.count; ++l)
      if ((solved_directly_ & bit(l)) != 0)
        solver_.settle(solver_.direct().residual(l, q_, weights_.row(), solver_.exact_ridge()[l]));
  }

  // The weights of a row add up to 1 whatever y is, but where (k_j - mean) . y is large its rounding moves all of them
  // together. What their sum lacks, o lacks in mean values; direct weights are made in double and lack nothing.
  void make_sums_one() {
    const index_t row = weights_.row();
    tile::lane_array<T, lanes> missing;
    bool any = false;
    for (index_t l = 0; l < row; ++l) {
      const bool whole = (solved_directly_ & bit(l)) != 0 || heed::detail::equals(weights_.l()[l], T(0)) ||
                         std::abs(T(1) - total_[l]) <= 64 * std::numeric_limits<T>::epsilon();
      missing[l] = whole ? T(0) : T(1) - total_[l];
      any = any || !whole;
    }
    if (!any) return;
    attend(mean_values_, true);
    for (index_t e = 0; e < p_.e; ++e)
      for (index_t l = 0; l < row; l += w) {
        T* const o = out_.data() + e * row + l;
        const simd::batch<T> lack = simd::load(&missing[l]), sum = simd::load(o);
        const simd::batch<T> whole = simd::fma(lack, simd::load(mean_values_.data() + e * row + l), sum);
        simd::store(o, simd::select<T>(lack == simd::batch<T>(T(0)), sum, whole));
      }
  }

  void finish(const pairwise::sequence& s) {
    const index_t row = weights_.row();
    for (index_t l = 0; l < rows_.count; ++l) {
      const auto [head, query] = rows_.row[l];
      if (p_.lse.data() != nullptr) *p_.lse_at(s, head, query) = weights_.lse(l);
    }
    std::fill(factor_, factor_ + row, T(1));
    p_.o_format->scatter(out_.data(), weights_.row(), factor_, pairwise::find_rows(rows_, p_.o, s).data(), rows_.count,
                         p_.e);
    if (p_.solves) write(y_, p_.d, p_.opt.slope, s);
    write(mean_, p_.d, p_.opt.mean_key, s);
  }
  // to = rows, [dim][lane]; a null tensor is not wanted
  void write(const T* rows, index_t dim, const tensor_view<T, 4>& to, const pairwise::sequence& s) {
    if (to.data() == nullptr) return;
    const heed::detail::output_tensor output(to);
    tile::scatter<T>(rows, weights_.row(), factor_, pairwise::find_rows(rows_, output, s).data(), rows_.count, dim);
  }

  const problem<T>& p_;
  tile_weights<T> weights_;
  pairwise::weighted_sums<T> out_, mean_values_;
  T *mean_, *y_, *r_, *q_, *t_, *finite_;
  T *shift_, *total_, *factor_;
  tile_solver<T> solver_;
  pairwise::row_tile rows_;
  pairwise::seen_keys<T> seen_;
  std::uint64_t solved_directly_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
