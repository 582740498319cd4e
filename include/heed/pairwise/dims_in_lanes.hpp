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
  static constexpr index_t pass_capacity = pairwise::pass_capacity<T>;
  static constexpr index_t most_rows = w < 8 ? 8 : w;  // fewer rows than this run here
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
        wide_(memory.take<T>(p.kv_format->is_t ? 0 : most_keys * e_)),
        kv_(p, most_keys, tile::row_use::as_stored, tile::row_use::as_stored, memory),
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
    far_ = keys_ * (p_.d + p_.e) * p_.kv_format->element > (index_t{4} << 20) ||  // no cache of a core
           tile::far_rows(p_.k) || tile::far_rows(p_.v);
    for (index_t r = 0; r < rows_; ++r) {
      T* const q = q_ + r * d_;
      simd::store(q + d_ - w, simd::batch<T>(T(0)));
      p_.q_format->read(p_.query(s, rows.row[r].head, rows.row[r].query), 0, 1, p_.d, q, d_);
      for (index_t c = 0; c < d_; c += w)
        simd::store(q + c, simd::load(q + c) * simd::batch<T>(p_.scores.query_factor));
    }
    if (p_.e % w != 0) tile::fill(tail_, w, most_keys, w, T(0));
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
        [&](key_tile<T>& keys) { visit(keys, nonfinite_pass); });
  }
  // The lanes of a row share its m; one of them has the l of the sink.
  void begin_sinks(const row_tile& rows, index_t first) {
    const row_pass r = pass_from(rows_, first);
    for (index_t i = 0; i < w; ++i) {
      const tile::row_state<T> init = p_.init_row(rows.at(r.first + i % r.padded).head);
      state_.set(r.number() * w + i, {init.m, i < r.padded ? init.l : T(0)});
    }
  }

  stored_rows stored(const tile::row_stage<T>& x, index_t key, index_t dim) const {
    return {x.stored(key), x.row_bytes(), dim * p_.kv_format->element};
  }

  void visit(key_tile<T>& keys, bool nonfinite_pass) {
    if (seen_.hides_all(keys.key, keys.key + keys.keys)) return;
    const index_t whole = p_.e / w * w, element = p_.kv_format->element;
    const stored_rows v = stored(kv_.v(), keys.key, p_.e);
    if (whole < p_.e) p_.kv_format->read(v.first + whole * element, v.row_bytes, keys.keys, p_.e - whole, tail_, w);
    if (nonfinite_pass && !p_.kv_format->is_t) {
      p_.kv_format->read(v.first, v.row_bytes, keys.keys, p_.e, wide_, e_);
      keys.v = {wide_, e_, keys.keys, p_.e};
    }
    nonfinite_pass = nonfinite_pass && !tile::all_finite(keys.v.data, keys.v.stride, keys.keys, p_.e);
    for (index_t first = 0; first < rows_; first += pass_capacity) {
      const row_pass r = pass_from(rows_, first);
      score(r, keys, v);
      finish_scores(r, keys);
      const bool some_miss = nonfinite_pass && note_seen(r, keys.keys);
      with_rows(r.padded, [&](auto rows) { weights<rows>(r, keys.keys); });
      some_miss ? add_visible_values(r, keys) : add_values(r, keys.keys, v);
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

  // scores[key][row] = k . q; rows of the next tile are prefetched where K and V are longer than the caches.
  void score(const row_pass& r, const key_tile<T>& keys, const stored_rows& v) {
    const index_t ahead = far_ ? std::min(keys_ - most_keys - keys.key, keys.keys) : 0;
    p_.few_format->score[std::countr_zero(static_cast<unsigned>(r.padded))](
        {stored(kv_.k(), keys.key, p_.d), v, keys.keys, p_.d, q_ + r.first * d_, d_, scores_, ahead, most_keys});
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
  void add_values(const row_pass& r, index_t keys, const stored_rows& v) {
    const index_t element = p_.kv_format->element, row = v.row_bytes / element;
    each_columns([&](index_t c, index_t columns, bool tail) {
      const T* const first = tail ? tail_ : reinterpret_cast<const T*>(v.first + c * element);
      const auto p = product(r, {first, tail ? w : row, keys, columns}, c);
      tail ? tile::multiply(p, columns / w) : p_.few_format->multiply(p, columns / w);
    });
  }
  // The same, but values that are not finite reach the rows that see them, and no other.
  void add_visible_values(const row_pass& r, const key_tile<T>& keys) {
    each_columns([&](index_t c, index_t columns, bool tail) {
      const tile::lane_block<const T> v =
          tail ? tile::lane_block<const T>{tail_, w, keys.keys, w} : keys.v.part(0, keys.keys, c, columns);
      tile::add_visible<most_keys, T>(
          v, {scores_, r.padded, 0, r.rows, acc_ + r.first * e_ + c, 1, e_}, {finite_, v.lanes, v.rows, v.lanes},
          [&](index_t y) { return std::uint64_t{seen_rows_[y]}; },
          [&](const tile::lane_block<const T>& x, index_t) { tile::multiply(product(r, x, c), x.lanes / w); });
    });
  }
  // f(first column, how many: whole vectors, whether they are those in tail_)
  template <class F> void each_columns(F f) const {
    for (index_t c = 0; c < p_.e; c += tile::max_lanes<T>) {
      const index_t whole = std::min(tile::max_lanes<T>, p_.e - c) / w * w, tail = c + whole;
      if (whole > 0) f(c, whole, false);
      if (whole < tile::max_lanes<T> && tail < p_.e) f(tail, w, true);
    }
  }
  tile::matrix_product<T> product(const row_pass& r, const tile::lane_block<const T>& v, index_t c) const {
    tile::matrix_product<T> p =
        tile::product_of<T>(scores_, 1, r.padded, v, {acc_ + r.first * e_ + c, e_, r.rows, v.lanes});
    p.accumulate = tile::accumulate::keep;
    return p;
  }

  void finish(const sequence& s, const row_tile& rows, const T* gate) {
    for (index_t r = 0; r < rows_; ++r) {
      const auto [head, query] = rows.row[r];
      const tile::row_state<T> state = state_of(r);
      if (p_.lse.data() != nullptr) *p_.lse_at(s, head, query) = state.lse();
      T* const acc = acc_ + r * e_;
      const auto scale = [&](T factor) { std::for_each(acc, acc + p_.e, [&](T& x) { x *= factor; }); };
      const auto all_zero = [&] {
        return std::all_of(acc, acc + p_.e, [](T x) { return heed::detail::equals(x, T(0)); });
      };
      const T factor = state.finish(gate == nullptr ? T(1) : gate[r], p_.init_row(head), scale, all_zero);
      p_.o_format->write(acc, factor, p_.output(s, head, query), p_.e);
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
  T *tail_, *finite_, *wide_;   // wide_: rows of V as T
  kv_tiles<T> kv_;
  visibility<T> seen_;
  tile::lane_array<std::uint8_t, most_keys> seen_rows_;  // bit i: row i of the pass sees the key
  bool far_ = false;                                     // K and V are longer than the caches
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
