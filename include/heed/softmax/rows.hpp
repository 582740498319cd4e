// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with the head dim in lanes, for fewer rows than fill a vector of queries (single tokens, small
// groups). One task is all rows of a key/value head: K and V are read once, 128 keys at a time.
//
// Scores: (keys x rows) dot products over d, one accumulator each, reduced together by one tree; they are stored as
// [key][row], so that maxima and sums are vertical. Output: tile::multiply with A = weights and B = the rows of V, as
// they are. Up to 8 rows a pass over the tile, in cache.

#include <bit>

#include "heed/core/context.hpp"
#include "heed/softmax/lanes.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> class rows_driver {
 public:
  static constexpr index_t w = simd::width<T>, key_tile = 128;
  static constexpr index_t pass = w < 8 ? w : 8;  // rows of a pass

  rows_driver(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        d_(round_up(p.d)),
        e_(round_up(p.e)),
        q_(memory.take<T>(padded_rows(p.rows) * d_)),
        scores_(memory.take<T>((key_tile + w) * pass)),
        acc_(memory.take<T>(padded_rows(p.rows) * e_)),
        m_(memory.take<T>(passes(p.rows) * w)),
        l_(memory.take<T>(passes(p.rows) * w)),
        tail_(memory.take<T>(p.e % w == 0 ? 0 : key_tile * w)) {}

  void run(index_t b, index_t kv_head) {
    begin(b, kv_head);
    const tile::key_spans spans = tile::make_spans(at_);
    for (index_t i = 0; i < spans.count; ++i) {
      const tile::key_span& span = spans.span[static_cast<std::size_t>(i)];
      for (index_t j = span.first; j < span.end; j += key_tile)
        visit(j, std::min(key_tile, span.end - j), span.partial);
    }
    finish(b, kv_head);
  }

 private:
  static index_t round_up(index_t x) { return (x + w - 1) / w * w; }
  static index_t passes(index_t rows) { return (rows + pass - 1) / pass; }
  // Rows of all passes: the last one takes 1, 2, 4 or 8
  static index_t padded_rows(index_t rows) {
    return rows / pass * pass +
           (rows % pass == 0 ? 0 : static_cast<index_t>(std::bit_ceil(static_cast<std::size_t>(rows % pass))));
  }

  void begin(index_t b, index_t kv_head) {
    const tile::key_rule rule = tile::make_rule(heed::detail::parts(p_.opt.mask), b, p_.m);
    const index_t place = tile::first_place(heed::detail::parts(p_.opt.align), b, p_.n, p_.m);
    k_ = p_.key(b, kv_head, 0), v_ = p_.value(b, kv_head, 0);
    at_.lanes = p_.rows, at_.keep_first = rule.keep_first;
    for (index_t r = 0; r < p_.rows; ++r) {
      const index_t i = r / p_.group;
      const T* q = p_.query(b, kv_head * p_.group + r % p_.group, i);
      for (index_t c = 0; c < p_.d; c += w)
        simd::store(q_ + r * d_ + c, load_columns(q, c, p_.d) * simd::batch<T>(p_.factor));
      at_.lane[static_cast<std::size_t>(r)] = rule.at(place + i);
    }
    tile::summarize(at_, 1);
    const index_t padded = padded_rows(p_.rows);
    std::fill(q_ + p_.rows * d_, q_ + padded * d_, T(0));
    std::fill(acc_, acc_ + padded * e_, T(0));
    std::fill(m_, m_ + passes(p_.rows) * w, std::numeric_limits<T>::lowest());
    std::fill(l_, l_ + passes(p_.rows) * w, T(0));
  }

  HEED_INLINE static simd::batch<T> load_columns(const T* row, index_t c, index_t columns) {
    return c + w <= columns ? simd::load(row + c) : simd::load_partial(row + c, columns - c);
  }

  void visit(index_t j, index_t keys, bool partial) {
    if (p_.e % w != 0) {
      const index_t c = p_.e / w * w;
      for (index_t x = 0; x < keys; ++x)
        simd::store(tail_ + x * w, simd::load_partial(v_ + (j + x) * p_.v.stride(2) + c, p_.e - c));
    }
    for (index_t r = 0; r < p_.rows; r += pass) {
      const index_t left = p_.rows - r;
      if (left > 4 && pass >= 8)
        part<pass>(r, j, keys, partial);
      else if (left > 2 && pass >= 4)
        part<(pass < 4 ? pass : 4)>(r, j, keys, partial);
      else if (left > 1)
        part<2>(r, j, keys, partial);
      else
        part<1>(r, j, keys, partial);
    }
  }

  // Rows [r, r + R) over keys [j, j + keys); rows from p.rows on are zeros and dropped
  template <index_t R> void part(index_t r, index_t j, index_t keys, bool partial) {
    score<R>(r, j, keys);
    if (partial) hide<R>(r, j, keys);
    weights<R>(r, keys);
    const index_t rows = std::min(R, p_.rows - r);
    if (!partial) return weigh(r, rows, scores_, R, j, 0, keys);
    for (index_t x = 0; x < rows; ++x) {  // each row reads the values that it sees, and no other
      const tile::visible sees = at_.lane[static_cast<std::size_t>(r + x)];
      const index_t hi = std::min(sees.hi, j + keys), kept = std::max(j, std::min(at_.keep_first, hi)),
                    lo = std::max(sees.lo, kept);
      if (kept > j) weigh(r + x, 1, scores_ + x, R, j, 0, kept - j);
      if (hi > lo) weigh(r + x, 1, scores_ + x, R, j, lo - j, hi - j);
    }
  }

  // scores[key][row] = k . q; what is behind the last key up to a whole vector is -inf
  template <index_t R> HEED_NOINLINE void score(index_t r, index_t j, index_t keys) {
    constexpr index_t block = w / R;
    const index_t stride = p_.k.stride(2);
    const T* k = k_ + j * stride;
    index_t x = 0;
    const index_t ahead = far_ ? std::min(p_.m - key_tile - j, keys) : 0;  // of these keys' successors one tile on
    for (; x + block <= keys; x += block, k += block * stride) {
      for (index_t y = x; y < std::min(x + block, ahead); ++y) {
        prefetch_row(k_ + (j + key_tile + y) * stride, p_.d);
        prefetch_row(v_ + (j + key_tile + y) * p_.v.stride(2), p_.e);
      }
      simd::store(scores_ + x * R, dots<R>(k, stride, [](index_t) { return true; }, q_ + r * d_,
                                           std::make_integer_sequence<int, static_cast<int>(block)>{}));
    }
    if (const index_t left = keys - x; left > 0)
      simd::store(scores_ + x * R, dots<R>(k, stride, [left](index_t y) { return y < left; }, q_ + r * d_,
                                           std::make_integer_sequence<int, static_cast<int>(block)>{}));
    for (x = keys * R; x % w != 0; ++x) scores_[x] = -std::numeric_limits<T>::infinity();
  }

  HEED_INLINE static void prefetch_row(const T* row, index_t columns) {
    for (index_t c = 0; c < columns; c += 64 / static_cast<index_t>(sizeof(T))) simd::prefetch(row + c);
  }

  // [key][row] of w / R keys, read in the order of their addresses; zeros for the keys that are not there
  template <index_t R, class There, int... Y>
  HEED_INLINE simd::batch<T> dots(const T* k, index_t stride, There there, const T* q,
                                  std::integer_sequence<int, Y...>) const {
    constexpr auto rows = std::make_integer_sequence<int, static_cast<int>(R)>{};
    simd::square<T> sum;
    ((there(Y) ? dot<R, Y>(sum, k + Y * stride, q, rows) : clear<R, Y>(sum, rows)), ...);
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

  template <index_t R> void hide(index_t r, index_t j, index_t keys) {
    for (index_t x = 0; x < std::min(R, p_.rows - r); ++x) {
      const tile::visible sees = at_.lane[static_cast<std::size_t>(r + x)];
      for (index_t y = 0; y < keys; ++y)
        if (const index_t key = j + y; key >= sees.hi || (key < sees.lo && key >= at_.keep_first))
          scores_[y * R + x] = -std::numeric_limits<T>::infinity();
    }
  }

  // The online softmax of tile/weights.hpp with rows in lanes: lane i of a vector is row r + i % R. The lanes of a row
  // share its maximum and each keep a part of its sum, until the end.
  template <index_t R> HEED_NOINLINE void weights(index_t r, index_t keys) {
    using batch = simd::batch<T>;
    const index_t count = (keys * R + w - 1) / w;
    T *const m = m_ + r / pass * w, *const l = l_ + r / pass * w;
    const batch before = simd::load(m);
    batch top = before, sum(T(0));
    for (index_t i = 0; i < count; ++i) top = simd::max(top, simd::load(scores_ + i * w));
    top = simd::fold<R, T>(top, [](batch a, batch b) { return simd::max(a, b); });
    for (index_t i = 0; i < count; ++i) {
      const batch p = simd::exp2_nonpositive(simd::load(scores_ + i * w) - top);
      sum += p;
      simd::store(scores_ + i * w, p);
    }
    const batch factor = simd::exp2_nonpositive(before - top);
    simd::store(l, simd::fma(factor, simd::load(l), sum));
    simd::store(m, top);
    std::array<T, static_cast<std::size_t>(w)> each;
    simd::store(each.data(), factor);
    for (index_t x = 0; x < std::min(R, p_.rows - r); ++x) {
      const T f = each[static_cast<std::size_t>(x)];
      if (f == T(1)) continue;
      T* const acc = acc_ + (r + x) * e_;
      for (index_t c = 0; c < e_; c += w) simd::store(acc + c, simd::load(acc + c) * batch(f));
    }
  }

  // acc[row][e] += sum over keys [first, end) of the tile at j of p[key][row] v[key][e]
  void weigh(index_t r, index_t rows, const T* p, index_t p_row, index_t j, index_t first, index_t end) {
    const index_t whole = p_.e / w;
    const auto columns = [&](const T* v, index_t v_row, index_t c, index_t vectors) {
      tile::multiply<T>({.a = p + first * p_row,
                         .a_row = 1,
                         .a_col = p_row,
                         .b = v,
                         .b_row = v_row,
                         .c = acc_ + r * e_ + c,
                         .c_row = e_,
                         .rows = rows,
                         .depth = end - first,
                         .start = tile::start::keep},
                        vectors);
    };
    for (index_t x = 0; x < whole; x += tile::max_vectors)
      columns(v_ + (j + first) * p_.v.stride(2) + x * w, p_.v.stride(2), x * w,
              std::min<index_t>(tile::max_vectors, whole - x));
    if (p_.e % w != 0) columns(tail_ + first * w, w, whole * w, 1);
  }

  void finish(index_t b, index_t kv_head) {
    for (index_t r = 0; r < p_.rows; ++r) {
      const index_t i = r / p_.group, head = kv_head * p_.group + r % p_.group;
      const T m = m_[r / pass * w + r % pass];
      const T l = total(r);
      if (p_.opt.lse.data() != nullptr) *p_.lse(b, head, i) = lanes_driver<T>::natural_lse(m, l);
      T* const o = p_.output(b, head, i);
      const simd::batch<T> gain(l == T(0) ? T(0) : T(1) / l);
      index_t c = 0;
      for (; c + w <= p_.e; c += w) simd::store(o + c, simd::load(acc_ + r * e_ + c) * gain);
      if (c < p_.e) simd::store_partial(o + c, simd::load(acc_ + r * e_ + c) * gain, p_.e - c);
    }
  }

  // The sum of row r's weights, from its lanes
  T total(index_t r) const {
    index_t apart = pass;  // rows of this row's pass
    if (r / pass == p_.rows / pass)
      apart = static_cast<index_t>(std::bit_ceil(static_cast<std::size_t>(p_.rows % pass)));
    const T* const l = l_ + r / pass * w;
    T sum(0);
    for (index_t i = r % pass; i < w; i += apart) sum += l[i];
    return sum;
  }

  const problem<T>& p_;
  index_t d_, e_;
  T *q_, *scores_, *acc_, *m_, *l_, *tail_;
  tile::positions at_;
  const T *k_ = nullptr, *v_ = nullptr;
  bool far_ = p_.m * (p_.d + p_.e) * static_cast<index_t>(sizeof(T)) > (index_t{4} << 20);  // no cache of a core
};

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
