// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The state S (features x columns of v) of one task, in cache, and z where the kernel normalises. After a chunk of
// tokens 0 .. n - 1, with what tile/fade.hpp leaves of each:
//
//   S <- W(n-1, -1) S + sum_j W(n-1, j) phi(k_j) v_j^T               A = keys, B = values as they are, C = S [d][lane]
//   z <- z + sum_j phi(k_j)                                           (kernels that normalise do not fade)
//
// Traffic: S is loaded and stored once per chunk, once more when it is read.

#include <algorithm>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/recurrent/features.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/recurrent/decay.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/recurrent/problem.hpp"

namespace heed::recurrent {
inline namespace HEED_ISA {

template <class T> class chunk_state {
 public:
  static constexpr index_t w = simd::width<T>;

  // For chunks of up to `chunk` tokens, up to `columns` columns of v
  chunk_state(const recurrence<T>& p, index_t chunk, index_t columns, heed::detail::arena& memory)
      : p_(p),
        row_(odd_lines<T>(columns)),
        v_(memory.take<T>(p.e % w != 0 ? chunk * tile::whole_vectors<T>(columns) : 0)),
        s_(memory.take<T>(p.features * row_)),
        z_(memory.take<T>(p.normalize ? tile::whole_vectors<T>(p.features) : 0)),
        total_(memory.take<T>(tile::max_lanes<T>)) {}

  // Columns [first, first + columns) of head number `state` of the caller's states
  void begin(const track& t, index_t state, index_t first, index_t columns) {
    t_ = t, state_ = state, first_ = first, columns_ = columns;
    empty_ = p_.before.s.data() == nullptr;
    for (index_t f = 0; f < p_.features && !empty_; ++f) {
      const T* const from = row_of(p_.before.s, f) + first;
      std::copy(from, from + columns, s_ + f * row_);
      std::fill(s_ + f * row_ + columns, s_ + f * row_ + tile::whole_vectors<T>(columns), T(0));
    }
    for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) z_[f] = empty_ ? T(0) : *element_of(p_.before.z, f);
  }

  void end() {
    if (p_.after.s.data() == nullptr) return;
    if (empty_) std::fill(s_, s_ + p_.features * row_, T(0));
    for (index_t f = 0; f < p_.features; ++f)
      std::copy(s_ + f * row_, s_ + f * row_ + columns_, row_of(p_.after.s, f) + first_);
    for (index_t f = 0; f < (p_.normalize && first_ == 0 ? p_.features : 0); ++f) *element_of(p_.after.z, f) = z_[f];
  }

  bool empty() const { return empty_; }  // all 0, and not written
  const T* s() const { return s_; }      // [feature][column]
  index_t row() const { return row_; }
  const T* z() const { return z_; }

  void update(const chunk_tokens<T>& x, const chunk_features<T>& features, const fade<T>& fade, tile::drips<T>& meanwhile) {
    const index_t first = fade.first_written();
    index_t v_row = 0;
    const T* const v = whole_values(x, first, v_row);
    const bool fresh = empty_ || heed::detail::equals(fade.total(), T(0));
    const tile::accumulate how = fresh ? tile::accumulate::zero : heed::detail::equals(fade.total(), T(1)) ? tile::accumulate::keep : tile::accumulate::scale;
    std::fill(total_, total_ + tile::max_lanes<T>, fade.total());
    const index_t all = tile::whole_vectors<T>(columns_) / w, groups = (all + tile::max_vectors - 1) / tile::max_vectors;
    features.each_block([&](index_t f, index_t count, index_t a) {
      index_t k_row = 0;
      const T* const k = features.of_keys(x, fade, f, count, a, k_row);
      for (index_t g = 0, from = 0; g < groups; ++g) {
        const index_t vectors = (all - from + groups - g - 1) / (groups - g);
        meanwhile.multiply({.a = k + first * k_row,
                            .a_row = 1,
                            .a_col = k_row,
                            .b = v + first * v_row + from * w,
                            .b_row = v_row,
                            .c = s_ + f * row_ + from * w,
                            .c_row = row_,
                            .rows = count,
                            .depth = x.n - first,
                            .accumulate = how,
                            .factor = total_},
                           vectors);
        from += vectors;
      }
      if (p_.normalize) add_rows(k, k_row, x.n, count, z_ + f);
    });
    empty_ = false;
  }

 private:
  template <class U> U* row_of(const tensor_view<U, 4>& s, index_t f) const {
    return s.data() + t_.number * s.stride(0) + state_ * s.stride(1) + f * s.stride(2);
  }
  template <class U> U* element_of(const tensor_view<U, 3>& z, index_t f) const {
    return z.data() + t_.number * z.stride(0) + state_ * z.stride(1) + f * z.stride(2);
  }

  // Values from token `first` on in whole vectors: the caller's, or a copy with zeros behind
  const T* whole_values(const chunk_tokens<T>& x, index_t first, index_t& row) const {
    if (columns_ % w == 0) return row = x.value_row, x.values;
    row = tile::whole_vectors<T>(columns_);
    for (index_t j = first; j < x.n; ++j)
      for (index_t c = 0; c < row; c += w)
        simd::store(v_ + j * row + c, simd::load_partial(x.values + j * x.value_row + c, std::min(w, columns_ - c)));
    return v_;
  }

  // sums += rows
  static void add_rows(const T* rows, index_t row_stride, index_t n, index_t count, T* sums) {
    for (index_t c = 0; c < count; c += w) {
      const index_t there = std::min(w, count - c);
      simd::batch<T> sum(T(0));
      for (index_t j = 0; j < n; ++j)
        sum +=
            there == w ? simd::load(rows + j * row_stride + c) : simd::load_partial(rows + j * row_stride + c, there);
      simd::store_partial(sums + c, simd::load_partial(sums + c, there) + sum, there);
    }
  }

  const recurrence<T>& p_;
  index_t row_;
  T *v_, *s_, *z_, *total_;
  track t_ = {};
  index_t state_ = 0, first_ = 0, columns_ = 0;
  bool empty_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::recurrent
