// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with the head dim in lanes, for fewer rows than fill a vector of queries (single tokens, small
// groups). One task is a few rows that share a key/value head: K and V are read once, 128 keys at a time.
//
// Scores: (keys x rows) dot products over d, one accumulator each, reduced together by one tree; they are stored as
// [key][row], so that maxima and sums are vertical. Output: multiply with A = weights and B = the rows of V, as
// they are. Up to 8 rows a pass over the tile, in cache. Masks and score mods see lane i of a vector as row i % R at
// key i / R of the vector's keys.

#include <algorithm>
#include <bit>

#include "heed/pairwise/key_tiles.hpp"
#include "heed/pairwise/visibility.hpp"
#include "heed/tile/finite.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class dims_in_lanes {
 public:
  static constexpr index_t w = simd::width<T>, most_keys = 128;
  static constexpr index_t pass_capacity = w < 8 ? w : 8;  // rows of a pass
  static constexpr index_t most_rows = w < 8 ? 8 : w;      // fewer rows than this run here
  static_assert((most_rows + pass_capacity - 1) / pass_capacity * w <= lane_capacity);

  // rows: the most that a run will have
  dims_in_lanes(const softmax_problem<T>& p, index_t rows, heed::detail::arena& memory)
      : p_(p),
        d_(tile::whole_vectors<T>(p.d)),
        e_(tile::whole_vectors<T>(p.e)),
        q_(memory.take<T>(padded_rows(rows) * d_)),
        scores_(memory.take<T>((most_keys + w) * pass_capacity)),
        acc_(memory.take<T>(padded_rows(rows) * e_)),
        state_{memory.take<T>(passes(rows) * w), memory.take<T>(passes(rows) * w)},
        tail_(memory.take<T>(p.e % w == 0 ? 0 : most_keys * w)),
        finite_(memory.take<T>(most_keys * tile::max_lanes<T>)),
        kv_(p, most_keys, false, false, memory),
        seen_(p) {}

  // o and lse of rows of key/value head kv_head; gate: if not null, what o of each row is multiplied with
  void run(const sequence& s, index_t kv_head, const row_tile& rows, const T* gate = nullptr) {
    begin(s, kv_head, rows);
    attend(rows, false);
    if (!tile::all_finite(acc_, e_, rows_, e_)) attend(rows, true);  // perhaps by a value that some row must not see
    finish(s, rows, gate);
  }

 private:
  // Rows [first, first + rows) of the task, with padding `padded` of them: 1, 2, 4 or 8
  struct row_pass {
    index_t first, rows, padded;
    index_t number() const { return first / pass_capacity; }
  };
  static row_pass pass_from(index_t rows, index_t first) {
    const index_t count = std::min(pass_capacity, rows - first);
    return {first, count, static_cast<index_t>(std::bit_ceil(static_cast<std::uint64_t>(count)))};
  }
  static index_t passes(index_t rows) { return (rows + pass_capacity - 1) / pass_capacity; }
  static index_t padded_rows(index_t rows) {
    const index_t last = (passes(rows) - 1) * pass_capacity;
    return rows == 0 ? 0 : last + pass_from(rows, last).padded;
  }

  void begin(const sequence& s, index_t kv_head, const row_tile& rows) {
    kv_.begin(s, kv_head);
    rows_ = rows.count, keys_ = s.keys;
    far_ = keys_ * (p_.d + p_.e) * static_cast<index_t>(sizeof(T)) > (index_t{4} << 20) ||  // no cache of a core
           tile::far_rows<T>(p_.k.stride(2), p_.d) || tile::far_rows<T>(p_.v.stride(2), p_.e);
    for (index_t r = 0; r < rows_; ++r) {
      const T* const q = p_.query(s, rows.row[r].head, rows.row[r].query);
      for (index_t c = 0; c < p_.d; c += w)
        simd::store(q_ + r * d_ + c, load_columns(q, c, p_.d) * simd::batch<T>(p_.scores.query_factor));
    }
    std::fill(q_ + rows_ * d_, q_ + padded_rows(rows_) * d_, T(0));
    seen_.begin(s, rows, 1, passes(rows_) * w, [this](index_t lane) {
      const row_pass r = pass_from(rows_, lane / w * pass_capacity);
      return lane_place{std::min(r.first + lane % w % r.padded, rows_ - 1), lane % w / r.padded};
    });
  }

  void attend(const row_tile& rows, bool nonfinite_pass) {
    std::fill(acc_, acc_ + padded_rows(rows_) * e_, T(0));
    state_.init(passes(rows_) * w);
    for (index_t first = 0; p_.sink_logits.set() && first < rows_; first += pass_capacity) begin_sinks(rows, first);
    kv_.each(
        seen_.spans(), [](const key_span&) { return most_keys; },
        [&](const key_tile<T>& keys) { visit(keys, nonfinite_pass); });
  }
  // The lanes of a row share its m; one of them has the l of the sink.
  void begin_sinks(const row_tile& rows, index_t first) {
    const row_pass r = pass_from(rows_, first);
    for (index_t i = 0; i < w; ++i) {
      const tile::row_state<T> init = p_.init_row(rows.at(r.first + i % r.padded).head);
      state_.set(r.number() * w + i, {init.m, i < r.padded ? init.l : T(0)});
    }
  }

  HEED_INLINE static simd::batch<T> load_columns(const T* row, index_t c, index_t columns) {
    return c + w <= columns ? simd::load(row + c) : simd::load_partial(row + c, columns - c);
  }

  void visit(const key_tile<T>& keys, bool nonfinite_pass) {
    if (seen_.hides_all(keys.key, keys.key + keys.keys)) return;
    const index_t whole = p_.e / w * w;
    for (index_t x = 0; whole < p_.e && x < keys.keys; ++x)
      simd::store(tail_ + x * w, simd::load_partial(keys.v.row(x) + whole, p_.e - whole));
    nonfinite_pass = nonfinite_pass && !tile::all_finite(keys.v.data, keys.v.stride, keys.keys, p_.e);
    for (index_t first = 0; first < rows_; first += pass_capacity) {
      const row_pass r = pass_from(rows_, first);
      with_rows(r.padded, [&](auto rows) { score<rows>(r, keys); });
      finish_scores(r, keys);
      const bool some_miss = nonfinite_pass && note_seen(r, keys.keys);
      with_rows(r.padded, [&](auto rows) { weights<rows>(r, keys.keys); });
      add_values(r, keys, some_miss);
    }
  }

  // f with the rows of a pass as a constant
  template <class F> static void with_rows(index_t padded, F f) {
    if constexpr (pass_capacity >= 8)
      if (padded == 8) return f(std::integral_constant<index_t, 8>{});
    if constexpr (pass_capacity >= 4)
      if (padded == 4) return f(std::integral_constant<index_t, 4>{});
    if (padded == 2) return f(std::integral_constant<index_t, 2>{});
    f(std::integral_constant<index_t, 1>{});
  }

  // scores[key][row] = k . q
  template <index_t R> HEED_NOINLINE void score(const row_pass& r, const key_tile<T>& keys) {
    constexpr index_t block = w / R;
    // of these keys' successors one tile on
    const index_t ahead = far_ ? std::min(keys_ - most_keys - keys.key, keys.keys) : 0;
    tile::lane_block<const T> k = keys.k;  // from key x on
    for (index_t x = 0; x < keys.keys; x += block, k.rows -= block, k.data += block * k.stride) {
      for (index_t y = x; y < std::min(x + block, ahead); ++y)
        prefetch_row(keys.k, most_keys + y), prefetch_row(keys.v, most_keys + y);
      simd::store(scores_ + x * R,
                  dots<R>(k, q_ + r.first * d_, std::make_integer_sequence<int, static_cast<int>(block)>{}));
    }
  }

  HEED_INLINE static void prefetch_row(const tile::lane_block<const T>& x, index_t row) {
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
    for (index_t c = 0; c < x.lanes; c += line) simd::prefetch(x.data, row * x.stride + c);
  }

  // [key][row] of w / R keys, read in the order of their addresses; zeros for keys behind k's
  template <index_t R, int... Y>
  HEED_INLINE simd::batch<T> dots(const tile::lane_block<const T>& k, const T* q,
                                  std::integer_sequence<int, Y...>) const {
    constexpr auto rows = std::make_integer_sequence<int, static_cast<int>(R)>{};
    simd::square<T> sum;
    ((Y < k.rows ? dot<R, Y>(sum, k.row(Y), q, rows) : clear<R, Y>(sum, rows)), ...);
    return simd::sum_rows<T>(sum);
  }
  template <index_t R, int Y, int... X>
  HEED_INLINE void clear(simd::square<T>& sums, std::integer_sequence<int, X...>) const {
    ((sums[Y * R + X] = simd::batch<T>(T(0))), ...);
  }
  template <index_t R, int Y, int... X>
  HEED_INLINE void dot(simd::square<T>& sums, const T* k, const T* q, std::integer_sequence<int, X...>) const {
    tile::lane_array<simd::batch<T>, R> sum;
    ((sum[X] = simd::batch<T>(T(0))), ...);
    index_t c = 0;
    for (; c + w <= p_.d; c += w) {
      const simd::batch<T> x = simd::pinned(simd::load(k + c));
      ((sum[X] = simd::fma(x, simd::load(q + X * d_ + c), sum[X])), ...);
    }
    if (c < p_.d) {
      const simd::batch<T> x = simd::load_partial(k + c, p_.d - c);
      ((sum[X] = simd::fma(x, simd::load(q + X * d_ + c), sum[X])), ...);
    }
    ((sums[Y * R + X] = sum[X]), ...);
  }

  // Score mods and masks; -inf behind the last key, up to a whole vector
  void finish_scores(const row_pass& r, const key_tile<T>& keys) {
    const index_t x = r.number();
    const score_region<T> region{scores_, w, keys.key, keys.keys, x, x + 1, w / r.padded};
    seen_.modify(region);
    if (keys.partial || seen_.tests_pairs()) seen_.hide_rows(region, r.first, r.rows), seen_.hide_by_user(region);
    for (index_t i = keys.keys * r.padded; i % w != 0; ++i) scores_[i] = -std::numeric_limits<T>::infinity();
  }

  // Weights in place of the scores; sums of rows whose maximum has risen are rescaled.
  template <index_t R> HEED_NOINLINE void weights(const row_pass& r, index_t keys) {
    const simd::batch<T> factor = state_.template update_rows<R>(scores_, (keys * R + w - 1) / w, r.number() * w);
    tile::lane_array<T, w> each;
    simd::store(each.data(), factor);
    for (index_t x = 0; x < std::min(R, r.rows); ++x) {
      if (heed::detail::equals(each[x], T(1))) continue;
      T* const acc = acc_ + (r.first + x) * e_;
      for (index_t c = 0; c < e_; c += w) simd::store(acc + c, simd::load(acc + c) * simd::batch<T>(each[x]));
    }
  }

  // Notes which rows of the pass see which keys. Returns whether some row misses some key.
  HEED_NOINLINE bool note_seen(const row_pass& r, index_t keys) {
    const unsigned all = (1u << r.rows) - 1;
    bool some = false;
    for (index_t y = 0; y < keys; ++y) {
      unsigned rows = 0;
      for (index_t i = 0; i < r.padded; ++i)
        if (!heed::detail::equals(scores_[y * r.padded + i], -std::numeric_limits<T>::infinity())) rows |= 1u << i;
      seen_rows_[y] = static_cast<std::uint8_t>(rows);
      some = some || (rows & all) != all;
    }
    return some;
  }

  // acc[row][e] += sum over the tile's keys of p[key][row] v[key][e]
  void add_values(const row_pass& r, const key_tile<T>& keys, bool some_miss) {
    for (index_t c = 0; c < p_.e; c += tile::max_lanes<T>) {
      const index_t whole = std::min(tile::max_lanes<T>, p_.e - c) / w * w, tail = c + whole;
      if (whole > 0) add_columns(r, keys.v.part(0, keys.keys, c, whole), c, some_miss);
      if (whole < tile::max_lanes<T> && tail < p_.e) add_columns(r, {tail_, w, keys.keys, w}, tail, some_miss);
    }
  }
  // some_miss: values that are not finite reach the rows that see them, and no other
  void add_columns(const row_pass& r, const tile::lane_block<const T>& v, index_t c, bool some_miss) {
    T* const sums = acc_ + r.first * e_ + c;
    const auto multiply = [&](const tile::lane_block<const T>& x, index_t = 0) {
      tile::matrix_product<T> p = tile::product_of<T>(scores_, 1, r.padded, x, {sums, e_, r.rows});
      p.accumulate = tile::accumulate::keep;
      tile::multiply(p, x.lanes / w);
    };
    if (!some_miss) return multiply(v);
    tile::add_visible<most_keys, T>(
        v, {scores_, r.padded, 0, r.rows, sums, 1, e_}, {finite_, v.lanes, v.rows, v.lanes},
        [&](index_t y) { return std::uint64_t{seen_rows_[y]}; }, multiply);
  }

  void finish(const sequence& s, const row_tile& rows, const T* gate) {
    for (index_t r = 0; r < rows_; ++r) {
      const auto [head, query] = rows.row[r];
      const tile::row_state<T> state = state_of(r);
      if (p_.lse.data() != nullptr) *p_.lse_at(s, head, query) = state.lse();
      T* const o = p_.output(s, head, query);
      T* const acc = acc_ + r * e_;
      const auto scale = [&](T factor) { std::for_each(acc, acc + p_.e, [&](T& x) { x *= factor; }); };
      const auto all_zero = [&] {
        return std::all_of(acc, acc + p_.e, [](T x) { return heed::detail::equals(x, T(0)); });
      };
      const simd::batch<T> factor(state.finish(gate == nullptr ? T(1) : gate[r], p_.init_row(head), scale, all_zero));
      index_t c = 0;
      for (; c + w <= p_.e; c += w) simd::store(o + c, simd::load(acc + c) * factor);
      if (c < p_.e) simd::store_partial(o + c, simd::load(acc + c) * factor, p_.e - c);
    }
  }

  // Of row r, l from its lanes
  tile::row_state<T> state_of(index_t r) const {
    const row_pass pass = pass_from(rows_, r / pass_capacity * pass_capacity);
    const index_t lane = pass.number() * w, x = r % pass_capacity;
    tile::row_state<T> sum{state_.at(lane + x).m};
    for (index_t i = x; i < w; i += pass.padded) sum.l += state_.at(lane + i).l;
    return sum;
  }

  const softmax_problem<T>& p_;
  index_t d_, e_, rows_ = 0, keys_ = 0;
  T *q_, *scores_, *acc_;
  tile::lane_states<T> state_;  // a vector for each pass
  T *tail_, *finite_;
  kv_tiles<T> kv_;
  visibility<T> seen_;
  tile::lane_array<std::uint8_t, most_keys> seen_rows_;  // bit i: row i of the pass sees the key
  bool far_ = false;                                     // K and V are longer than the caches
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
