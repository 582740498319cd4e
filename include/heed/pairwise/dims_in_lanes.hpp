// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with the head dim in lanes, for fewer rows than fill a vector of queries (single tokens, small
// groups). One task is a few rows that share a key/value head: K and V are read once, 128 keys at a time.
//
// Scores: (keys x rows) dot products over d, one accumulator each, reduced together by one tree; they are stored as
// [key][row], so that maxima and sums are vertical. Output: multiply with A = weights and B = the rows of V, as
// they are. Up to 8 rows a pass over the tile, in cache. Masks and score steps see lane i of a vector as row i % R at
// key i / R of the vector's keys (tile/scores.hpp).

#include <algorithm>
#include <bit>

#include "heed/core/context.hpp"
#include "heed/tile/finite.hpp"
#include "heed/pairwise/pair_masks.hpp"
#include "heed/pairwise/score_tiles.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class softmax_rows {
 public:
  static constexpr index_t w = simd::width<T>, key_tile = 128;
  static constexpr index_t pass = w < 8 ? w : 8;       // rows of a pass
  static constexpr index_t most_rows = w < 8 ? 8 : w;  // fewer rows than this run here
  static_assert((most_rows + pass - 1) / pass * w <= most_lanes);

  struct scratch {
    scratch(const softmax_problem<T>& p, index_t rows, heed::detail::arena& memory)
        : q(memory.take<T>(padded_rows(rows) * tile::whole_vectors<T>(p.d))),
          scores(memory.take<T>((key_tile + w) * pass)),
          acc(memory.take<T>(padded_rows(rows) * tile::whole_vectors<T>(p.e))),
          m(memory.take<T>(passes(rows) * w)),
          l(memory.take<T>(passes(rows) * w)),
          tail(memory.take<T>(p.e % w == 0 ? 0 : key_tile * w)),
          finite(memory.take<T>(key_tile * tile::max_lanes<T>)) {}
    T *q, *scores, *acc, *m, *l, *tail, *finite;
  };

  // rows: the most that a run will have
  softmax_rows(const softmax_problem<T>& p, index_t rows, heed::detail::arena& memory)
      : p_(p), d_(tile::whole_vectors<T>(p.d)), e_(tile::whole_vectors<T>(p.e)), to_(p, rows, memory) {}

  // o and lse of rows of key/value head kv_head; gain: if not null, what o of each row is multiplied with
  void run(const sequence& s, index_t kv_head, const tile_rows& rows, const T* gain = nullptr) {
    careful_ = false;
    attend(s, kv_head, rows);
    if (!tile::all_finite(to_.acc, e_, rows_, e_)) {  // it may be a value that some row must not see: 0 * NaN is NaN
      careful_ = true;
      attend(s, kv_head, rows);
    }
    finish(s, rows, gain);
  }

 private:
  void attend(const sequence& s, index_t kv_head, const tile_rows& rows) {
    begin(s, kv_head, rows);
    const key_spans spans = make_spans(at_);
    for (index_t i = 0; i < spans.count; ++i) {
      const key_span& span = spans.span[static_cast<std::size_t>(i)];
      for (index_t j = span.first; j < span.end; j += key_tile)
        visit(j, std::min(key_tile, span.end - j), span.partial || pairs_.any());
    }
  }

  static index_t passes(index_t rows) { return (rows + pass - 1) / pass; }
  // Rows of the pass that starts at row r: 1, 2, 4 or 8, the last ones of which may be padding
  static index_t pass_rows(index_t rows, index_t r) {
    return static_cast<index_t>(std::bit_ceil(static_cast<std::size_t>(std::min(pass, rows - r))));
  }
  static index_t padded_rows(index_t rows) {
    return rows == 0 ? 0 : (passes(rows) - 1) * pass + pass_rows(rows, (passes(rows) - 1) * pass);
  }

  void begin(const sequence& s, index_t kv_head, const tile_rows& rows) {
    const key_rule rule = make_rule(p_.mask, s.number, s.keys);
    const index_t place = first_place(p_.align, p_.mask, s.number, s.queries, s.keys);
    if (s.keys > 0) k_ = p_.key(s, kv_head, 0), v_ = p_.value(s, kv_head, 0);
    rows_ = rows.count;
    keys_ = s.keys;
    far_ = keys_ * (p_.d + p_.e) * static_cast<index_t>(sizeof(T)) > (index_t{4} << 20) ||  // no cache of a core
           tile::far_rows<T>(p_.k.stride(2), p_.d) || tile::far_rows<T>(p_.v.stride(2), p_.e);
    at_.lanes = rows_, at_.keep_first = rule.keep_first;
    for (index_t r = 0; r < rows_; ++r) {
      const auto [head, query] = rows.row[static_cast<std::size_t>(r)];
      const T* q = p_.query(s, head, query);
      for (index_t c = 0; c < p_.d; c += w)
        simd::store(to_.q + r * d_ + c, load_columns(q, c, p_.d) * simd::batch<T>(p_.scores.query_factor));
      at_.lane[static_cast<std::size_t>(r)] = rule.at(place + query);
    }
    summarize(at_, 1);
    const index_t padded = padded_rows(rows_);
    std::fill(to_.q + rows_ * d_, to_.q + padded * d_, T(0));
    std::fill(to_.acc, to_.acc + padded * e_, T(0));
    std::fill(to_.m, to_.m + passes(rows_) * w, std::numeric_limits<T>::lowest());
    std::fill(to_.l, to_.l + passes(rows_) * w, T(0));
    if (p_.scores.any() || pair_mask<T>::asked_by(p_.mask) || p_.sink_logits.set()) begin_options(s, rows, place);
  }

  void begin_options(const sequence& s, const tile_rows& rows, index_t place) {
    steps_.begin(p_.scores, s, p_.calls_functions());
    pairs_.begin(p_.mask, s);
    for (index_t r = 0; r < rows_; r += pass) {
      const index_t apart = pass_rows(rows_, r), first_lane = r / pass * w;
      for (index_t i = 0; i < w; ++i) {
        const index_t row = std::min(r + i % apart, rows_ - 1);
        const auto [head, query] = rows.row[static_cast<std::size_t>(row)];
        steps_.set(p_.scores, first_lane + i, head, query, place + query, i / apart);
        T sum;
        p_.start(head, to_.m[first_lane + i], sum);
        if (i < apart) to_.l[first_lane + i] = sum, pairs_.set(row, head, query);
      }
    }
    steps_.complete(passes(rows_) * w);
  }

  HEED_INLINE static simd::batch<T> load_columns(const T* row, index_t c, index_t columns) {
    return c + w <= columns ? simd::load(row + c) : simd::load_partial(row + c, columns - c);
  }

  void visit(index_t j, index_t keys, bool partial) {
    if (pairs_.any()) {
      pairs_.look(j, j + keys);
      if (pairs_.overlook(rows_)) return;
    }
    if (p_.e % w != 0) {
      const index_t c = p_.e / w * w;
      for (index_t x = 0; x < keys; ++x)
        simd::store(to_.tail + x * w, simd::load_partial(v_ + (j + x) * p_.v.stride(2) + c, p_.e - c));
    }
    const bool careful = careful_ && !tile::all_finite(v_ + j * p_.v.stride(2), p_.v.stride(2), keys, p_.e);
    for (index_t r = 0; r < rows_; r += pass) part(r, pass_rows(rows_, r), j, keys, partial, careful);
  }

  // f with the rows of a pass as a constant
  template <class F> static void with_rows(index_t apart, F f) {
    if constexpr (pass >= 8)
      if (apart == 8) return f(std::integral_constant<index_t, 8>{});
    if constexpr (pass >= 4)
      if (apart == 4) return f(std::integral_constant<index_t, 4>{});
    if (apart == 2) return f(std::integral_constant<index_t, 2>{});
    f(std::integral_constant<index_t, 1>{});
  }

  // Rows [r, r + apart) over keys [j, j + keys); rows from rows_ on are padding and dropped
  void part(index_t r, index_t apart, index_t j, index_t keys, bool partial, bool careful) {
    with_rows(apart, [&](auto rows) { score<rows>(r, j, keys); });
    const index_t x = r / pass;
    const score_region<T> region{to_.scores, w, j, keys, x, x + 1, w / apart};
    if (p_.scores.any()) steps_.apply(p_.scores, region);
    if (partial) hide(r, apart, j, keys), pairs_.hide_by_user(region, steps_);
    for (index_t i = keys * apart; i % w != 0; ++i) to_.scores[i] = -std::numeric_limits<T>::infinity();
    careful = careful && note_seen(r, apart, keys);
    with_rows(apart, [&](auto rows) { weights<rows>(r, keys); });
    weigh(r, apart, j, keys, careful);
  }

  // scores[key][row] = k . q
  template <index_t R> HEED_NOINLINE void score(index_t r, index_t j, index_t keys) {
    constexpr index_t block = w / R;
    const index_t stride = p_.k.stride(2);
    const T* k = k_ + j * stride;
    const index_t ahead = far_ ? std::min(keys_ - key_tile - j, keys) : 0;  // of these keys' successors one tile on
    for (index_t x = 0; x < keys; x += block, k += block * stride) {
      for (index_t y = x; y < std::min(x + block, ahead); ++y) {
        prefetch_row(k_ + (j + key_tile + y) * stride, p_.d);
        prefetch_row(v_ + (j + key_tile + y) * p_.v.stride(2), p_.e);
      }
      simd::store(to_.scores + x * R, dots<R>(k, stride, keys - x, to_.q + r * d_,
                                              std::make_integer_sequence<int, static_cast<int>(block)>{}));
    }
  }

  HEED_INLINE static void prefetch_row(const T* row, index_t columns) {
    for (index_t c = 0; c < columns; c += 64 / static_cast<index_t>(sizeof(T))) simd::prefetch(row, c);
  }

  // [key][row] of w / R keys, read in the order of their addresses; zeros for keys from `count` on
  template <index_t R, int... Y>
  HEED_INLINE simd::batch<T> dots(const T* k, index_t stride, index_t count, const T* q,
                                  std::integer_sequence<int, Y...>) const {
    constexpr auto rows = std::make_integer_sequence<int, static_cast<int>(R)>{};
    simd::square<T> sum;
    ((Y < count ? dot<R, Y>(sum, k + Y * stride, q, rows) : clear<R, Y>(sum, rows)), ...);
    return simd::sum_rows<T>(sum);
  }
  template <index_t R, int Y, int... X>
  HEED_INLINE void clear(simd::square<T>& sums, std::integer_sequence<int, X...>) const {
    ((sums[Y * R + X] = simd::batch<T>(T(0))), ...);
  }
  template <index_t R, int Y, int... X>
  HEED_INLINE void dot(simd::square<T>& sums, const T* k, const T* q, std::integer_sequence<int, X...>) const {
    std::array<simd::batch<T>, static_cast<std::size_t>(R)> sum;
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

  // All but what a user's predicate hides
  HEED_NOINLINE void hide(index_t r, index_t apart, index_t j, index_t keys) {
    for (index_t x = 0; x < std::min(apart, rows_ - r); ++x) {
      const visible sees = at_.lane[static_cast<std::size_t>(r + x)];
      for (index_t key = j; key < j + keys; ++key)
        if (key >= sees.hi || (key < sees.lo && key >= at_.keep_first) || !pairs_.sees(r + x, key))
          to_.scores[(key - j) * apart + x] = -std::numeric_limits<T>::infinity();
    }
  }

  // The online softmax of tile/weights.hpp with rows in lanes: lane i of a vector is row r + i % R. The lanes of a row
  // share its maximum and each keep a part of its sum, until the end.
  template <index_t R> HEED_NOINLINE void weights(index_t r, index_t keys) {
    using batch = simd::batch<T>;
    const index_t count = (keys * R + w - 1) / w;
    T *const m = to_.m + r / pass * w, *const l = to_.l + r / pass * w;
    const batch before = simd::load(m);
    batch top = before, sum(T(0));
    for (index_t i = 0; i < count; ++i) top = simd::max(top, simd::load(to_.scores + i * w));
    top = simd::fold<R, T>(top, [](batch a, batch b) { return simd::max(a, b); });
    for (index_t i = 0; i < count; ++i) {
      const batch p = simd::exp2_nonpositive(simd::load(to_.scores + i * w) - top);
      sum += p;
      simd::store(to_.scores + i * w, p);
    }
    const batch factor = simd::exp2_nonpositive(before - top);
    simd::store(l, simd::fma(factor, simd::load(l), sum));
    simd::store(m, top);
    std::array<T, static_cast<std::size_t>(w)> each;
    simd::store(each.data(), factor);
    for (index_t x = 0; x < std::min(R, rows_ - r); ++x) {
      const T f = each[static_cast<std::size_t>(x)];
      if (heed::detail::equals(f, T(1))) continue;
      T* const acc = to_.acc + (r + x) * e_;
      for (index_t c = 0; c < e_; c += w) simd::store(acc + c, simd::load(acc + c) * batch(f));
    }
  }

  // Which rows of the pass see which keys; whether some row misses some key
  HEED_NOINLINE bool note_seen(index_t r, index_t apart, index_t keys) {
    const unsigned all = (1u << std::min(apart, rows_ - r)) - 1;
    bool some = false;
    for (index_t y = 0; y < keys; ++y) {
      unsigned rows = 0;
      for (index_t i = 0; i < apart; ++i)
        if (!heed::detail::equals(to_.scores[y * apart + i], -std::numeric_limits<T>::infinity())) rows |= 1u << i;
      seen_[static_cast<std::size_t>(y)] = static_cast<std::uint8_t>(rows);
      some = some || (rows & all) != all;
    }
    return some;
  }

  // acc[row][e] += sum over the tile's keys of p[key][row] v[key][e]
  void weigh(index_t r, index_t apart, index_t j, index_t keys, bool careful) {
    for (index_t c = 0; c < p_.e; c += tile::max_lanes<T>) {
      const index_t whole = std::min(tile::max_lanes<T>, p_.e - c) / w;
      if (whole > 0) columns(r, apart, v_ + j * p_.v.stride(2) + c, p_.v.stride(2), c, whole, keys, careful);
      if (const index_t tail = c + whole * w; whole < tile::max_vectors && tail < p_.e)
        columns(r, apart, to_.tail, w, tail, 1, keys, careful);
    }
  }
  void columns(index_t r, index_t apart, const T* v, index_t v_row, index_t c, index_t vectors, index_t keys,
               bool careful) {
    const index_t rows = std::min(apart, rows_ - r);
    T* const sums = to_.acc + r * e_ + c;
    const auto multiply = [&](const tile::lane_block<const T>& x, index_t = 0) {
      tile::multiply<T>({.a = to_.scores,
                         .a_row = 1,
                         .a_col = apart,
                         .b = x.data,
                         .b_row = x.stride,
                         .c = sums,
                         .c_row = e_,
                         .rows = rows,
                         .depth = keys,
                         .accumulate = tile::accumulate::keep},
                        vectors);
    };
    const tile::lane_block<const T> x{v, v_row, keys, vectors * w};
    if (!careful) return multiply(x);
    tile::add_visible<key_tile, T>(
        x, {to_.scores, apart, 0, rows, sums, 1, e_}, {to_.finite, x.lanes, keys, x.lanes},
        [&](index_t y) { return std::uint64_t{seen_[static_cast<std::size_t>(y)]}; }, multiply);
  }

  void finish(const sequence& s, const tile_rows& rows, const T* gain) {
    for (index_t r = 0; r < rows_; ++r) {
      const auto [head, query] = rows.row[static_cast<std::size_t>(r)];
      const T m = to_.m[r / pass * w + r % pass], l = total(r);
      if (p_.lse.data() != nullptr) *p_.lse_at(s, head, query) = tile::natural_lse(m, l);
      T* const o = p_.output(s, head, query);
      T* const acc = to_.acc + r * e_;
      const auto scale = [&](T factor) { std::for_each(acc, acc + p_.e, [&](T& x) { x *= factor; }); };
      const auto all_zero = [&] {
        return std::all_of(acc, acc + p_.e, [](T x) { return heed::detail::equals(x, T(0)); });
      };
      const simd::batch<T> factor(p_.finish_factor(head, m, l, gain == nullptr ? T(1) : gain[r], scale, all_zero));
      index_t c = 0;
      for (; c + w <= p_.e; c += w) simd::store(o + c, simd::load(acc + c) * factor);
      if (c < p_.e) simd::store_partial(o + c, simd::load(acc + c) * factor, p_.e - c);
    }
  }

  // The sum of row r's weights, from its lanes
  T total(index_t r) const {
    const T* const l = to_.l + r / pass * w;
    T sum(0);
    for (index_t i = r % pass; i < w; i += pass_rows(rows_, r / pass * pass)) sum += l[i];
    return sum;
  }

  const softmax_problem<T>& p_;
  index_t d_, e_, rows_ = 0, keys_ = 0;
  scratch to_;
  positions at_;
  pair_mask<T> pairs_;
  score_steps<T> steps_;
  std::array<std::uint8_t, key_tile> seen_;  // bit i: row i of the pass sees the key; with care only
  const T *k_ = nullptr, *v_ = nullptr;
  bool far_ = false;      // K and V are longer than the caches
  bool careful_ = false;  // values that are not finite reach the rows that see them, and no other
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
