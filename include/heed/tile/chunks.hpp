// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Recurrences over a state S (features x E) in chunks of C tokens, at the speed of matrix products. With lambda_t how
// much of the state is left by token t (tile/fade.hpp; 1 where nothing fades) and phi the feature map:
//
//   S_t = lambda_t S_{t-1} + phi(k_t) v_t^T,   o_t = scale S_t^T phi(q_t)
//
// For tokens 0 .. n - 1 of a chunk, S the state before it, W(i, j) = product of lambda_t for j < t <= i:
//
//   inter    o_i  = W(i, -1) S^T phi(q_i)                            A = S, B = queries, C = sums [e][query lane]
//   intra    o_i += sum_{j <= i} W(i, j) (phi(q_i).phi(k_j)) v_j      scores as in softmax, weights from tile/fade.hpp
//   update   S <- W(n-1, -1) S + sum_j W(n-1, j) phi(k_j) v_j^T      A = keys, B = values as they are, C = S [d][lane]
//
// per token and head 4 D E + (C + w)(D + E) FLOPs, w the vector width: the diagonal is a staircase of w x w squares.
// Traffic: q, k, v and o once; S stays in cache (D E numbers, read twice and written once per chunk). More tokens in a
// chunk cost more pairs, fewer cost more passes over S: see chunk_of() in tile/chunk_tasks.hpp for the balance.
// A chunk longer than the lanes of a tile is read tile by tile. The blocks are those of tile/multiply.hpp.
//
// normalize: z_t = z_{t-1} + phi(k_t), and o_t is divided by scale z_t.phi(q_t) + eps; a denominator of 0 makes 0.
// taylor: pairs are weighted by 1 + s + s^2 / 2; only the state has 1 + D + D^2 features, made some rows at a time.
// Hidden pairs have weight 0, and 0 * NaN is NaN: a tile whose sums are not finite is computed once more, with care.
//
// Qin et al., Lightning Attention-2 (arXiv 2401.04658); Katharopoulos et al. (arXiv 2006.16236); Arora et al., Based
// (arXiv 2402.18668).

#include "heed/core/context.hpp"
#include "heed/tile/drip.hpp"
#include "heed/tile/fade.hpp"
#include "heed/tile/features.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"
#include "heed/tile/recurrence.hpp"
#include "heed/tile/weights.hpp"

namespace heed::tile {
inline namespace HEED_ISA {

inline constexpr double root_half = 0.70710678118654752440;  // of the squares among the taylor features

// States below this fade to 0, so that a memory of silence never holds numbers that the CPU is slow with.
template <class T> inline constexpr T silence = static_cast<T>(std::is_same_v<T, double> ? 1e-290 : 1e-30);

template <class T> HEED_NOINLINE void flush_silence(T* x, index_t count) {
  const simd::batch<T> least(silence<T>), zero(T(0));
  for (index_t i = 0; i < count; i += simd::width<T>) {
    const simd::batch<T> value = simd::load(x + i);
    simd::store(x + i, simd::select<T>(simd::abs(value) < least, zero, value));
  }
}

// sums[lane] += scores over the keys
template <class T> HEED_NOINLINE void add_down(const T* scores, index_t row, index_t keys, index_t lanes, T* sums) {
  for (index_t l = 0; l < lanes; l += simd::width<T>) {
    simd::batch<T> sum = simd::load(sums + l);
    for (index_t j = 0; j < keys; ++j) sum += simd::load(scores + j * row + l);
    simd::store(sums + l, sum);
  }
}

// scores = 1 + s + s^2 / 2
template <class T> HEED_NOINLINE void taylor_weights(T* scores, index_t row, index_t keys, index_t lanes) {
  const simd::batch<T> one(T(1)), half(T(0.5));
  for (index_t j = 0; j < keys; ++j)
    for (index_t l = 0; l < lanes; l += simd::width<T>) {
      const simd::batch<T> s = simd::load(scores + j * row + l);
      simd::store(scores + j * row + l, simd::fma(simd::fma(s, half, one), s, one));
    }
}

template <class T> class chunk_driver {
 public:
  static constexpr index_t w = simd::width<T>, tile = max_lanes<T>, key_tile = 256;
  static constexpr index_t step = w < 8 ? 8 : w;  // keys of one step of the staircase
  static constexpr index_t slice = 16;            // columns of v that are copied without what is not finite

  // Chunks of up to `chunk` tokens, up to `columns` columns of v
  chunk_driver(const recurrence<T>& p, index_t chunk, index_t columns, heed::detail::arena& memory)
      : p_(p),
        chunk_(chunk),
        block_(p.taylor() ? std::max<index_t>(1, 64 / p.d) * p.d : p.features),
        fade_(p, chunk, memory),
        q_(memory.take<T>(tile * p.d)),
        q_block_(memory.take<T>(p.taylor() ? tile * block_ : 0)),
        k_(memory.take<T>(p.mapped() && !p.taylor() ? chunk * p.d : 0)),
        k_block_(memory.take<T>(p.taylor() || p.decay != nullptr ? chunk * spread(block_) : 0)),
        v_(memory.take<T>(p.e % w != 0 ? chunk * padded(columns) : 0)),
        scores_(memory.take<T>(std::max(tile, std::min(chunk, key_tile)) * tile)),
        sums_(memory.take<T>(columns * tile)),
        s_(memory.take<T>(p.features * spread(columns))),
        z_(memory.take<T>(p.normalize ? padded(p.features) : 0)),
        below_(memory.take<T>(tile)),
        gain_(memory.take<T>(tile)),
        ones_(memory.take<T>(tile)),
        total_(memory.take<T>(tile)),
        finite_(memory.take<T>(key_tile * slice)) {}

  // Columns [first, first + columns) of v, with the state's head number `state`
  void run(const track& t, index_t state, index_t first, index_t columns) {
    begin(t, state, first, columns);
    const index_t n = t.queries, m = t.keys;
    // Keys that every query sees come first, then queries that see no other; then query i comes with key i + offset.
    const index_t all_see = p_.causal ? std::clamp<index_t>(t.place, 0, m) : m;
    const index_t blind = p_.causal ? std::clamp<index_t>(-t.place, 0, n) : 0;
    const index_t pairs = p_.causal ? std::min(n - blind, m - all_see) : 0;
    const auto absorb = [&](index_t j, index_t count, index_t next) { this->absorb(j, count, next); };
    const auto read = [&](index_t i, index_t count, index_t next) { read_alone(i, count, next); };
    each_chunk(0, all_see, chunk_, absorb);
    each_chunk(0, blind, tile, read);
    each_chunk(blind, blind + pairs, chunk_,
               [&](index_t i, index_t count, index_t next) { pair(i, all_see + i - blind, count, next); });
    each_chunk(blind + pairs, n, tile, read);
    each_chunk(all_see + pairs, m, chunk_, absorb);
    end();
  }

 private:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));

  static constexpr index_t padded(index_t count) { return (count + w - 1) / w * w; }
  // Elements from one row to the next where columns are walked down: an odd number of lines, so that they spread over
  // all sets of a cache.
  static constexpr index_t spread(index_t count) { return ((count + line - 1) / line | 1) * line; }

  // ---- the state ----------------------------------------------------------------------------------------------------

  void begin(const track& t, index_t state, index_t first, index_t columns) {
    t_ = t, state_ = state, first_ = first, columns_ = columns, s_row_ = spread(columns);
    kv_head_ = state / p_.writers;
    fade_.begin_state(t, state);
    empty_ = p_.before.s.data() == nullptr;
    since_flush_ = 0;
    std::fill(ones_, ones_ + tile, T(1));
    for (index_t f = 0; f < p_.features && !empty_; ++f) {
      const T* const from = row_of(p_.before.s, f) + first;
      std::copy(from, from + columns, s_ + f * s_row_);
      std::fill(s_ + f * s_row_ + columns, s_ + f * s_row_ + padded(columns), T(0));
    }
    for (index_t f = 0; f < (p_.normalize ? p_.features : 0); ++f) z_[f] = empty_ ? T(0) : *element_of(p_.before.z, f);
  }
  void end() {
    if (p_.after.s.data() == nullptr) return;
    if (empty_) std::fill(s_, s_ + p_.features * s_row_, T(0));
    if (fade_.fades()) flush();
    for (index_t f = 0; f < p_.features; ++f)
      std::copy(s_ + f * s_row_, s_ + f * s_row_ + columns_, row_of(p_.after.s, f) + first_);
    for (index_t f = 0; f < (p_.normalize && first_ == 0 ? p_.features : 0); ++f) *element_of(p_.after.z, f) = z_[f];
  }
  template <class U> U* row_of(const tensor_view<U, 4>& s, index_t f) const {
    return s.data() + t_.number * s.stride(0) + state_ * s.stride(1) + f * s.stride(2);
  }
  template <class U> U* element_of(const tensor_view<U, 3>& z, index_t f) const {
    return z.data() + t_.number * z.stride(0) + state_ * z.stride(1) + f * z.stride(2);
  }

  // ---- tokens -------------------------------------------------------------------------------------------------------

  // f(first, count, count of the next) for pieces of [first, end)
  template <class F> static void each_chunk(index_t first, index_t end, index_t most, F f) {
    for (index_t i = first, count = 0; i < end; i += count) {
      count = std::min(most, end - i);
      f(i, count, std::min(most, end - i - count));
    }
  }

  void absorb(index_t j, index_t n, index_t next) {
    begin_keys(j, n);
    begin_drips();
    drip_keys(j + n, next);
    update();
  }
  void read_alone(index_t i, index_t lanes, index_t next) {
    begin_drips();
    drip_queries(i + lanes, next);
    for (index_t head = state_ * p_.readers; head < (state_ + 1) * p_.readers; ++head) read(head, i, lanes, -1);
  }
  void pair(index_t i, index_t j, index_t n, index_t next) {
    begin_keys(j, n);
    begin_drips();
    drip_queries(i + n, next), drip_keys(j + n, next);
    for (index_t head = state_ * p_.readers; head < (state_ + 1) * p_.readers; ++head)
      for (index_t at = 0; at < n; at += tile) read(head, i + at, std::min(tile, n - at), at);
    update();
  }

  // The chunk's keys, through the feature map, and its values
  void begin_keys(index_t j, index_t n) {
    n_ = n;
    fade_.begin_chunk(j, n);
    keys_ = p_.key(t_, kv_head_, j), key_row_ = p_.k.stride(2);
    values_ = p_.value(t_, kv_head_, j) + first_, value_row_ = p_.v.stride(2);
    if (k_ == nullptr) return;
    for (index_t s = 0; s < n; ++s) std::copy(keys_ + s * key_row_, keys_ + s * key_row_ + p_.d, k_ + s * p_.d);
    map_rows(p_.map, k_, n, p_.d);
    keys_ = k_, key_row_ = p_.d;
  }

  // While a chunk is computed, the rows of the next are asked for: queries from i, keys from j, `next` of each.
  void begin_drips() { drip_ = 0, drips_.fill({}); }
  void drip_queries(index_t i, index_t next) {
    if (next == 0) return;
    drips_[0] = ask(p_.query(t_, state_ * p_.readers, i), p_.q.stride(2), next, p_.d);
    drips_[3] = ask(p_.output(t_, state_ * p_.readers, i) + first_, p_.o.stride(2), next, columns_);
  }
  void drip_keys(index_t j, index_t next) {
    if (next == 0) return;
    drips_[1] = ask(p_.key(t_, kv_head_, j), p_.k.stride(2), next, p_.d);
    drips_[2] = ask(p_.value(t_, kv_head_, j) + first_, p_.v.stride(2), next, columns_);
  }
  static drip<T> ask(const T* rows, index_t row_stride, index_t count, index_t dim) {
    touch_pages(rows, row_stride, count, count);  // of the chunk after the next
    return {rows, row_stride, count, dim};
  }

  // A product of some depth, with prefetches
  void product(const matrix_product<T>& m, index_t vectors) {
    const index_t rows = block_rows(static_cast<int>(vectors));
    matrix_product<T> part = m;
    for (index_t r = 0; r < m.rows; r += part.rows) {
      while (drip_ < drips_.size() && drips_[drip_].done()) ++drip_;
      part.a = m.a + r * m.a_row, part.c = m.c + r * m.c_row;
      part.rows = drip_ == drips_.size() ? m.rows - r : std::min(rows, m.rows - r);
      if (drip_ == drips_.size())
        multiply(part, vectors);
      else
        multiply(part, vectors, drips_[drip_]);
    }
  }

  // ---- reading ------------------------------------------------------------------------------------------------------

  // Queries [i, i + lanes) of a head; key `at` of the chunk comes with the first of them, at < 0: no key does
  void read(index_t head, index_t i, index_t lanes, index_t at) {
    std::array<const T*, static_cast<std::size_t>(tile)> in;
    std::array<T*, static_cast<std::size_t>(tile)> out;
    for (index_t l = 0; l < lanes; ++l) {
      in[static_cast<std::size_t>(l)] = p_.query(t_, head, i + l);
      out[static_cast<std::size_t>(l)] = p_.output(t_, head, i + l) + first_;
    }
    lanes_ = lanes, vectors_ = (lanes + w - 1) / w, row_ = vectors_ * w;
    gather(in.data(), lanes, p_.d, T(1), q_, row_);
    if (p_.mapped() && !p_.taylor()) map_lanes(p_.map, q_, p_.d, row_);
    sum(at, false);
    if (at >= 0 && !finite()) sum(at, true);  // perhaps by what some lane must not see
    set_gain();
    scatter(sums_, row_, gain_, out.data(), lanes, columns_);
  }

  bool finite() const {
    if (lanes_ == row_) return all_finite(sums_, row_ * columns_, 1, row_ * columns_);
    return all_finite(sums_, row_, columns_, lanes_);
  }

  void sum(index_t at, bool careful) {
    if (p_.normalize) std::fill(below_, below_ + row_, T(0));
    inter();
    if (at < 0) {
      if (empty_) fill(sums_, row_, columns_, row_, T(0));
      return;
    }
    if (careful && fade_.cuts() && !empty_)
      for (index_t l = 0; l < lanes_; ++l)
        for (index_t c = 0; c < columns_ && fade_.read(at)[l] == T(0); ++c) sums_[c * row_ + l] = T(0);
    next_ = empty_ ? start::zero : fade_.fades() ? start::scale : start::keep;
    read_factor_ = next_ == start::scale ? fade_.read(at) : nullptr;
    for (index_t j = 0; j < at; j += key_tile) intra(at, j, std::min(key_tile, at - j), 0, careful);
    for (index_t j = 0; j < lanes_; j += step) intra(at, at + j, std::min(step, lanes_ - j), j / w, careful);
  }

  // sums = S^T phi(q), below = z.phi(q)
  void inter() {
    if (empty_) return;
    start how = start::zero;
    each_block([&](index_t f, index_t count, index_t a) {
      const T* const b = query_block(f, count, a);
      product({.a = s_ + f * s_row_,
               .a_row = 1,
               .a_col = s_row_,
               .b = b,
               .b_row = row_,
               .c = sums_,
               .c_row = row_,
               .rows = columns_,
               .depth = count,
               .start = how},
              vectors_);
      if (p_.normalize)
        multiply<T>({.a = z_ + f,
                     .a_row = 0,
                     .a_col = 1,
                     .b = b,
                     .b_row = row_,
                     .c = below_,
                     .c_row = row_,
                     .rows = 1,
                     .depth = count,
                     .start = start::keep},
                    vectors_);
      how = start::keep;
    });
  }

  // Keys [j, j + keys) of the chunk for the vectors from `from` on; lane 0 of the tile is lane `at` of the chunk
  void intra(index_t at, index_t j, index_t keys, index_t from, bool careful) {
    T* const scores = scores_ + from * w;
    multiply<T>({.a = keys_ + j * key_row_,
                 .a_row = key_row_,
                 .a_col = 1,
                 .b = q_ + from * w,
                 .b_row = row_,
                 .c = scores,
                 .c_row = row_,
                 .rows = keys,
                 .depth = p_.d},
                vectors_ - from);
    const index_t lanes = row_ - from * w;
    if (p_.taylor()) taylor_weights(scores, row_, keys, lanes);
    fade_.apply(scores, row_, j, keys, at + from * w, lanes);
    if (p_.normalize) add_down(scores, row_, keys, lanes, below_ + from * w);
    if (careful)
      add_visible(at, j, keys, from);
    else
      add_values(values_ + j * value_row_, value_row_, 0, columns_, keys, from, next_);
    next_ = start::keep;
  }
  void add_values(const T* v, index_t v_row, index_t c, index_t columns, index_t keys, index_t from, start how) {
    multiply<T>({.a = v,
                 .a_row = 1,
                 .a_col = v_row,
                 .b = scores_ + from * w,
                 .b_row = row_,
                 .c = sums_ + c * row_ + from * w,
                 .c_row = row_,
                 .rows = columns,
                 .depth = keys,
                 .start = how,
                 .factor = read_factor_},
                vectors_ - from);
  }
  // Values that are not finite reach the lanes that see them and no other; the others get the bits of add_values.
  HEED_NOINLINE void add_visible(index_t at, index_t j, index_t keys, index_t from) {
    const T* const v = values_ + j * value_row_;
    for (index_t c = 0; c < columns_; c += slice) {
      const index_t columns = std::min(slice, columns_ - c);
      copy_finite(v + c, value_row_, keys, columns, finite_, slice);
      add_values(finite_, slice, c, columns, keys, from, next_);
      for (index_t s = 0; s < keys; ++s)
        for (index_t y = c; y < c + columns; ++y) {
          if (std::isfinite(v[s * value_row_ + y])) continue;
          for (index_t l = from * w; l < lanes_; ++l)
            if (fade_.sees(at + l, j + s)) sums_[y * row_ + l] += v[s * value_row_ + y] * scores_[s * row_ + l];
        }
    }
  }

  void set_gain() {
    for (index_t l = 0; l < row_; ++l) gain_[l] = output_gain(p_, p_.normalize ? below_[l] : T(0));
  }

  // ---- writing ------------------------------------------------------------------------------------------------------

  void update() {
    const index_t first = fade_.first_written();
    const T* v = values_;
    index_t v_row = value_row_;
    if (columns_ % w != 0) {
      v = v_, v_row = padded(columns_);
      for (index_t j = first; j < n_; ++j)
        for (index_t c = 0; c < v_row; c += w)
          simd::store(v_ + j * v_row + c, simd::load_partial(values_ + j * value_row_ + c, std::min(w, columns_ - c)));
    }
    const bool fresh = empty_ || fade_.total() == T(0);
    const start how = fresh ? start::zero : fade_.total() == T(1) ? start::keep : start::scale;
    std::fill(total_, total_ + tile, fade_.total());
    const index_t all = padded(columns_) / w, groups = (all + max_vectors - 1) / max_vectors;
    each_block([&](index_t f, index_t count, index_t a) {
      index_t k_row = 0;
      const T* const k = key_block(f, count, a, k_row);
      for (index_t g = 0, from = 0; g < groups; ++g) {
        const index_t vectors = (all - from + groups - g - 1) / (groups - g);
        product({.a = k + first * k_row,
                 .a_row = 1,
                 .a_col = k_row,
                 .b = v + first * v_row + from * w,
                 .b_row = v_row,
                 .c = s_ + f * s_row_ + from * w,
                 .c_row = s_row_,
                 .rows = count,
                 .depth = n_ - first,
                 .start = how,
                 .factor = total_},
                vectors);
        from += vectors;
      }
      if (p_.normalize) add_rows(k, k_row, count, z_ + f);
    });
    empty_ = false;
    since_flush_ += fade_.lost();
    if (since_flush_ > 26) flush(), since_flush_ = 0;  // 2^-26 of silence is a normal number
  }
  void flush() {
    for (index_t f = 0; f < p_.features; ++f) flush_silence(s_ + f * s_row_, padded(columns_));
  }
  void add_rows(const T* rows, index_t row_stride, index_t count, T* sums) {
    for (index_t c = 0; c < count; c += w) {
      const index_t there = std::min(w, count - c);
      simd::batch<T> sum(T(0));
      for (index_t j = 0; j < n_; ++j)
        sum +=
            there == w ? simd::load(rows + j * row_stride + c) : simd::load_partial(rows + j * row_stride + c, there);
      simd::store_partial(sums + c, simd::load_partial(sums + c, there) + sum, there);
    }
  }

  // ---- features, block by block -------------------------------------------------------------------------------------

  // f(first feature, how many, a): all at once; of taylor the 1, the x, then x_a x_b for some a from `a` on and all b
  template <class F> void each_block(F f) const {
    if (!p_.taylor()) return f(0, p_.features, 0);
    f(0, 1, 0);
    f(1, p_.d, 0);
    const index_t some = block_ / p_.d;
    for (index_t a = 0; a < p_.d; a += some) f(1 + p_.d + a * p_.d, std::min(some, p_.d - a) * p_.d, a);
  }
  const T* query_block(index_t f, index_t count, index_t a) {  // [feature][lane]
    if (!p_.taylor() || f == 1) return q_;
    if (f == 0) return ones_;
    for (index_t i = 0; i < count; ++i) {
      const T *const x = q_ + (a + i / p_.d) * row_, *const y = q_ + i % p_.d * row_;
      for (index_t l = 0; l < row_; l += w)
        simd::store(q_block_ + i * row_ + l,
                    simd::load(x + l) * simd::load(y + l) * simd::batch<T>(static_cast<T>(root_half)));
    }
    return q_block_;
  }
  const T* key_block(index_t f, index_t count, index_t a, index_t& row) {  // [token][feature]
    if (!p_.taylor() && !fade_.fades()) return row = key_row_, keys_;
    if (p_.taylor() && f == 1) return row = key_row_, keys_;
    row = spread(count);
    for (index_t j = fade_.first_written(); j < n_; ++j) {
      const T* const key = keys_ + j * key_row_;
      T* const out = k_block_ + j * row;
      if (!p_.taylor())
        scale_row(key, count, fade_.write()[j], out);
      else if (f == 0)
        out[0] = T(1);
      else
        for (index_t i = 0; i < count; i += p_.d)
          scale_row(key, p_.d, key[a + i / p_.d] * static_cast<T>(root_half), out + i);
    }
    return k_block_;
  }
  static void scale_row(const T* x, index_t count, T factor, T* out) {
    const simd::batch<T> f(factor);
    index_t i = 0;
    for (; i + w <= count; i += w) simd::store(out + i, simd::load(x + i) * f);
    if (i < count) simd::store_partial(out + i, simd::load_partial(x + i, count - i) * f, count - i);
  }

  const recurrence<T>& p_;
  index_t chunk_, block_;
  fade<T> fade_;
  T *q_, *q_block_, *k_, *k_block_, *v_, *scores_, *sums_, *s_, *z_, *below_, *gain_, *ones_, *total_, *finite_;
  track t_ = {};
  index_t state_ = 0, kv_head_ = 0, first_ = 0, columns_ = 0, s_row_ = 0;  // of the task
  index_t n_ = 0, key_row_ = 0, value_row_ = 0;                            // of the chunk
  index_t lanes_ = 0, vectors_ = 0, row_ = 0;                              // of the tile of queries
  const T *keys_ = nullptr, *values_ = nullptr, *read_factor_ = nullptr;
  start next_ = start::zero;
  std::array<drip<T>, 4> drips_ = {};
  std::size_t drip_ = 4;  // the one that runs
  double since_flush_ = 0;
  bool empty_ = true;
};

}  // namespace HEED_ISA
}  // namespace heed::tile
