// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Products of bf16 tiles behind one interface: AMX, bf16 dot products, and AMX emulated (unit_choice.hpp chooses).
//
//   C[m][lane] = start(C)[m][lane] + sum over k < 2 pairs of A(m, k) B(k, lane)
//
// The two numbers of a pair, k = 2j and 2j + 1, are adjacent in A and share a 32-bit word in B.

#include "heed/tile/prefetch.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

struct pair_product {
  const bf16_t* a = nullptr;  // A(m, k) = a[m * a_row + k]; rows may start at any bf16_t
  index_t a_row = 0;
  const float* b = nullptr;  // as bits, b[j * b_row + lane]: B(2j, lane) in the low half, B(2j + 1, lane) in the high
  index_t b_row = 0;
  float* c = nullptr;  // C[m][lane] = c[m * c_row + lane]
  index_t c_row = 0;
  index_t rows = 0, pairs = 0;
  tile::accumulate accumulate = tile::accumulate::zero;
  const float* factor = nullptr;              // one per lane, for accumulate::scale
  float* row_max = nullptr;                   // one per lane, or null: row_max = max(row_max, C)
  row_prefetcher<float>* prefetch = nullptr;  // rows that come next; a unit may leave it aside
};

// Work that a product may do between its own instructions, such as the softmax of another block: `left` pieces.
struct background {
  void (*piece)(void* state) = nullptr;
  void* state = nullptr;
  index_t left = 0;

  HEED_INLINE void step() {
    if (left > 0) --left, piece(state);
  }
  HEED_INLINE void finish() {
    while (left > 0) step();
  }
};

struct matrix_unit {
  const char* name;
  // What rows, pairs and lanes of a product are whole multiples of; the caller pads with memory that may be read.
  index_t row_multiple, pair_multiple, lane_multiple;
  index_t stage_lanes;  // lanes of a stage of the softmax pipeline
  bool interleaves;     // whether multiply runs pieces of the background, at most one after every two tile products
  void (*multiply)(const pair_product& p, index_t lanes, background& work);
  // Around the products of a task, on its thread. AMX loads its tile configuration; live tiles of the caller are lost.
  void (*begin)();
  void (*end)();
};

}  // namespace HEED_ISA
}  // namespace heed::tile
