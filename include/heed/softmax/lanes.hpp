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
//
// Full tiles, which every lane sees, run without a test. In partial tiles the keys are cut into runs that the same
// vectors see, and pairs are tested only in the steps where a mask cuts through a vector. Where scores pass further
// steps (tile/scores.hpp) they are made and changed 48 keys at a time, in L1. Hidden keys have weight 0, and 0 * NaN is
// NaN: a tile of queries whose sums are not finite is computed once more, with care.

#include "heed/core/context.hpp"
#include "heed/softmax/problem.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/pair_mask.hpp"
#include "heed/tile/scores.hpp"
#include "heed/tile/weights.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> class lanes_driver {
 public:
  static constexpr index_t w = simd::width<T>, query_tile = tile::max_lanes<T>, key_tile = 256;
  static constexpr index_t step = w < 8 ? 8 : w;  // keys of one step of the staircase
  static constexpr index_t chunk = 48;            // keys whose scores are changed while they are in L1
  static constexpr index_t slice = 16;            // columns of v that are copied without what is not finite
  static_assert(query_tile <= tile::most_lanes && key_tile / step <= tile::key_runs::most && chunk % step == 0);

  struct scratch {
    scratch(const problem<T>& p, heed::detail::arena& memory)
        : q(memory.take<T>(query_tile * p.d)),
          scores(memory.take<T>(query_tile * key_tile)),
          acc(memory.take<T>(query_tile * p.e)),
          finite(memory.take<T>(key_tile * slice)),
          m(memory.take<T>(query_tile)),
          l(memory.take<T>(query_tile)),
          factor(memory.take<T>(query_tile)),
          lo(memory.take<T>(query_tile)),
          hi(memory.take<T>(query_tile)) {}
    T *q, *scores, *acc, *finite, *m, *l, *factor, *lo, *hi;
  };

  lanes_driver(const problem<T>& p, heed::detail::arena& memory) : p_(p), to_(p, memory) {}

  static index_t tiles(index_t rows) { return (rows + query_tile - 1) / query_tile; }

  // Tile number `tile` of the rows of key/value head kv_head
  void run(const sequence& s, index_t kv_head, index_t tile) {
    const index_t first = tile * query_tile, rows = std::min(query_tile, p_.rows(s) - first);
    careful_ = false;
    attend(s, kv_head, first, rows);
    if (!tile::all_finite(to_.acc, row_, p_.e, row_)) {  // perhaps by a value that some lane must not see
      careful_ = true;
      attend(s, kv_head, first, rows);
    }
    finish(s, kv_head, first);
  }

 private:
  // Of the accumulators of one vector: undefined, to be rescaled, current
  enum class lane_state { fresh, scale, keep };

  void attend(const sequence& s, index_t kv_head, index_t first, index_t rows) {
    begin(s, kv_head, first, rows);
    const tile::key_spans spans = tile::make_spans(at_);
    for (index_t i = 0; i < spans.count; ++i) {
      const tile::key_span& span = spans.span[static_cast<std::size_t>(i)];
      const index_t keys = span.end - span.first, parts = (keys + key_tile - 1) / key_tile;
      const index_t even = ((keys + parts - 1) / parts + step - 1) / step * step;  // tiles of nearly one size
      for (index_t j = span.first; j < span.end; j += even) visit(j, std::min(even, span.end - j), span.partial);
    }
    for (index_t x = 0; x < vectors_; ++x)
      if (state_[static_cast<std::size_t>(x)] == lane_state::fresh) tile::fill(to_.acc + x * w, row_, p_.e, w, T(0));
  }

  void begin(const sequence& s, index_t kv_head, index_t first, index_t rows) {
    const tile::key_rule rule = tile::make_rule(p_.mask, s.number, s.keys);
    const index_t place = tile::first_place(heed::detail::parts(p_.opt.align), s.number, s.queries, s.keys);
    lanes_ = rows;
    vectors_ = (rows + w - 1) / w;
    row_ = vectors_ * w;
    if (s.keys > 0) k_ = p_.key(s, kv_head, 0), v_ = p_.value(s, kv_head, 0);
    at_.lanes = rows, at_.keep_first = rule.keep_first;
    std::array<const T*, tile::most_lanes> q;
    const T* const query = p_.query(s, kv_head * p_.group, 0);
    index_t i = first / p_.group, g = first % p_.group;
    for (index_t lane = 0; lane < rows; ++lane) {
      q[static_cast<std::size_t>(lane)] = query + g * p_.q.stride(1) + i * p_.q.stride(2);
      at_.lane[static_cast<std::size_t>(lane)] = rule.at(place + i);
      if (++g == p_.group) g = 0, ++i;
    }
    tile::summarize(at_, w);
    tile::gather(q.data(), rows, p_.d, p_.scores.query_factor, to_.q, row_);
    std::fill(to_.m, to_.m + row_, std::numeric_limits<T>::lowest());
    std::fill(to_.l, to_.l + row_, T(0));
    state_.fill(lane_state::fresh);
    if (p_.scores.any() || p_.asks_pairs() || p_.opt.sink_logits.set()) begin_options(s, kv_head, first, place);
  }

  void begin_options(const sequence& s, index_t kv_head, index_t first, index_t place) {
    steps_.begin(p_.scores, s, p_.calls_functions());
    pairs_.begin(p_.mask, s);
    index_t i = first / p_.group, g = first % p_.group;
    for (index_t lane = 0; lane < lanes_; ++lane) {
      const index_t head = kv_head * p_.group + g;
      steps_.set(p_.scores, lane, head, i, place + i);
      pairs_.set(lane, head, i);
      if (p_.opt.sink_logits.set()) p_.start(head, to_.m[lane], to_.l[lane]);
      if (++g == p_.group) g = 0, ++i;
    }
    steps_.complete(lanes_);
    pairs_.complete(lanes_);
  }

  void visit(index_t j, index_t keys, bool partial) {
    if (!partial && !pairs_.any()) return full_tile(j, keys);
    tile::joint_sight<T> eyes(at_, pairs_, j);
    const tile::key_runs runs = tile::make_runs(eyes, j, keys, vectors_, step);
    if (runs.count == 0) return;
    if (hides_nothing(runs, keys)) return full_tile(j, keys);
    partial_tile(j, runs);
  }

  void full_tile(index_t j, index_t keys) {
    std::copy(to_.m, to_.m + row_, to_.factor);
    if (!p_.scores.any()) {
      score(j, 0, keys, 0, vectors_, to_.factor);
    } else {
      for (index_t first = 0; first < keys; first += chunk) {
        const index_t count = std::min(chunk, keys - first);
        score(j, first, count, 0, vectors_);
        steps_.apply(p_.scores, region(j, first, count, 0, vectors_));
        tile::raise(scores(first, 0), row_, count, vectors_, to_.factor, to_.factor);
      }
    }
    if (careful_ && !finite(j, keys)) return weigh_visible(j, 0, keys, 0, vectors_);
    tile::online_softmax(scores(0, 0), row_, keys, vectors_, to_.m, to_.l, to_.factor);
    rescale_next(0, vectors_);
    weigh(j, 0, keys, 0, vectors_);
  }

  void partial_tile(index_t j, const tile::key_runs& runs) {
    for (index_t lane = 0; lane < row_; ++lane) {
      to_.lo[lane] = relative(at_.lane[static_cast<std::size_t>(lane)].lo, j);
      to_.hi[lane] = relative(at_.lane[static_cast<std::size_t>(lane)].hi, j);
    }
    for (index_t i = 0; i < runs.count; ++i) {
      const tile::key_run& run = runs.run[static_cast<std::size_t>(i)];
      for (index_t first = run.first; first < run.first + run.keys; first += chunk)
        visible_scores(j, runs, first, std::min(chunk, run.first + run.keys - first), run.from, run.to);
    }
    const tile::key_run& last = runs.run[static_cast<std::size_t>(runs.count - 1)];
    const bool careful = careful_ && !finite(j + runs.run[0].first, last.first + last.keys - runs.run[0].first);
    for (index_t from = 0, to = 0; from < vectors_; from = to) {  // vectors that see the same keys
      const index_t first = runs.first_key[static_cast<std::size_t>(from)],
                    end = runs.end_key[static_cast<std::size_t>(from)];
      for (to = from + 1; to < vectors_ && runs.first_key[static_cast<std::size_t>(to)] == first &&
                          runs.end_key[static_cast<std::size_t>(to)] == end;)
        ++to;
      if (first >= end) continue;
      for (index_t x = from; x < to; ++x) close_gaps(runs, x, first, end);
      if (careful) {
        weigh_visible(j, first, end - first, from, to);
      } else {
        weights(first, end - first, from, to);
        weigh(j, first, end - first, from, to);
      }
    }
  }

  // Weights and their sums over keys of which some lanes must not see a value that is not finite: such values are left
  // out of the product and then added lane by lane. The other lanes get the bits of the short way.
  HEED_NOINLINE void weigh_visible(index_t j, index_t first, index_t keys, index_t from, index_t to) {
    std::array<std::uint64_t, key_tile> seen;  // bit l: lane l sees the key
    for (index_t x = 0; x < keys; ++x) {
      std::uint64_t lanes = 0;
      for (index_t lane = from * w; lane < to * w; ++lane)
        if (scores(first + x, 0)[lane] != -std::numeric_limits<T>::infinity()) lanes |= std::uint64_t{1} << lane;
      seen[static_cast<std::size_t>(x)] = lanes;
    }
    weights(first, keys, from, to);
    const tile::start start = start_of(from, to);
    const T* const v = v_ + (j + first) * p_.v.stride(2);
    for (index_t c = 0; c < p_.e; c += slice) {
      const index_t columns = std::min(slice, p_.e - c);
      for (index_t x = 0; x < keys; ++x)
        for (index_t y = 0; y < columns; ++y) {
          const T value = v[x * p_.v.stride(2) + c + y];
          to_.finite[x * slice + y] = std::isfinite(value) ? value : T(0);
        }
      add_values(to_.finite, slice, c, columns, first, keys, from, to, start);
      for (index_t x = 0; x < keys; ++x)
        for (index_t y = c; y < c + columns; ++y) {
          if (std::isfinite(v[x * p_.v.stride(2) + y])) continue;
          for (index_t lane = from * w; lane < to * w; ++lane)
            if ((seen[static_cast<std::size_t>(x)] >> lane & 1) != 0)
              to_.acc[y * row_ + lane] += v[x * p_.v.stride(2) + y] * scores(first + x, 0)[lane];
        }
    }
  }

  T* scores(index_t key, index_t vector) const { return to_.scores + key * row_ + vector * w; }
  tile::score_region<T> region(index_t j, index_t first, index_t keys, index_t from, index_t to) const {
    return {scores(first, from), row_, j + first, keys, from, to};
  }

  // s = K q for keys [first, first + keys) of the tile that starts at key j, over vectors [from, to); top, if not null,
  // is raised to the largest
  void score(index_t j, index_t first, index_t keys, index_t from, index_t to, T* top = nullptr) {
    tile::multiply<T>({.a = k_ + (j + first) * p_.k.stride(2),
                       .a_row = p_.k.stride(2),
                       .a_col = 1,
                       .b = to_.q + from * w,
                       .b_row = row_,
                       .c = scores(first, from),
                       .c_row = row_,
                       .rows = keys,
                       .depth = p_.d,
                       .top = top},
                      to - from);
  }

  // The same through all steps, with hidden pairs at -inf; first: a whole number of steps
  void visible_scores(index_t j, const tile::key_runs& runs, index_t first, index_t keys, index_t from, index_t to) {
    score(j, first, keys, from, to);
    if (p_.scores.any()) steps_.apply(p_.scores, region(j, first, keys, from, to));
    for (index_t a = first; a < first + keys; a += step) {
      const index_t count = std::min(step, first + keys - a);
      for (index_t x = from; x < to; ++x) {
        const tile::sight seen = runs.step_sight[static_cast<std::size_t>(a / step)][static_cast<std::size_t>(x)];
        if (seen == tile::sight::none) tile::fill(scores(a, x), row_, count, w, -std::numeric_limits<T>::infinity());
        if (seen != tile::sight::some) continue;
        const T kept = relative(at_.keep_first, j);
        if (!at_.vector[static_cast<std::size_t>(x)].all(j + a, j + a + count, at_.keep_first))
          tile::hide(scores(0, x), row_, a, count, to_.lo + x * w, to_.hi + x * w, kept);
        pairs_.hide(region(j, a, count, x, x + 1));
      }
    }
    pairs_.hide_by_user(region(j, first, keys, from, to), steps_);
  }

  void weights(index_t first, index_t keys, index_t from, index_t to) {
    const index_t lane = from * w;
    T *const m = to_.m + lane, *const factor = to_.factor + lane;
    tile::raise(scores(first, from), row_, keys, to - from, m, factor);
    tile::online_softmax(scores(first, from), row_, keys, to - from, m, to_.l + lane, factor);
    rescale_next(from, to);
  }

  // o += V^T p for keys [first, first + keys) of the tile that starts at key j
  void weigh(index_t j, index_t first, index_t keys, index_t from, index_t to) {
    const index_t v_row = p_.v.stride(2);
    add_values(v_ + (j + first) * v_row, v_row, 0, p_.e, first, keys, from, to, start_of(from, to));
  }
  // Columns [c, c + columns) of it, values at v
  void add_values(const T* v, index_t v_row, index_t c, index_t columns, index_t first, index_t keys, index_t from,
                  index_t to, tile::start start) {
    tile::multiply<T>({.a = v,
                       .a_row = 1,
                       .a_col = v_row,
                       .b = scores(first, from),
                       .b_row = row_,
                       .c = to_.acc + c * row_ + from * w,
                       .c_row = row_,
                       .rows = columns,
                       .depth = keys,
                       .start = start,
                       .factor = to_.factor + from * w},
                      to - from);
  }

  // What the next sums of these vectors join, once
  tile::start start_of(index_t from, index_t to) {
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
    std::fill(state_.begin() + from, state_.begin() + to, lane_state::keep);
    return start;
  }

  // Vectors in different states to one: all to be rescaled
  void level(index_t from, index_t to) {
    for (index_t x = from; x < to; ++x) {
      lane_state& state = state_[static_cast<std::size_t>(x)];
      if (state == lane_state::fresh) tile::fill(to_.acc + x * w, row_, p_.e, w, T(0));
      if (state != lane_state::scale) std::fill(to_.factor + x * w, to_.factor + (x + 1) * w, T(1));
      state = lane_state::scale;
    }
  }

  void rescale_next(index_t from, index_t to) {
    std::replace(state_.begin() + from, state_.begin() + to, lane_state::keep, lane_state::scale);
  }

  bool finite(index_t j, index_t keys) const {
    return tile::all_finite(v_ + j * p_.v.stride(2), p_.v.stride(2), keys, p_.e);
  }
  bool hides_nothing(const tile::key_runs& runs, index_t keys) const {
    for (index_t a = 0; a < (keys + step - 1) / step; ++a)
      for (index_t x = 0; x < vectors_; ++x)
        if (runs.step_sight[static_cast<std::size_t>(a)][static_cast<std::size_t>(x)] != tile::sight::all) return false;
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
        tile::fill(scores(covered, vector), row_, run.first - covered, w, -std::numeric_limits<T>::infinity());
      covered = run.first + run.keys;
    }
    HEED_ASSERT(covered == end);
    static_cast<void>(end);
  }

  // o = acc / l, lse = log(2) m + log(l); a row without a key: 0 and -inf
  void finish(const sequence& s, index_t kv_head, index_t first) {
    std::array<T*, tile::most_lanes> o;
    index_t i = first / p_.group, g = first % p_.group;
    for (index_t lane = 0; lane < lanes_; ++lane) {
      const index_t head = kv_head * p_.group + g;
      o[static_cast<std::size_t>(lane)] = p_.output(s, head, i);
      if (p_.opt.lse.data() != nullptr) *p_.lse(s, head, i) = natural_lse(to_.m[lane], to_.l[lane]);
      if (++g == p_.group) g = 0, ++i;
    }
    const simd::batch<T> zero(T(0)), one(T(1));
    for (index_t lane = 0; lane < row_; lane += w) {
      const simd::batch<T> l = simd::load(to_.l + lane);
      simd::store(to_.factor + lane, simd::select<T>(l == zero, zero, one / l));
    }
    tile::scatter(to_.acc, row_, to_.factor, o.data(), lanes_, p_.e);
  }

 public:
  static T natural_lse(T m, T l) {
    return l == T(0) ? -std::numeric_limits<T>::infinity()
                     : static_cast<T>(static_cast<double>(m) * 0.6931471805599453 + std::log(static_cast<double>(l)));
  }

 private:
  const problem<T>& p_;
  scratch to_;
  tile::positions at_;
  tile::pair_mask<T> pairs_;
  tile::score_steps<T> steps_;
  std::array<lane_state, tile::most_vectors> state_{};
  index_t lanes_ = 0, vectors_ = 0, row_ = 0;
  bool careful_ = false;  // values that are not finite reach the lanes that see them, and no other
  const T *k_ = nullptr, *v_ = nullptr;
};

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
