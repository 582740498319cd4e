// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The one inner loop of every kernel:
//
//   C[m][lane] = start(C)[m][lane] + sum_k A(m, k) * B[k][lane]
//
// A is read by broadcast with two element strides, straight from the caller's rows (keys as they are, values with the
// strides swapped); B and C are rows of lanes. start(C) is 0, C, or C times one factor per lane (the rescale of the
// online softmax). It joins the sum at the end, so that a long row of tiles is a sum of sums and not one long sum. The
// maximum of each lane's results can be had on the way.
//
// Register budget: a block of MR rows by NR vectors keeps MR * NR accumulators and NR vectors of B in registers and
// reads each value of A once per NR fused multiply-adds. AVX-512 (32 registers): 6x4, 8x3, 12x2, 8x1. AVX2 (16): 4x3,
// 6x2, 8x1. SSE2 (16, the product needs one more): 4x2, 8x1. bench/softmax_bench.cpp, row tile_ceiling, measures it.

#include <array>
#include <utility>

#include "heed/simd/dot.hpp"
#include "heed/simd/half.hpp"
#include "heed/tile/lanes.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

enum class accumulate { zero, keep, scale };

// A is of T, or of bf16_t: then k counts pairs of A, a[m * a_row + k * a_col] and the one behind it, and the bits of
// B[k][lane] are two bf16_t as well (dot products, see multiply_dot.hpp). B is of T, or of a 16-bit type that is
// widened in the load.
template <class T, class A = T, class B = T> struct matrix_product {
  const A* a = nullptr;  // A(m, k) = a[m * a_row + k * a_col]
  index_t a_row = 0, a_col = 0;
  const B* b = nullptr;  // B[k][lane] = b[k * b_row + lane]
  index_t b_row = 0;
  T* c = nullptr;  // C[m][lane] = c[m * c_row + lane]
  index_t c_row = 0;
  index_t rows = 0, depth = 0;  // m < rows, k < depth
  tile::accumulate accumulate = tile::accumulate::zero;
  const T* factor = nullptr;  // one per lane, for accumulate::scale
  T* row_max = nullptr;       // one per lane, or null: row_max = max(row_max, C), while C is in registers
};

// C = A B, A(m, k) = a[m * a_row + k * a_col]
template <class T>
HEED_INLINE matrix_product<T> product_of(const T* a, index_t a_row, index_t a_col, const lane_block<const T>& b,
                                         const lane_block<T>& c) {
  return {a, a_row, a_col, b.data, b.stride, c.data, c.stride, c.rows, b.rows};
}

#if defined(HEED_AVX512) || defined(HEED_NEON)  // 32 registers
inline constexpr int max_vectors = 4;
constexpr int block_rows(int vectors) { return vectors == 4 ? 6 : vectors == 2 ? 12 : 8; }
#elif defined(HEED_AVX2)
inline constexpr int max_vectors = 3;
constexpr int block_rows(int vectors) { return vectors == 3 ? 4 : vectors == 2 ? 6 : 8; }
#else
inline constexpr int max_vectors = 2;
constexpr int block_rows(int vectors) { return vectors == 2 ? 4 : 8; }
#endif

template <class T> inline constexpr index_t max_lanes = max_vectors * simd::width<T>;

// Elements of the vectors that hold `count` of them
template <class T> constexpr index_t whole_vectors(index_t count) {
  return (count + simd::width<T> - 1) / simd::width<T> * simd::width<T>;
}

namespace detail {

template <class T> HEED_INLINE simd::batch<T> broadcast(const T* a) { return simd::batch<T>(*a); }

// a * b + sum, or the dot product of two pairs added to sum
template <class A, class T>
HEED_INLINE simd::batch<T> multiply_add(simd::batch<T> a, simd::batch<T> b, simd::batch<T> sum) {
#if defined(HEED_AVX512) && defined(__GNUC__)
  if constexpr (std::is_same_v<A, bf16_t>) return simd::dot_pairs(a, b, sum);
#endif
  return simd::fma(a, b, sum);
}
#if defined(HEED_AVX512) && defined(__GNUC__)
HEED_INLINE simd::batch<float> broadcast(const bf16_t* a) { return simd::broadcast_pair(a); }
#endif

// One block, rows m0 .. m0 + MR - 1. A real function: inlined into the loops around it some instantiations spill.
template <int MR, int NR, class T, class A, class B, class Prefetch, int... I>
HEED_INLINE void block(const matrix_product<T, A, B>& p, index_t m0, Prefetch& prefetch,
                       std::integer_sequence<int, I...>) {
  using batch = simd::batch<T>;
  constexpr index_t w = simd::width<T>;
  const index_t a_row = p.a_row, a_col = p.a_col, b_row = p.b_row, c_row = p.c_row;
  T* const c = p.c + m0 * c_row;
  std::array<batch, std::size_t{MR * NR}> sum;
  ((sum[I] = batch(T(0))), ...);
  const A* a = p.a + m0 * a_row;
  const B* b = p.b;
  Prefetch step = prefetch;
  HEED_UNROLL_2
  for (index_t k = p.depth; k > 0; --k, a += a_col, b += b_row) {
    step();
    if constexpr (NR == 1) {
      const batch b0 = simd::pinned(simd::load_as<T>(b));
      ((sum[I] = multiply_add<A>(broadcast(a + I * a_row), b0, sum[I])), ...);
    } else {
      std::array<batch, std::size_t{NR}> bs;
      [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
        ((bs[N] = simd::pinned(simd::load_as<T>(b + N * w))), ...);
      }
      (std::make_integer_sequence<int, NR>{});
      [&]<int... M>(std::integer_sequence<int, M...>) __attribute__((always_inline)) {
        const auto row = [&]<int... N>(auto m, std::integer_sequence<int, N...>) __attribute__((always_inline)) {
          const batch x = broadcast(a + m * a_row);
          ((sum[m * NR + N] = multiply_add<A>(x, bs[N], sum[m * NR + N])), ...);
        };
        (row(std::integral_constant<int, M>{}, std::make_integer_sequence<int, NR>{}), ...);
      }
      (std::make_integer_sequence<int, MR>{});
    }
  }
  prefetch = step;
  if (p.accumulate == accumulate::keep)
    ((sum[I] += simd::load(c + (I / NR) * c_row + (I % NR) * w)), ...);
  else if (p.accumulate == accumulate::scale)
    ((sum[I] = simd::fma(simd::load(c + (I / NR) * c_row + (I % NR) * w), simd::load(p.factor + (I % NR) * w), sum[I])),
     ...);
  ((simd::store(c + (I / NR) * c_row + (I % NR) * w, sum[I])), ...);
  if (p.row_max == nullptr) return;
  [&]<int... N>(std::integer_sequence<int, N...>) __attribute__((always_inline)) {
    std::array<batch, std::size_t{NR}> most{simd::load(p.row_max + N * w)...};
    ((most[I % NR] = simd::max(most[I % NR], sum[I])), ...);
    (simd::store(p.row_max + N * w, most[N]), ...);
  }
  (std::make_integer_sequence<int, NR>{});
}

struct no_prefetch {
  HEED_INLINE void operator()() const {}
};

// Rows [first, end) in blocks of MR. prefetch: a small object that is called once per k of every block.
template <int MR, int NR, class T, class Prefetch>
HEED_NOINLINE void blocks(const matrix_product<T>& p, index_t first, index_t end, Prefetch& prefetch) {
  for (index_t m = first; m + MR <= end; m += MR)
    block<MR, NR>(p, m, prefetch, std::make_integer_sequence<int, MR * NR>{});
}
template <int MR, int NR, class T, class B>
HEED_NOINLINE void blocks(const matrix_product<T, T, B>& p, index_t first, index_t end) {
  no_prefetch none;
  for (index_t m = first; m + MR <= end; m += MR) block<MR, NR>(p, m, none, std::make_integer_sequence<int, MR * NR>{});
}
#if defined(HEED_AVX512) && defined(__GNUC__)
template <int MR, int NR, class Prefetch>
HEED_NOINLINE [[gnu::target("avx512bf16")]] void blocks(const matrix_product<float, bf16_t>& p, index_t first,
                                                        index_t end, Prefetch& prefetch) {
  for (index_t m = first; m + MR <= end; m += MR)
    block<MR, NR>(p, m, prefetch, std::make_integer_sequence<int, MR * NR>{});
}
template <int MR, int NR> void blocks(const matrix_product<float, bf16_t>& p, index_t first, index_t end) {
  no_prefetch none;
  blocks<MR, NR>(p, first, end, none);
}
#endif

}  // namespace detail

// f with the number of vectors (1 .. max_vectors) as a constant
template <class F> HEED_INLINE void with_vectors(index_t vectors, F f) {
  if (vectors == 1) return f(std::integral_constant<int, 1>{});
  if constexpr (max_vectors >= 2)
    if (vectors == 2) return f(std::integral_constant<int, 2>{});
  if constexpr (max_vectors >= 3)
    if (vectors == 3) return f(std::integral_constant<int, 3>{});
  if constexpr (max_vectors >= 4)
    if (vectors == 4) return f(std::integral_constant<int, 4>{});
}

// Computes p over `vectors` vectors of lanes (1 .. max_vectors).
template <class T, class A, class B> void multiply(const matrix_product<T, A, B>& p, index_t vectors) {
  with_vectors(vectors, [&](auto n) {
    constexpr int nr = n, mr = block_rows(nr);
    index_t m = p.rows / mr * mr;
    detail::blocks<mr, nr>(p, 0, m);
    if constexpr (mr > 8)
      if (p.rows - m >= 8) detail::blocks<8, nr>(p, m, m + 8), m += 8;
    if constexpr (mr > 4)
      if (p.rows - m >= 4) detail::blocks<4, nr>(p, m, m + 4), m += 4;
    if (p.rows - m >= 2) detail::blocks<2, nr>(p, m, m + 2), m += 2;
    if (p.rows - m >= 1) detail::blocks<1, nr>(p, m, m + 1);
  });
}

}  // namespace HEED_ISA
}  // namespace heed::tile
