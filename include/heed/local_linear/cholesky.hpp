// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Cholesky factors of small symmetric systems, one per lane. Vectors are [row][lane]. A symmetric matrix is stored as
// the lower triangle of its block x block blocks, row after row, each entry a vector of lanes: entry (i, j) of block
// row I is at 8 I (I + 1) + (i % 4) 4 (I + 1) + j for block 4.

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "heed/simd/batch.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Symmetric positive definite matrices, one per lane
template <class T> class lane_matrix {
 public:
  static constexpr index_t w = simd::width<T>;
#if defined(HEED_AVX512)
  static constexpr int block = 4;  // 16 sums and 8 operands in 32 registers
#else
  static constexpr int block = 3;  // 9 and 6 in 16
#endif

  static index_t padded(index_t n) { return (n + block - 1) / block * block; }
  // Numbers of T for order n
  static index_t size(index_t n) { return offset(padded(n) / block) * w; }

  lane_matrix() = default;
  lane_matrix(T* at, index_t n) : at_(at), n_(padded(n)) {}

  index_t order() const { return n_; }  // padded
  T* row(index_t i) const {
    const index_t b = i / block;
    return at_ + (offset(b) + i % block * block * (b + 1)) * w;
  }
  T* entry(index_t i, index_t j) const { return row(i) + j * w; }  // j <= i, or in one block with it

  void clear() { std::fill(at_, at_ + offset(n_ / block) * w, T(0)); }

  // += sum over k < depth of x[k][i] x[k][j]; x: [depth][order()][lane]
  HEED_NOINLINE void add_products(const T* x, index_t depth) {
    for (index_t i = 0; i < n_; i += block)
      for (index_t j = 0; j <= i; j += block) update<false>(i, j, x + i * w, x + j * w, depth, squares{});
  }

  // Replaces the matrix by L, L L^T the matrix, with 1 / L_ii on its diagonal. A pivot that is not above `least` per
  // lane counts as infinite: its unknown is 0 in solutions.
  HEED_NOINLINE void factor(const T* least) {
    for (index_t i = 0; i < n_; i += block)
      for (index_t j = 0; j <= i; j += block) {
        update<true>(i, j, row(i), row(j), j, squares{});
        if (j < i)
          divide(i, j);
        else
          factor_diagonal(i, least);
      }
  }

  // b <- (L L^T)^-1 b; b: [order()][lane]
  HEED_NOINLINE void solve(T* b) const {
    for (index_t i = 0; i < n_; ++i) {
      batch sum = simd::load(b + i * w);
      const T* const l = row(i);
      for (index_t j = 0; j < i; ++j) sum = minus(simd::load(l + j * w), simd::load(b + j * w), sum);
      simd::store(b + i * w, sum * simd::load(l + i * w));
    }
    for (index_t i = n_ - 1; i >= 0; --i) {
      const T* const l = row(i);
      const batch x = simd::load(b + i * w) * simd::load(l + i * w);
      simd::store(b + i * w, x);
      for (index_t j = 0; j < i; ++j) simd::store(b + j * w, minus(simd::load(l + j * w), x, simd::load(b + j * w)));
    }
  }

 private:
  using batch = simd::batch<T>;
  using squares = std::make_integer_sequence<int, block * block>;

  static index_t offset(index_t b) { return block * block * b * (b + 1) / 2; }
  HEED_INLINE static batch minus(batch a, batch b, batch c) { return simd::fma(batch(T(0)) - a, b, c); }

  // Block (i, j) -= or += sum over k < depth of x[k][row] y[k][row]: of rows of the matrix to subtract, else of
  // [depth][order()] vectors.
  template <bool Minus, int... I>
  HEED_INLINE void update(index_t i, index_t j, const T* x, const T* y, index_t depth,
                          std::integer_sequence<int, I...>) const {
    const index_t step = Minus ? w : n_ * w, x_row = Minus ? row(i + 1) - row(i) : w,
                  y_row = Minus ? row(j + 1) - row(j) : w;
    std::array<batch, block * block> sum{((void)I, batch(T(0)))...};
    for (index_t k = 0; k < depth; ++k, x += step, y += step)
      outer(sum, x, x_row, y, y_row, std::make_integer_sequence<int, block>{});
    const auto update_entry = [&](int at, batch change) __attribute__((always_inline)) {
      T* const e = entry(i + at / block, j + at % block);
      simd::store(e, Minus ? simd::load(e) - change : simd::load(e) + change);
    };
    (update_entry(I, sum[I]), ...);
  }
  template <int... N>
  HEED_INLINE static void outer(std::array<batch, block * block>& sum, const T* x, index_t x_row, const T* y,
                                index_t y_row, std::integer_sequence<int, N...>) {
    const std::array<batch, block> b{simd::load(y + N * y_row)...};
    const auto line = [&](auto m) __attribute__((always_inline)) {
      const batch a = simd::load(x + m * x_row);
      ((sum[m * block + N] = simd::fma(a, b[N], sum[m * block + N])), ...);
    };
    (line(std::integral_constant<int, N>{}), ...);
  }

  // Block (i, j) <- block (i, j) L(j, j)^-T
  void divide(index_t i, index_t j) const {
    for (int r = 0; r < block; ++r)
      for (int c = 0; c < block; ++c) {
        batch x = simd::load(entry(i + r, j + c));
        for (int k = 0; k < c; ++k) x = minus(simd::load(entry(i + r, j + k)), simd::load(entry(j + c, j + k)), x);
        simd::store(entry(i + r, j + c), x * simd::load(entry(j + c, j + c)));
      }
  }
  void factor_diagonal(index_t i, const T* least) const {
    const batch zero(T(0)), one(T(1)), bound = simd::load(least);
    for (int c = 0; c < block; ++c) {
      batch pivot = simd::load(entry(i + c, i + c));
      for (int k = 0; k < c; ++k) {
        const batch x = simd::load(entry(i + c, i + k));
        pivot = minus(x, x, pivot);
      }
      const batch inverse = simd::select<T>(pivot > bound, simd::divide<T>(one, simd::sqrt(pivot)), zero);
      simd::store(entry(i + c, i + c), inverse);
      for (int r = c + 1; r < block; ++r) {
        batch x = simd::load(entry(i + r, i + c));
        for (int k = 0; k < c; ++k) x = minus(simd::load(entry(i + r, i + k)), simd::load(entry(i + c, i + k)), x);
        simd::store(entry(i + r, i + c), x * inverse);
      }
    }
  }

  T* at_ = nullptr;
  index_t n_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
