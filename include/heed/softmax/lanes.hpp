// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with queries in lanes, for 16 and more rows.
//
//   s_ij = scale q_i . k_j;   p = softmax over the visible j;   o_i = sum_j p_ij v_j;   lse_i = log sum_j exp(s_ij)
//
// One task is a tile of up to 64 rows (AVX-512; AVX2 24, SSE2 8 for float) that share keys and values: row r is query
// r / group of query head r % group, so a group's heads read K and V once. The tile's queries are packed as
// [d][lane], pre-scaled by scale * log2(e); K and V are read where they are, 256 keys at a time: scores
// [key][lane] (64 KiB, in L2), weights in place, output [e][lane]. Per tile K and V stream once from L3 or memory:
// 64 rows * (D + E) FMAs for (D + E) numbers. Online softmax: Milakov and Gimelshein (arXiv 1805.02867), tiles as in
// FlashAttention (arXiv 2205.14135). Tile sizes: bench/softmax_bench.cpp, prefill rows.

#include "heed/core/context.hpp"
#include "heed/softmax/problem.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/weights.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> class lanes_driver {
 public:
  static constexpr index_t w = simd::width<T>, query_tile = tile::max_lanes<T>, key_tile = 256;
  static constexpr index_t step = w < 8 ? 8 : w;  // keys of one step of the staircase
  static_assert(query_tile <= tile::most_lanes && key_tile / step <= tile::key_runs::most);

  static index_t tiles(const problem<T>& p) { return (p.rows + query_tile - 1) / query_tile; }

  lanes_driver(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        q_(memory.take<T>(query_tile * p.d)),
        scores_(memory.take<T>(query_tile * key_tile)),
        acc_(memory.take<T>(query_tile * p.e)),
        finite_(memory.take<T>(step * p.e)),
        m_(memory.take<T>(query_tile)),
        l_(memory.take<T>(query_tile)),
        factor_(memory.take<T>(query_tile)),
        lo_(memory.take<T>(query_tile)),
        hi_(memory.take<T>(query_tile)) {}

  // Rows [first, first + rows) of key/value head kv_head
  void run(index_t b, index_t kv_head, index_t first, index_t rows) {
    begin(b, kv_head, first, rows);
    const tile::key_spans spans = tile::make_spans(at_);
    for (index_t i = 0; i < spans.count; ++i) {
      const tile::key_span& span = spans.span[static_cast<std::size_t>(i)];
      const index_t keys = span.end - span.first, parts = (keys + key_tile - 1) / key_tile;
      const index_t even = ((keys + parts - 1) / parts + step - 1) / step * step;  // tiles of nearly one size
      for (index_t j = span.first; j < span.end; j += even) {
        const index_t count = std::min(even, span.end - j);
        span.partial ? partial_tile(j, count) : full_tile(j, count);
      }
    }
    finish(b, kv_head, first);
  }

 private:
  // Of the accumulators of one vector: undefined, to be rescaled, current
  enum class lane_state { fresh, scale, keep };

  void begin(index_t b, index_t kv_head, index_t first, index_t rows) {
    const auto& mask = heed::detail::parts(p_.opt.mask);
    const tile::key_rule rule = tile::make_rule(mask, b, p_.m);
    const index_t place = tile::first_place(heed::detail::parts(p_.opt.align), b, p_.n, p_.m);
    lanes_ = rows;
    vectors_ = (rows + w - 1) / w;
    row_ = vectors_ * w;
    k_ = p_.key(b, kv_head, 0), v_ = p_.value(b, kv_head, 0);
    at_.lanes = rows, at_.keep_first = rule.keep_first;
    std::array<const T*, tile::most_lanes> q;
    const T* const query = p_.query(b, kv_head * p_.group, 0);
    index_t i = first / p_.group, g = first % p_.group;
    for (index_t lane = 0; lane < rows; ++lane) {
      q[static_cast<std::size_t>(lane)] = query + g * p_.q.stride(1) + i * p_.q.stride(2);
      at_.lane[static_cast<std::size_t>(lane)] = rule.at(place + i);
      if (++g == p_.group) g = 0, ++i;
    }
    tile::summarize(at_, w);
    tile::gather(q.data(), rows, p_.d, p_.factor, q_, row_);
    for (index_t lane = 0; lane < row_; ++lane) m_[lane] = std::numeric_limits<T>::lowest(), l_[lane] = 0;
    state_.fill(lane_state::fresh);
  }

  // s = K q for keys [first, first + keys) of the tile that starts at key j, over vectors [from, to); top, if not null,
  // is raised to the largest
  void score(index_t j, index_t first, index_t keys, index_t from, index_t to, T* top = nullptr) {
    tile::multiply<T>({.a = k_ + (j + first) * p_.k.stride(2),
                       .a_row = p_.k.stride(2),
                       .a_col = 1,
                       .b = q_ + from * w,
                       .b_row = row_,
                       .c = scores_ + first * row_ + from * w,
                       .c_row = row_,
                       .rows = keys,
                       .depth = p_.d,
                       .top = top},
                      to - from);
  }

  // o += V^T p for the same keys, values at v
  void weigh(const T* v, index_t v_row, index_t first, index_t keys, index_t from, index_t to) {
    const auto all = [&](lane_state s) {
      return std::all_of(state_.begin() + from, state_.begin() + to, [s](lane_state x) { return x == s; });
    };
    tile::start start = tile::start::scale;
    if (all(lane_state::fresh))
      start = tile::start::zero;
    else if (all(lane_state::keep))
      start = tile::start::keep;
    else
      level(from, to);
    tile::multiply<T>({.a = v,
                       .a_row = 1,
                       .a_col = v_row,
                       .b = scores_ + first * row_ + from * w,
                       .b_row = row_,
                       .c = acc_ + from * w,
                       .c_row = row_,
                       .rows = p_.e,
                       .depth = keys,
                       .start = start,
                       .factor = factor_ + from * w},
                      to - from);
    std::fill(state_.begin() + from, state_.begin() + to, lane_state::keep);
  }

  // Vectors in different states to one: all to be rescaled
  void level(index_t from, index_t to) {
    for (index_t x = from; x < to; ++x) {
      lane_state& state = state_[static_cast<std::size_t>(x)];
      if (state == lane_state::fresh) tile::fill(acc_ + x * w, row_, p_.e, w, T(0));
      if (state != lane_state::scale) std::fill(factor_ + x * w, factor_ + (x + 1) * w, T(1));
      state = lane_state::scale;
    }
  }

  void rescale_next(index_t vector) {
    lane_state& state = state_[static_cast<std::size_t>(vector)];
    if (state == lane_state::keep) state = lane_state::scale;
  }

  void full_tile(index_t j, index_t keys) {
    std::copy(m_, m_ + row_, factor_);
    score(j, 0, keys, 0, vectors_, factor_);
    tile::online_softmax(scores_, row_, keys, vectors_, m_, l_, factor_);
    for (index_t x = 0; x < vectors_; ++x) rescale_next(x);
    weigh(v_ + j * p_.v.stride(2), p_.v.stride(2), 0, keys, 0, vectors_);
  }

  void partial_tile(index_t j, index_t keys) {
    const tile::key_runs runs = tile::make_runs(at_, j, keys, vectors_, step);
    const T kept = relative(at_.keep_first, j);
    for (index_t lane = 0; lane < row_; ++lane) {
      lo_[lane] = relative(at_.lane[static_cast<std::size_t>(lane)].lo, j);
      hi_[lane] = relative(at_.lane[static_cast<std::size_t>(lane)].hi, j);
    }
    for (index_t i = 0; i < runs.count; ++i) {
      const tile::key_run& run = runs.run[static_cast<std::size_t>(i)];
      score(j, run.first, run.keys, run.from, run.to);
      each_step(run, [&](index_t first, index_t count) {
        for (index_t x = run.from; x < run.to; ++x)
          if (!sees_all(x, j + first, count))
            tile::hide(scores_ + x * w, row_, first, count, lo_ + x * w, hi_ + x * w, kept);
      });
    }
    for (index_t x = 0; x < vectors_; ++x) {
      const index_t first = runs.first_key[static_cast<std::size_t>(x)],
                    end = runs.end_key[static_cast<std::size_t>(x)];
      if (first >= end) continue;
      close_gaps(runs, x, first, end);
      T* const s = scores_ + first * row_ + x * w;
      tile::raise<1>(s, row_, end - first, m_ + x * w, factor_ + x * w);
      tile::online_softmax<1>(s, row_, end - first, m_ + x * w, l_ + x * w, factor_ + x * w);
      rescale_next(x);
    }
    weigh_runs(runs, j);
  }

  // Vector by vector over all keys that it sees, so that its accumulators are loaded and stored once; where hidden
  // values might not be finite, run by run.
  void weigh_runs(const tile::key_runs& runs, index_t j) {
    const index_t v_row = p_.v.stride(2);
    const auto harmless = [&](const tile::key_run& run) {
      const bool seen = run.from == 0 && run.to == vectors_ && hides_nothing(run, j);  // by every vector of the tile
      return seen || tile::all_finite(v_ + (j + run.first) * v_row, v_row, run.keys, p_.e);
    };
    if (std::all_of(runs.run.begin(), runs.run.begin() + runs.count, harmless)) {
      for (index_t x = 0; x < vectors_;) {
        const index_t first = runs.first_key[static_cast<std::size_t>(x)],
                      end = runs.end_key[static_cast<std::size_t>(x)], from = x;
        while (++x < vectors_ && runs.first_key[static_cast<std::size_t>(x)] == first &&
               runs.end_key[static_cast<std::size_t>(x)] == end) {
        }
        if (first < end) weigh(v_ + (j + first) * v_row, v_row, first, end - first, from, x);
      }
      return;
    }
    for (index_t i = 0; i < runs.count; ++i) {
      const tile::key_run& run = runs.run[static_cast<std::size_t>(i)];
      if (harmless(run))
        weigh(v_ + (j + run.first) * v_row, v_row, run.first, run.keys, run.from, run.to);
      else
        each_step(run, [&](index_t first, index_t count) { weigh_visible(j, first, count, run.from, run.to); });
    }
  }

  template <class F> static void each_step(const tile::key_run& run, F f) {
    for (index_t first = run.first; first < run.first + run.keys; first += step)
      f(first, std::min(step, run.first + run.keys - first));
  }
  bool sees_all(index_t vector, index_t key, index_t keys) const {
    return at_.vector[static_cast<std::size_t>(vector)].all(key, key + keys, at_.keep_first);
  }
  bool hides_nothing(const tile::key_run& run, index_t j) const {
    for (index_t x = run.from; x < run.to; ++x)
      if (!sees_all(x, j + run.first, run.keys)) return false;
    return true;
  }
  // A key as seen from the tile's first key, cut to what the tile can tell apart
  static T relative(index_t key, index_t j) { return static_cast<T>(std::clamp<index_t>(key - j, -1, key_tile + 1)); }

  // Keys between a vector's first and last that no run computed for it: hidden
  void close_gaps(const tile::key_runs& runs, index_t vector, index_t first, index_t end) {
    index_t covered = first;
    for (index_t i = 0; i < runs.count; ++i) {
      const tile::key_run& run = runs.run[static_cast<std::size_t>(i)];
      if (run.from > vector || run.to <= vector) continue;
      if (run.first > covered)
        tile::fill(scores_ + covered * row_ + vector * w, row_, run.first - covered, w,
                   -std::numeric_limits<T>::infinity());
      covered = run.first + run.keys;
    }
    HEED_ASSERT(covered == end);
    static_cast<void>(end);
  }

  // Keys of which some lanes must not see a value that is not finite (0 * NaN is NaN): such values are left out of the
  // product and then added lane by lane.
  void weigh_visible(index_t j, index_t first, index_t keys, index_t from, index_t to) {
    for (index_t x = 0; x < keys; ++x)
      for (index_t c = 0; c < p_.e; ++c) {
        const T value = v_[(j + first + x) * p_.v.stride(2) + c];
        finite_[x * p_.e + c] = std::isfinite(value) ? value : T(0);
      }
    weigh(finite_, p_.e, first, keys, from, to);
    for (index_t x = 0; x < keys; ++x)
      for (index_t c = 0; c < p_.e; ++c) {
        const T value = v_[(j + first + x) * p_.v.stride(2) + c];
        if (std::isfinite(value)) continue;
        for (index_t lane = from * w; lane < to * w; ++lane) {
          const tile::visible& sees = at_.lane[static_cast<std::size_t>(lane)];
          const index_t key = j + first + x;
          if (key < sees.hi && (key >= sees.lo || key < at_.keep_first))
            acc_[c * row_ + lane] += value * scores_[(first + x) * row_ + lane];
        }
      }
  }

  // o = acc / l, lse = log(2) m + log(l); a row without a key: 0 and -inf
  void finish(index_t b, index_t kv_head, index_t first) {
    std::array<T*, tile::most_lanes> o;
    index_t i = first / p_.group, g = first % p_.group;
    for (index_t x = 0; x < vectors_; ++x)
      if (state_[static_cast<std::size_t>(x)] == lane_state::fresh) tile::fill(acc_ + x * w, row_, p_.e, w, T(0));
    for (index_t lane = 0; lane < lanes_; ++lane) {
      const index_t head = kv_head * p_.group + g;
      o[static_cast<std::size_t>(lane)] = p_.output(b, head, i);
      if (p_.opt.lse.data() != nullptr) *p_.lse(b, head, i) = natural_lse(m_[lane], l_[lane]);
      if (++g == p_.group) g = 0, ++i;
    }
    const simd::batch<T> zero(T(0)), one(T(1));
    for (index_t lane = 0; lane < row_; lane += w) {
      const simd::batch<T> l = simd::load(l_ + lane);
      simd::store(factor_ + lane, simd::select<T>(l == zero, zero, one / l));
    }
    tile::scatter(acc_, row_, factor_, o.data(), lanes_, p_.e);
  }

 public:
  static T natural_lse(T m, T l) {
    return l == T(0) ? -std::numeric_limits<T>::infinity()
                     : static_cast<T>(static_cast<double>(m) * 0.6931471805599453 + std::log(static_cast<double>(l)));
  }

 private:
  const problem<T>& p_;
  T *q_, *scores_, *acc_, *finite_, *m_, *l_, *factor_, *lo_, *hi_;
  tile::positions at_;
  std::array<lane_state, tile::most_lanes> state_{};
  index_t lanes_ = 0, vectors_ = 0, row_ = 0;
  const T *k_ = nullptr, *v_ = nullptr;
};

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
