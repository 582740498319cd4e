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
// A tile of queries whose sums are not finite, perhaps by a value that some lane must not see, is computed once more,
// with care.

#include "heed/core/context.hpp"
#include "heed/pairwise/weighted_sums.hpp"
#include "heed/pairwise/score_tiles.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

template <class T> class softmax_lanes {
 public:
  using tile_type = query_tile<T>;
  static constexpr index_t w = simd::width<T>;

  softmax_lanes(const softmax_problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        tile_(p, memory),
        sums_(p.e, memory),
        scores_(memory.take<T>(tile_type::most_rows * tile_type::most_keys)),
        finite_(memory.take<T>(tile_type::most_keys * lane_sums<T>::slice)),
        m_(memory.take<T>(tile_type::most_rows)),
        l_(memory.take<T>(tile_type::most_rows)),
        factor_(memory.take<T>(tile_type::most_rows)),
        v_(p.v, tile_type::most_keys, true, p.key_value_bytes(), memory) {}

  // o and lse of rows of key/value head kv_head; gain: if not null, what o of each row is multiplied with
  void run(const sequence& s, index_t kv_head, const tile_rows& rows, const T* gain = nullptr) {
    tile_.begin(s, kv_head, rows);
    if (s.keys > 0) v_.begin(p_.value(s, kv_head, 0));
    attend(rows, false);
    if (!sums_.finite()) attend(rows, true);
    finish(s, rows, gain);
  }

 private:
  void attend(const tile_rows& rows, bool careful) {
    std::fill(m_, m_ + tile_.row(), std::numeric_limits<T>::lowest());
    std::fill(l_, l_ + tile_.row(), T(0));
    for (index_t l = 0; p_.sink_logits.set() && l < rows.count; ++l)
      p_.start(rows.row[static_cast<std::size_t>(l)].head, m_[l], l_[l]);
    sums_.begin(tile_.vectors(), factor_);
    tile_.each([&](index_t, const key_tile& keys) { visit(keys, careful); });
    sums_.finish();
  }

  void visit(const key_tile& keys, bool careful) {
    if (keys.count == 0) return;
    const index_t row = tile_.row();
    tile::row_stream<T> values = v_.stream(keys.key, keys.keys);
    tile_.scores(keys, scores_, m_, factor_, &values);
    values.finish();
    const auto [v, v_row] = v_.at(keys.key);
    careful = careful && !tile::all_finite(v, v_row, keys.keys, p_.e);
    tile::row_stream<T> next = tile_.next_keys(keys);
    for (index_t i = 0; i < keys.count; ++i) {
      const weight_block& b = keys.block[static_cast<std::size_t>(i)];
      const index_t lane = b.from * w;
      if (careful) note_seen(scores_, row, b, seen_);
      tile::online_softmax(scores_ + b.first * row + lane, row, b.keys, b.to - b.from, m_ + lane, l_ + lane, factor_ + lane);
      sums_.rescale_next(b.from, b.to);
      if (careful)
        sums_.add_visible(v, v_row, scores_, b, seen_, finite_);
      else
        sums_.add(v, v_row, scores_, b, &next);
    }
    next.finish();
  }

  // o = gain sums / l, lse = log(2) m + log(l); a row without a key: 0 and -inf
  void finish(const sequence& s, const tile_rows& rows, const T* gain) {
    std::array<T*, most_lanes> o;
    find_rows(rows, p_.o, s, 1, o);
    for (index_t lane = 0; p_.lse.data() != nullptr && lane < rows.count; ++lane) {
      const auto [head, query] = rows.row[static_cast<std::size_t>(lane)];
      *p_.lse_at(s, head, query) = tile::natural_lse(m_[lane], l_[lane]);
    }
    tile::reciprocals(l_, tile_.row(), factor_);
    for (index_t lane = 0; gain != nullptr && lane < rows.count; ++lane)
      factor_[lane] = gained(rows.row[static_cast<std::size_t>(lane)].head, lane, gain[lane]);
    tile::scatter(sums_.data(), tile_.row(), factor_, o.data(), rows.count, p_.e);
  }

  T gained(index_t head, index_t lane, T gain) {
    T* const sum = sums_.data() + lane;
    const index_t row = tile_.row(), end = p_.e * row;
    const auto scale = [&](T factor) {
      for (index_t i = 0; i < end; i += row) sum[i] *= factor;
    };
    const auto all_zero = [&] {
      for (index_t i = 0; i < end; i += row)
        if (!heed::detail::equals(sum[i], T(0))) return false;
      return true;
    };
    return p_.finish_factor(head, m_[lane], l_[lane], gain, scale, all_zero);
  }

  const softmax_problem<T>& p_;
  tile_type tile_;
  lane_sums<T> sums_;
  T *scores_, *finite_, *m_, *l_, *factor_;
  seen_keys<T> seen_;
  tile::row_stage<T> v_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
