// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with queries in lanes, for 16 and more rows: any rows that share a key/value head.
//
//   s_ij = scale q_i . k_j;   p = softmax over the visible j;   o_i = sum_j p_ij v_j;   lse_i = log sum_j exp(s_ij)
//
// One task is a tile of up to 64 rows (AVX-512; AVX2 24, SSE2 8 for float) that share keys and values: queries of the
// heads of one group, which read K and V once. The tile's queries are packed as [d][lane], pre-scaled by
// scale * log2(e); K and V are read where they are, 256 keys at a time: scores [key][lane] (64 KiB, in L2), weights in
// place, output [e][lane]. Per tile K and V stream once from L3 or memory: 64 rows * (D + E) FMAs for (D + E) numbers.
// Online softmax: Milakov and Gimelshein (arXiv 1805.02867), tiles as in FlashAttention (arXiv 2205.14135). Tile sizes:
// bench/softmax_bench.cpp, prefill rows.
//
// A tile of queries whose sums are not finite, perhaps by a value that some lane must not see, is computed once more:
// the nonfinite pass.

#include "heed/pairwise/finish_rows.hpp"
#include "heed/pairwise/partial_rows.hpp"
#include "heed/pairwise/weighted_sums.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class queries_in_lanes {
 public:
  using tiles = score_tiles<T>;
  static constexpr index_t w = simd::width<T>;

  queries_in_lanes(const softmax_problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        tiles_(p, memory),
        sums_(p.e, memory),
        scores_(memory.take<T>(tiles::most_rows * tiles::most_keys)),
        finite_(memory.take<T>(tiles::most_keys * weighted_sums<T>::slice)),
        state_{memory.take<T>(tiles::most_rows), memory.take<T>(tiles::most_rows)},
        factor_(memory.take<T>(tiles::most_rows)) {}

  // o and lse of rows of key/value head kv_head; gate: if not null, what o of each row is multiplied with. Of a share
  // of the keys: the states of the rows
  void run(const sequence& s, index_t kv_head, const row_tile& rows, const T* gate = nullptr,
           const key_share<T>* share = nullptr) {
    tiles_.begin(s, kv_head, rows, share == nullptr ? nullptr : &share->keys);
    attend(rows, share, false);
    if (!sums_.finite()) attend(rows, share, true);
    const tile::lane_block<T> sums{sums_.data(), tiles_.stride(), p_.e, tiles_.stride()};
    if (share != nullptr && share->split)
      keep_rows<T>(rows, state_, sums, share->out, factor_);
    else
      finish_rows<T>(p_, s, rows, gate, state_, sums, factor_);
  }

 private:
  void attend(const row_tile& rows, const key_share<T>* share, bool nonfinite_pass) {
    state_.init(tiles_.stride());
    const bool sinks = p_.sink_logits.set() && (share == nullptr || share->first);
    for (index_t l = 0; sinks && l < rows.count; ++l) state_.set(l, p_.init_row(rows.row[l].head));
    sums_.begin(tiles_.vectors(), factor_);
    tiles_.each([&](index_t, key_tile<T>& keys) {
      if (keys.count > 0) visit(keys, nonfinite_pass);
    });
    sums_.finish();
  }

  void visit(key_tile<T>& keys, bool nonfinite_pass) {
    tiles_.kv().copy_keys(keys);
    tile::row_prefetcher<T> values = tiles_.kv().v().stream(keys.key, keys.keys);
    tiles_.scores(keys, scores_, state_.m, factor_, &values);
    values.finish(), tiles_.kv().copy_values(keys);
    nonfinite_pass = nonfinite_pass && !tile::all_finite(keys.v.data, keys.v.stride, keys.keys, p_.e);
    tile::row_prefetcher<T> next = tiles_.next_keys(keys);
    const tile::lane_block<T> scores = tiles_.lanes_of(scores_, keys.keys);
    for (index_t i = 0; i < keys.count; ++i) {
      const weight_block& b = keys.block[i];
      if (nonfinite_pass) note_seen<T>(scores, b, seen_);
      state_.update(b.of(scores), b.from * w, factor_);
      sums_.rescale_next(b.from, b.to);
      if (nonfinite_pass)
        sums_.add_visible(keys.v, scores, b, seen_, finite_);
      else
        sums_.add(keys.v, scores, b, &next);
    }
    next.finish();
  }

  const softmax_problem<T>& p_;
  tiles tiles_;
  weighted_sums<T> sums_;
  T *scores_, *finite_;
  tile::lane_states<T> state_;
  T* factor_;  // row_max of a tile, then what the sums are to be multiplied with
  seen_keys<T> seen_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
