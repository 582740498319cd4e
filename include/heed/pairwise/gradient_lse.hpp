// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/pairwise/listed_rows.hpp"
#include "heed/pairwise/tasks.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// lse of every row, where the caller has not kept forward's: a task for each tile of rows
template <class T> class gradient_lse {
 public:
  using tiles = score_tiles<T>;

  gradient_lse(const gradient_problem<T>& p, T* lse, const listed_rows<T>& listed, heed::detail::arena& memory)
      : p_(p),
        lse_(lse),
        rows_(p, listed),
        tiles_(p, memory),
        scores_(memory.take<T>(tiles::most_rows * tiles::most_keys)),
        state_{memory.take<T>(tiles::most_rows), memory.take<T>(tiles::most_rows)},
        factor_(memory.take<T>(tiles::most_rows)) {}

  static index_t tiles_of(const gradient_problem<T>& p, const sequence& s) {
    return (p.rows(s) + tiles::most_rows - 1) / tiles::most_rows;
  }
  static index_t tasks(const gradient_problem<T>& p) {
    index_t count = 0;
    each_size<T>(p, [&](const sequence& s, index_t heads) { count += tiles_of(p, s) * heads; });
    return count;
  }

  void run(index_t task) {
    while (task >= end_) end_ += tiles_of(p_, p_.sequence_at(++pair_ / p_.kv_heads));
    const sequence s = p_.sequence_at(pair_ / p_.kv_heads);
    const index_t first = (end_ - 1 - task) * tiles::most_rows, kv_head = pair_ % p_.kv_heads;
    if (first >= rows_.rows_of(s, kv_head)) return;
    rows_.take(s, kv_head, first);
    const row_tile& rows = rows_.rows();
    tiles_.begin(s, kv_head, rows);
    state_.init(tiles_.stride());
    for (index_t l = 0; p_.sink_logits.set() && l < rows.count; ++l)
      state_.set(l, init_row<T>(p_.sink_logits, rows.row[l].head));
    tiles_.each([&](index_t, key_tile<T>& keys) {
      if (keys.count == 0) return;
      tiles_.kv().copy_keys(keys);
      tiles_.scores(keys, scores_, state_.m, factor_);
      const tile::lane_block<T> scores = tiles_.lanes_of(scores_, keys.keys);
      for (index_t i = 0; i < keys.count; ++i)
        state_.update(keys.block[i].of(scores), keys.block[i].from * tiles::w, factor_);
    });
    for (index_t l = 0; l < rows.count; ++l)
      lse_[p_.row_number(s, rows.row[l].head, rows.row[l].query)] = state_.at(l).lse();
  }

 private:
  const gradient_problem<T>& p_;
  T* lse_;
  gradient_row_tiles<T> rows_;
  tiles tiles_;
  T* scores_;
  tile::lane_states<T> state_;
  T* factor_;
  index_t pair_ = -1, end_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
