// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Few rows over many keys, as a sum of sums: every 4096 keys have a state (m, l, o) of their own, which joins those
// before. One state for all keys would round, at every step, a sum that is thousands of times as large as what the step
// adds. docs/numerics.md has the errors of both.

#include <algorithm>
#include <cmath>

#include "heed/pairwise/few_rows_queries.hpp"
#include "heed/tile/online_softmax.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// States of rows, a vector for each pass, and their sums, [row][column] in whole vectors. Lane i of the vector of a
// pass of R rows has m of row i % R, and a part of its l.
template <class T> struct few_row_states {
  tile::lane_states<T> state;
  T* sums;
};

template <class T> class run_totals {
 public:
  static constexpr index_t keys = 4096, w = simd::width<T>;  // keys of a run

  run_totals(index_t rows, index_t columns, heed::detail::arena& memory)
      : lanes_(row_pass<T>::count(rows) * w),
        total_{{memory.take<T>(lanes_), memory.take<T>(lanes_)},
               memory.take<T>(row_pass<T>::padded_rows(rows) * columns)},
        columns_(columns) {}

  void begin() { empty_ = true; }
  // Whether a tile of up to `tile_keys` keys, with `before` keys of its span before it, is the first of a run
  static bool begins_run(index_t before, index_t tile_keys) { return before >= keys && before % keys < tile_keys; }

  // Joins the states of a run of `rows` rows, and clears them for the next run.
  HEED_NOINLINE void add(const few_row_states<T>& run, index_t rows) {
    const index_t lanes = row_pass<T>::count(rows) * w, padded = row_pass<T>::padded_rows(rows);
    if (empty_) {
      std::copy(run.state.m, run.state.m + lanes, total_.state.m);
      std::copy(run.state.l, run.state.l + lanes, total_.state.l);
      std::copy(run.sums, run.sums + padded * columns_, total_.sums);
    } else {
      for (index_t first = 0; first < rows; first += pass_capacity<T>) join(run, row_pass<T>::from(rows, first));
    }
    empty_ = false;
    run.state.init(lanes);
    std::fill(run.sums, run.sums + padded * columns_, T(0));
  }
  // Puts the states of all runs in place of the last one's.
  void finish(const few_row_states<T>& run, index_t rows) {
    if (empty_) return;
    add(run, rows);
    const index_t lanes = row_pass<T>::count(rows) * w;
    std::copy(total_.state.m, total_.state.m + lanes, run.state.m);
    std::copy(total_.state.l, total_.state.l + lanes, run.state.l);
    std::copy(total_.sums, total_.sums + row_pass<T>::padded_rows(rows) * columns_, run.sums);
  }

 private:
  void join(const few_row_states<T>& run, const row_pass<T>& pass) {
    tile::lane_array<T, w> keep, add;
    const index_t lane = pass.number() * w;
    for (index_t i = 0; i < w; ++i) {
      tile::row_state<T> all = total_.state.at(lane + i);
      const auto factors = all.merge(run.state.at(lane + i), [](T x) { return std::exp2(x); });
      total_.state.set(lane + i, all);
      keep[i] = factors.first, add[i] = factors.second;
    }
    for (index_t r = 0; r < pass.padded; ++r) {
      T* const to = total_.sums + (pass.first + r) * columns_;
      const T* const from = run.sums + (pass.first + r) * columns_;
      const simd::batch<T> f(keep[r]), g(add[r]);
      for (index_t c = 0; c < columns_; c += w)
        simd::store(to + c, simd::fma(g, simd::load(from + c), f * simd::load(to + c)));
    }
  }

  index_t lanes_;
  few_row_states<T> total_;
  index_t columns_;
  bool empty_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
