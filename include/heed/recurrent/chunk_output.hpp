// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Outputs of one tile of queries of a chunk: lanes are queries, sums [column of v][lane]. S is the state before the
// chunk, W(i, j) what tile/fade.hpp leaves of token j at token i:
//
//   inter    o_i  = W(i, -1) S^T phi(q_i)                            A = S, B = queries, C = sums
//   intra    o_i += sum_{j <= i} W(i, j) (phi(q_i).phi(k_j)) v_j      scores as in softmax, weights from tile/fade.hpp
//   then     o_i *= scale, over scale z.phi(q_i) + eps where the kernel normalises; a denominator of 0 makes 0
//
// where phi(q) has the `early` part of the scale in it.
//
// Hidden pairs have weight 0, and 0 * NaN is NaN: a tile whose sums are not finite is computed once more, with care.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/recurrent/chunk_state.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/finite.hpp"
#include "heed/tile/pack.hpp"
#include "heed/recurrent/problem.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

// sums[lane] += scores over the keys
template <class T> HEED_NOINLINE void add_down(const T* scores, index_t row, index_t keys, index_t lanes, T* sums) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    simd::batch<T> sum = simd::load(sums + l);
    for (index_t j = 0; j < keys; ++j) sum += simd::load(scores + j * row + l);
    simd::store(sums + l, sum);
  }
}

template <class T> class chunk_reader {
 public:
  static constexpr index_t w = simd::width<T>, tile = tile::max_lanes<T>, key_tile = 256;
  static constexpr index_t step = w < 8 ? 8 : w;  // keys of one step of the staircase
  static constexpr index_t slice = 16;            // columns of v that are copied without what is not finite

  chunk_reader(const recurrence<T>& p, index_t chunk, index_t columns, const chunk_features<T>& features,
               tile::drips<T>& meanwhile, heed::detail::arena& memory)
      : p_(p),
        features_(features),
        meanwhile_(meanwhile),
        q_(memory.take<T>(tile * p.d)),
        scores_(memory.take<T>(std::max(tile, std::min(chunk, key_tile)) * tile)),
        sums_(memory.take<T>(columns * tile)),
        below_(memory.take<T>(tile)),
        gain_(memory.take<T>(tile)),
        finite_(memory.take<T>(key_tile * slice)) {}

  // The reads that follow are of this memory.
  void use(const fade<T>& fade, const chunk_state<T>& state) { fade_ = &fade, state_ = &state; }

  // Columns [first, first + columns) of outputs [i, i + lanes) of a head, lanes <= tile; token `at` of the chunk comes
  // with the first of them, at < 0: no token does
  void read(const track& t, const chunk_tokens<T>& x, index_t head, index_t i, index_t lanes, index_t at, index_t first,
            index_t columns) {
    std::array<const T*, static_cast<std::size_t>(tile)> in;
    std::array<T*, static_cast<std::size_t>(tile)> out;
    for (index_t l = 0; l < lanes; ++l) {
      in[static_cast<std::size_t>(l)] = p_.query(t, head, i + l);
      out[static_cast<std::size_t>(l)] = p_.output(t, head, i + l) + first;
    }
    x_ = x, columns_ = columns, lanes_ = lanes, vectors_ = (lanes + w - 1) / w, row_ = vectors_ * w;
    tile::gather(in.data(), lanes, p_.d, p_.mapped() ? T(1) : p_.early, q_, row_);
    if (p_.mapped() && !p_.taylor()) map_lanes(p_.map, q_, p_.d, row_), scale_values(q_, p_.d * row_, p_.early);
    sum(at, false);
    if (at >= 0 && !finite()) sum(at, true);  // perhaps by what some lane must not see
    for (index_t l = 0; l < row_; ++l) {
      const output_factors<T> factors = output_gain(p_, p_.normalize ? below_[l] : T(0));
      gain_[l] = factors.gain;
      for (index_t c = 0; factors.two() && c < columns_; ++c) sums_[c * row_ + l] *= factors.first;
    }
    tile::scatter(sums_, row_, gain_, out.data(), lanes, columns);
  }

 private:
  bool finite() const {
    if (lanes_ == row_) return tile::all_finite(sums_, row_ * columns_, 1, row_ * columns_);
    return tile::all_finite(sums_, row_, columns_, lanes_);
  }

  void sum(index_t at, bool careful) {
    const bool empty = state_->empty();
    if (p_.normalize) std::fill(below_, below_ + row_, T(0));
    if (!empty) inter();
    if (at < 0) {
      if (empty) tile::fill(sums_, row_, columns_, row_, T(0));
      return;
    }
    if (careful && fade_->cuts() && !empty)
      for (index_t l = 0; l < lanes_; ++l)
        for (index_t c = 0; c < columns_ && heed::detail::equals(fade_->read(at)[l], T(0)); ++c)
          sums_[c * row_ + l] = T(0);
    next_ = empty ? tile::accumulate::zero : fade_->fades() ? tile::accumulate::scale : tile::accumulate::keep;
    factor_ = next_ == tile::accumulate::scale ? fade_->read(at) : nullptr;
    for (index_t j = 0; j < at; j += key_tile) intra(at, j, std::min(key_tile, at - j), 0, careful);
    for (index_t j = 0; j < lanes_; j += step) intra(at, at + j, std::min(step, lanes_ - j), j / w, careful);
  }

  // sums = S^T phi(q), below = z.phi(q)
  void inter() {
    tile::accumulate how = tile::accumulate::zero;
    features_.each_block([&](index_t f, index_t count, index_t a) {
      const T* const b = features_.of_queries(q_, row_, f, count, a);
      meanwhile_.multiply({.a = state_->s() + f * state_->row(),
                           .a_row = 1,
                           .a_col = state_->row(),
                           .b = b,
                           .b_row = row_,
                           .c = sums_,
                           .c_row = row_,
                           .rows = columns_,
                           .depth = count,
                           .accumulate = how},
                          vectors_);
      if (p_.normalize)
        tile::multiply<T>({.a = state_->z() + f,
                     .a_row = 0,
                     .a_col = 1,
                     .b = b,
                     .b_row = row_,
                     .c = below_,
                     .c_row = row_,
                     .rows = 1,
                     .depth = count,
                     .accumulate = tile::accumulate::keep},
                    vectors_);
      how = tile::accumulate::keep;
    });
  }

  // Keys [j, j + keys) of the chunk for the vectors from `from` on; lane 0 of the tile is lane `at` of the chunk
  void intra(index_t at, index_t j, index_t keys, index_t from, bool careful) {
    T* const scores = scores_ + from * w;
    tile::multiply<T>({.a = x_.keys + j * x_.key_row,
                 .a_row = x_.key_row,
                 .a_col = 1,
                 .b = q_ + from * w,
                 .b_row = row_,
                 .c = scores,
                 .c_row = row_,
                 .rows = keys,
                 .depth = p_.d},
                vectors_ - from);
    const index_t lanes = row_ - from * w;
    if (p_.taylor()) taylor_weights(scores, row_, keys, lanes);
    fade_->apply(scores, row_, j, keys, at + from * w, lanes);
    if (p_.normalize) add_down(scores, row_, keys, lanes, below_ + from * w);
    if (careful)
      add_visible(at, j, keys, from);
    else
      add_values(x_.values + j * x_.value_row, x_.value_row, 0, columns_, keys, from);
    next_ = tile::accumulate::keep;
  }

  void add_values(const T* v, index_t v_row, index_t c, index_t columns, index_t keys, index_t from) {
    tile::multiply<T>({.a = v,
                 .a_row = 1,
                 .a_col = v_row,
                 .b = scores_ + from * w,
                 .b_row = row_,
                 .c = sums_ + c * row_ + from * w,
                 .c_row = row_,
                 .rows = columns,
                 .depth = keys,
                 .accumulate = next_,
                 .factor = factor_},
                vectors_ - from);
  }

  // Values that are not finite reach the lanes that see them and no other; the others get the bits of add_values.
  HEED_NOINLINE void add_visible(index_t at, index_t j, index_t keys, index_t from) {
    const auto seen = [&](index_t s) {
      std::uint64_t lanes = 0;
      for (index_t l = from * w; l < lanes_; ++l)
        if (fade_->sees(at + l, j + s)) lanes |= std::uint64_t{1} << l;
      return lanes;
    };
    tile::add_visible<key_tile, T>({x_.values + j * x_.value_row, x_.value_row, keys, columns_},
                                   {scores_, row_, from * w, lanes_, sums_, row_}, {finite_, slice, keys, slice}, seen,
                                   [&](const tile::lane_block<const T>& v, index_t c) {
                                     add_values(v.data, v.stride, c, v.lanes, keys, from);
                                   });
  }

  const recurrence<T>& p_;
  const chunk_features<T>& features_;
  tile::drips<T>& meanwhile_;
  T *q_, *scores_, *sums_, *below_, *gain_, *finite_;
  const fade<T>* fade_ = nullptr;
  const chunk_state<T>* state_ = nullptr;
  chunk_tokens<T> x_ = {};
  index_t columns_ = 0, lanes_ = 0, vectors_ = 0, row_ = 0;
  const T* factor_ = nullptr;  // what the lanes read of the state, for the first of the sums that follow it
  tile::accumulate next_ = tile::accumulate::zero;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
