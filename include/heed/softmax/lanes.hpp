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
// A tile of queries whose sums are not finite, perhaps by a value that some lane must not see, is computed once more,
// with care.

#include "heed/core/context.hpp"
#include "heed/softmax/problem.hpp"
#include "heed/tile/lane_sums.hpp"
#include "heed/tile/query_tile.hpp"

namespace heed::softmax::detail {
inline namespace HEED_ISA {

template <class T> class lanes_driver {
 public:
  using tile_type = tile::query_tile<T>;
  static constexpr index_t w = simd::width<T>;

  lanes_driver(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        tile_(p, memory),
        sums_(p.e, memory),
        scores_(memory.take<T>(tile_type::most_rows * tile_type::most_keys)),
        finite_(memory.take<T>(tile_type::most_keys * tile::lane_sums<T>::slice)),
        m_(memory.take<T>(tile_type::most_rows)),
        l_(memory.take<T>(tile_type::most_rows)),
        factor_(memory.take<T>(tile_type::most_rows)) {}

  // Tile number `tile` of the rows of key/value head kv_head
  void run(const tile::sequence& s, index_t kv_head, index_t tile) {
    const index_t first = tile * tile_type::most_rows;
    rows_.take(kv_head, p_.group, first, std::min(tile_type::most_rows, p_.rows(s) - first));
    tile_.begin(s, kv_head, rows_);
    if (s.keys > 0) v_ = p_.value(s, kv_head, 0);
    attend(false);
    if (!sums_.finite()) attend(true);
    finish(s);
  }

 private:
  void attend(bool careful) {
    std::fill(m_, m_ + tile_.row(), std::numeric_limits<T>::lowest());
    std::fill(l_, l_ + tile_.row(), T(0));
    for (index_t l = 0; p_.sink_logits.set() && l < rows_.count; ++l)
      p_.start(rows_.row[static_cast<std::size_t>(l)].head, m_[l], l_[l]);
    sums_.begin(tile_.vectors(), factor_);
    tile_.each([&](index_t, const tile::key_tile& keys) { visit(keys, careful); });
    sums_.finish();
  }

  void visit(const tile::key_tile& keys, bool careful) {
    if (keys.count == 0) return;
    const index_t row = tile_.row(), v_row = p_.v.stride(2);
    const T* const v = v_ + keys.key * v_row;
    tile_.scores(keys, scores_, m_, factor_);
    careful = careful && !tile::all_finite(v, v_row, keys.keys, p_.e);
    for (index_t i = 0; i < keys.count; ++i) {
      const tile::weight_block& b = keys.block[static_cast<std::size_t>(i)];
      const index_t lane = b.from * w;
      if (careful) tile::note_seen(scores_, row, b, seen_);
      tile::online_softmax(scores_ + b.first * row + lane, row, b.keys, b.to - b.from, m_ + lane, l_ + lane,
                           factor_ + lane);
      sums_.rescale_next(b.from, b.to);
      if (careful)
        sums_.add_visible(v, v_row, scores_, b, seen_, finite_);
      else
        sums_.add(v, v_row, scores_, b);
    }
  }

  // o = sums / l, lse = log(2) m + log(l); a row without a key: 0 and -inf
  void finish(const tile::sequence& s) {
    std::array<T*, tile::most_lanes> o;
    for (index_t lane = 0; lane < rows_.count; ++lane) {
      const auto [head, query] = rows_.row[static_cast<std::size_t>(lane)];
      o[static_cast<std::size_t>(lane)] = p_.output(s, head, query);
      if (p_.lse.data() != nullptr) *p_.lse_at(s, head, query) = tile::natural_lse(m_[lane], l_[lane]);
    }
    tile::reciprocals(l_, tile_.row(), factor_);
    tile::scatter(sums_.data(), tile_.row(), factor_, o.data(), rows_.count, p_.e);
  }

  const problem<T>& p_;
  tile_type tile_;
  tile::lane_sums<T> sums_;
  T *scores_, *finite_, *m_, *l_, *factor_;
  tile::tile_rows rows_;
  tile::seen_keys<T> seen_;
  const T* v_ = nullptr;
};

}  // namespace HEED_ISA
}  // namespace heed::softmax::detail
