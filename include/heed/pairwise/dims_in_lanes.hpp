// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with the head dim in lanes, for fewer rows than fill a vector of queries (single tokens, small
// groups). One task is a few rows that share a key/value head: K and V are read once, a tile of keys at a time,
// wherever their rows are.
//
// Scores: (keys x rows) dot products over d, one accumulator each, reduced together by one tree; they are stored as
// [key][row], so that maxima and sums are vertical. Output: weights times the rows of V, as they are. Up to 8 rows a
// pass over the tile, in cache; up to 4 rows in all take 16 keys at a time in one loop (few_rows_stream.hpp). Masks and
// score mods see lane i of a vector as row i % R at key i / R of the vector's keys. While a tile is read the next one
// is prefetched.

#include <algorithm>
#include <bit>

#include "heed/pairwise/few_rows_queries.hpp"
#include "heed/pairwise/finish_rows.hpp"
#include "heed/pairwise/key_places.hpp"
#include "heed/pairwise/key_tiles.hpp"
#include "heed/pairwise/partial_rows.hpp"
#include "heed/pairwise/run_totals.hpp"
#include "heed/pairwise/visibility.hpp"
#include "heed/tile/finite.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class dims_in_lanes {
 public:
  static constexpr index_t w = simd::width<T>, most_keys = row_places::most;
  // Whose values are looked at one by one in the nonfinite pass: sums have the same bits without it.
  static constexpr index_t block_keys = detail::summed_keys;
  static constexpr double far_bytes = 8 << 20;  // K and V of a call from which on they come from memory
  using stream = few_row_stream<T>;
  static constexpr index_t pass_capacity = pairwise::pass_capacity<T>;
  static constexpr index_t most_rows = lane_capacity / w * pass_capacity;  // of a task

  // Keys of a tile of a task of so many rows, at most
  static index_t tile_keys(index_t rows) { return rows <= stream::most_rows ? stream::tile_keys : most_keys; }

  // rows: the most that a run will have
  dims_in_lanes(const softmax_problem<T>& p, index_t rows, heed::detail::arena& memory)
      : p_(p),
        e_(tile::whole_vectors<T>(p.e)),
        q_(p, rows, memory),
        scores_(memory.take<T>((most_keys + w) * pass_capacity)),
        acc_(memory.take<T>(padded_rows(rows) * e_)),
        state_{memory.take<T>(passes(rows) * w), memory.take<T>(passes(rows) * w)},
        totals_(rows, e_, memory),
        wide_(memory.take<T>(block_keys * e_)),
        finite_(memory.take<T>(block_keys * e_)),
        scale_(memory.take<T>(p.scaled() ? 2 * most_keys : 0)),
        weight_pairs_(memory.take<T>(p.few_dots == nullptr ? 0 : most_keys / 2 * pass_capacity)),
        finite_pairs_(memory.take<T>(p.few_dots == nullptr ? 0 : block_keys * e_ / 2)),
        seen_(p) {}

  // o and lse of rows of key/value head kv_head; gate: if not null, what o of each row is multiplied with. Of a share
  // of the keys: the states of the rows
  void run(const sequence& s, index_t kv_head, const row_tile& rows, const T* gate = nullptr,
           const key_share<T>* share = nullptr) {
    begin(s, kv_head, rows);
    attend(rows, share, false);
    if (!tile::all_finite(acc_, e_, rows_, e_))
      attend(rows, share, true);  // perhaps by a value that some row must not see
    join_lanes();
    if (share != nullptr && share->split)
      keep(share->out);
    else
      finish(s, rows, gate);
  }

 private:
  using row_pass = pairwise::row_pass<T>;
  static row_pass pass_from(index_t rows, index_t first) { return row_pass::from(rows, first); }
  static index_t passes(index_t rows) { return row_pass::count(rows); }
  static index_t padded_rows(index_t rows) { return row_pass::padded_rows(rows); }

  void begin(const sequence& s, index_t kv_head, const row_tile& rows) {
    if (is_at_hand(s, kv_head, rows)) return;  // its next piece
    s_ = s, kv_head_ = kv_head, rows_ = rows.count;
    std::copy(rows.row.begin(), rows.row.begin() + rows_, packed_.begin());
    located_[0].key = located_[1].key = -1;
    far_ = p_.key_value_bytes() * static_cast<double>(p_.kv_heads * p_.q.extent(0)) > far_bytes;
    tile_keys_ = keys_of_tile();
    q_.pack(s, rows);
    seen_.begin(s, rows, 1, passes(rows_) * w, [this](index_t lane) {
      const row_pass r = pass_from(rows_, lane / w * pass_capacity);
      return lane_place{std::min(r.first + lane % w % r.padded, rows_ - 1), lane % w / r.padded};
    });
  }

  bool is_at_hand(const sequence& s, index_t kv_head, const row_tile& rows) const {
    const auto same = [](const lane_row& a, const lane_row& b) { return a.head == b.head && a.query == b.query; };
    return rows_ == rows.count && s_.number == s.number && kv_head_ == kv_head &&
           std::equal(rows.row.begin(), rows.row.begin() + rows_, packed_.begin(), same);
  }

  // Keys of a tile: less where the next one is to be prefetched beside it. bench/decode_bench.cpp
  index_t keys_of_tile() const {
    constexpr index_t bytes = 49152;
    const index_t row = std::max(p_.d, p_.e) * p_.kv_format->element;
    return far_ ? std::clamp<index_t>(bytes / row / 8 * 8, 8, most_keys) : most_keys;
  }

  void attend(const row_tile& rows, const key_share<T>* share, bool nonfinite_pass) {
    std::fill(acc_, acc_ + padded_rows(rows_) * e_, T(0));
    state_.init(passes(rows_) * w), totals_.begin();
    const bool sinks = p_.sink_logits.set() && (share == nullptr || share->first);
    for (index_t first = 0; sinks && first < rows_; first += pass_capacity) begin_sinks(rows, first);
    const key_spans spans = share == nullptr ? seen_.spans() : clipped(seen_.spans(), share->keys);
    const bool streams = rows_ <= stream::most_rows;
    if (streams && !nonfinite_pass)
      for (index_t i = 0; i < spans.count; ++i) stream_span(spans.span[i]);
    else
      visit_tiles(spans, streams ? part_keys() : tile_keys_, nonfinite_pass);
    totals_.finish({state_, acc_}, rows_);
  }
  index_t part_keys() const { return stream::part_keys(pass_from(rows_, 0).padded); }
  void visit_tiles(const key_spans& spans, index_t tile_keys, bool nonfinite_pass) {
    each_tile<T>(
        spans, [=](const key_span&) { return tile_keys; },
        [&](key_tile<T>& keys) {
          if (run_totals<T>::begins_run(keys.before, tile_keys)) totals_.add({state_, acc_}, rows_);
          visit(keys, nonfinite_pass);
        },
        s_.keys);
  }

  // Tiles of the keys of a span in a stream. Those that are not whole, or not in one piece of memory, take the same
  // steps apart: bits do not depend on where tokens are.
  void stream_span(const key_span& span) {
    for (index_t key = span.first; key < span.end;) {
      const index_t before = key - span.first, run_keys = run_totals<T>::keys;
      if (run_totals<T>::begins_run(before, 1)) totals_.add({state_, acc_}, rows_);
      index_t end = std::min(span.end, key + run_keys - before % run_keys);
      if (seen_.tests_pairs()) end = std::min(end, key + stream::tile_keys);
      const index_t keys = stream_.find({p_, s_, kv_head_}, key, end);
      if (seen_.hides_all(key, key + keys)) {
        key += keys;
        continue;
      }
      if (stream_.count > 0) {
        stream_partial_ = span.partial;
        stream_found();
      } else {
        key_spans rest;
        rest.span[0] = {key, key + keys, span.partial}, rest.count = 1;
        visit_tiles(rest, part_keys(), false);
      }
      key += keys;
    }
  }
  void stream_found() {
    const row_pass r = pass_from(rows_, 0);
    const bool finishes = stream_partial_ || seen_.tests_pairs() || seen_.modifies_scores();
    const where_keys_are where = !far_ ? in_cache : finishes || !in_small_pages() ? in_memory : scattered;
    functions_of(r).stream[where]({.k = stream_.k.data(),
                                   .v = stream_.v.data(),
                                   .tiles = stream_.count,
                                   .k_row = stream_.k_row,
                                   .v_row = stream_.v_row,
                                   .dim = p_.d,
                                   .columns = p_.e,
                                   .q = q_.of(r),
                                   .scores = scores_,
                                   .state = state_,
                                   .sums = acc_,
                                   .stride = e_,
                                   .k_scale = stream_.k_scale.data(),
                                   .v_scale = stream_.v_scale.data(),
                                   .k_scale_row = stream_.k_scale_row,
                                   .v_scale_row = stream_.v_scale_row,
                                   .finish_scores = finishes ? &finish_part : nullptr,
                                   .self = this});
  }
  bool in_small_pages() const {
    constexpr index_t tiles = 8;  // in longer pages the processor runs ahead by itself
    const bool paged = p_.cache.layout == cache_layout::paged || p_.prefix.rows.layout == cache_layout::paged;
    return paged && stream_.pieces > 1 && stream_.pieces * tiles >= stream_.count;
  }
  static void finish_part(void* self, index_t key, index_t keys) {
    dims_in_lanes& x = *static_cast<dims_in_lanes*>(self);
    key_tile<T> part;
    part.key = x.stream_.first + key, part.keys = keys, part.partial = x.stream_partial_;
    x.finish_scores(pass_from(x.rows_, 0), part);
  }

  // The lanes of a row share its m; one of them has the l of the sink.
  void begin_sinks(const row_tile& rows, index_t first) {
    const row_pass r = pass_from(rows_, first);
    for (index_t i = 0; i < w; ++i) {
      const tile::row_state<T> init = p_.init_row(rows.at(r.first + i % r.padded).head);
      state_.set(r.number() * w + i, {init.m, i < r.padded ? init.l : T(0)});
    }
  }

  void visit(key_tile<T>& keys, bool nonfinite_pass) {
    if (seen_.hides_all(keys.key, keys.key + keys.keys)) return;
    std::swap(at_, next_at_);
    const head_keys<T> head{p_, s_, kv_head_};
    if (at_->key != keys.key || at_->keys < keys.keys) at_->find(head, keys.key, keys.keys);
    next_at_->find(head, keys.next, far_ ? keys.next_keys : 0);
    if (p_.scaled()) head.read_scales(keys.key, keys.keys, scale_, scale_ + most_keys);
    for (index_t first = 0; first < rows_; first += pass_capacity) {
      const row_pass r = pass_from(rows_, first);
      score(r, keys);
      finish_scores(r, keys);
      const bool some_miss = nonfinite_pass && note_seen(r, keys.keys);
      with_rows(r.padded, [&](auto rows) { weights<rows>(r, keys.keys); });
      some_miss ? add_visible_values(r, keys) : add_values(r, keys);
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

  static std::size_t table_index(const row_pass& r) {
    return static_cast<std::size_t>(std::countr_zero(static_cast<unsigned>(r.padded)));
  }
  const few_rows_functions<T>& functions_of(const row_pass& r) const { return (*p_.few_format)[table_index(r)]; }

  // While K is read that of the next tile is prefetched, while V is read the next V.
  tile_rows keys_with_next(index_t keys, bool first_pass) const {
    return {at_->k.data(), keys, next_at_->k.data(), first_pass ? next_at_->keys : 0};
  }
  tile_rows values_with_next(index_t keys, bool first_pass) const {
    return {at_->v.data(), keys, next_at_->v.data(), first_pass && !values_in_keys() ? next_at_->keys : 0};
  }

  // scores[key][row] = k . q
  void score(const row_pass& r, const key_tile<T>& keys) {
    const tile_rows k = keys_with_next(keys.keys, r.first == 0);
    if (q_.on_dots(r)) return p_.few_dots->score({k, p_.d, q_.pairs_of(r), scores_}, p_.scores.query_factor);
    functions_of(r).score({k, p_.d, q_.of(r), scores_});
    if (p_.scaled()) multiply_by_key(r, keys.keys, scale_);
  }
  // Multiplies scores or weights [key][row] with one number per key.
  HEED_NOINLINE void multiply_by_key(const row_pass& r, index_t keys, const T* scale) {
    with_rows(r.padded,
              [&](auto rows) { detail::scale_keys<rows>(scores_, keys, [=](index_t j) { return scale[j]; }); });
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
    T* const l = state_.l + r.number() * w;
    const simd::batch<T> before = simd::load(l);
    const simd::batch<T> factor = state_.template update_rows<R>(scores_, (keys * R + w - 1) / w, r.number() * w);
    if (q_.on_dots(r))  // l is the sum of the weights that are multiplied
      simd::store(l, simd::fma(factor, before, p_.few_dots->round(scores_, keys, weight_pairs_)));
    detail::rescale_rows<R>(acc_ + r.first * e_, e_, e_, factor);
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

  few_row_sums<T> sums_of(const row_pass& r, const tile_rows& v, const T* weights) const {
    return {v, p_.e, weights, acc_ + r.first * e_, e_};
  }
  // acc[row][e] += sum over the tile's keys of p[key][row] v[key][e]
  void add_values(const row_pass& r, const key_tile<T>& keys) {
    if (p_.scaled()) multiply_by_key(r, keys.keys, scale_ + most_keys);
    const tile_rows v = values_with_next(keys.keys, r.first == 0);
    q_.on_dots(r) ? p_.few_dots->sum(sums_of(r, v, weight_pairs_)) : functions_of(r).sum(sums_of(r, v, scores_));
  }
  // Whether rows of V are parts of the rows of K: these have been prefetched
  bool values_in_keys() const {
    const auto apart = reinterpret_cast<std::uintptr_t>(at_->v[0]) - reinterpret_cast<std::uintptr_t>(at_->k[0]);
    return apart < static_cast<std::uintptr_t>(p_.d * p_.kv_format->element) && p_.v.row_bytes() == p_.k.row_bytes();
  }

  // The same, but values that are not finite reach the rows that see them, and no other: a block of keys at a time.
  void add_visible_values(const row_pass& r, const key_tile<T>& keys) {
    if (p_.scaled()) scale_weights(r, keys.keys);
    for (index_t first = 0; first < keys.keys; first += block_keys) {
      const index_t count = std::min(block_keys, keys.keys - first);
      for (index_t j = 0; j < count; ++j) read_value(first + j, wide_ + j * e_);
      T* const weights = scores_ + first * r.padded;
      tile::add_visible<block_keys, T>(
          {wide_, e_, count, p_.e}, {weights, r.padded, 0, r.rows, acc_ + r.first * e_, 1, e_},
          {finite_, e_, count, p_.e}, [&](index_t y) { return std::uint64_t{seen_rows_[first + y]}; },
          [&](const tile::lane_block<const T>& x, index_t) { add_wide_values(r, x, weights); });
    }
  }
  // Scales of V go into the weights, as in add_values, but for those that are not finite: these go into the values.
  void scale_weights(const row_pass& r, index_t keys) {
    const T* const scale = scale_ + most_keys;
    for (index_t j = 0; j < keys; ++j)
      for (index_t i = 0; std::isfinite(scale[j]) && i < r.padded; ++i) scores_[j * r.padded + i] *= scale[j];
  }
  void read_value(index_t j, T* to) const {
    p_.kv_format->read(at_->v[j], 0, 1, p_.e, to, e_);
    if (!p_.scaled() || std::isfinite(scale_[most_keys + j])) return;
    std::for_each(to, to + p_.e, [by = scale_[most_keys + j]](T& x) { x *= by; });
  }
  void add_wide_values(const row_pass& r, const tile::lane_block<const T>& x, const T* weights) {
    tile::lane_array<const std::byte*, block_keys> rows;
    if (q_.on_dots(r)) {
      for (index_t j = 0; j < x.rows; ++j) {
        std::byte* const row = reinterpret_cast<std::byte*>(finite_pairs_ + j * (e_ / 2));
        p_.kv_format->write(x.row(j), T(1), row, p_.e);  // as it was stored
        rows[j] = row;
      }
      return p_.few_dots->sum(sums_of(r, {rows.data(), x.rows}, weight_pairs_ + (weights - scores_) / 2));
    }
    for (index_t j = 0; j < x.rows; ++j) rows[j] = reinterpret_cast<const std::byte*>(x.row(j));
    few_rows_format_of<T, T>[table_index(r)].sum(sums_of(r, {rows.data(), x.rows}, weights));
  }

  void keep(const partial_rows<T>& out) const {
    for (index_t r = 0; r < rows_; ++r) {
      const tile::row_state<T> state = state_of(r);
      out.m[r] = state.m, out.l[r] = state.l;
      std::copy(acc_ + r * e_, acc_ + (r + 1) * e_, out.o + r * out.stride);
    }
  }
  void finish(const sequence& s, const row_tile& rows, const T* gate) {
    for (index_t r = 0; r < rows_; ++r)
      finish_row<T>(p_, s, rows.row[r], state_of(r), gate == nullptr ? T(1) : gate[r], acc_ + r * e_);
  }

  // Of row r, after join_lanes()
  tile::row_state<T> state_of(index_t r) const { return state_.at(r / pass_capacity * w + r % pass_capacity); }
  // l of each row from its lanes
  void join_lanes() {
    for (index_t first = 0; first < rows_; first += pass_capacity) {
      const row_pass r = pass_from(rows_, first);
      T* const l = state_.l + r.number() * w;
      with_rows(r.padded, [&](auto rows) {
        const auto add = [](simd::batch<T> a, simd::batch<T> b) { return a + b; };
        simd::store(l, simd::fold<rows, T>(simd::load(l), add));
      });
    }
  }

  const softmax_problem<T>& p_;
  index_t e_, rows_ = 0, kv_head_ = 0, tile_keys_ = 0;
  sequence s_;
  few_rows_queries<T> q_;
  T *scores_, *acc_;
  tile::lane_states<T> state_;       // a vector for each pass, of a run of keys as acc_
  run_totals<T> totals_;             // of the runs before
  T *wide_, *finite_, *scale_;       // rows of V as T; scale_: of K, of V
  T *weight_pairs_, *finite_pairs_;  // of dot products
  visibility<T> seen_;
  bool far_ = false;                              // K and V do not stay in cache
  tile::lane_array<lane_row, most_rows> packed_;  // the rows at hand
  row_places located_[2];                         // of the tile at hand and of the next
  stream_tiles<T> stream_;
  bool stream_partial_ = false;
  row_places *at_ = &located_[0], *next_at_ = &located_[1];
  tile::lane_array<std::uint8_t, most_keys> seen_rows_;  // bit i: row i of the pass sees the key
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
