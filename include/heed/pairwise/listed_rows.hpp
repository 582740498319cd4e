// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The rows of backward in tiles: all of them, or those whose gate is not 0.

#include <algorithm>

#include "heed/pairwise/gradient_problem.hpp"
#include "heed/pairwise/score_tiles.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// Rows that take part: all, or those of a list, see mixture of head
template <class T> struct listed_rows {
  const std::int32_t* rows = nullptr;  // numbers as in row_tile, of each (batch, key/value head); null: all rows
  const index_t* count = nullptr;      // of each (sequence, key/value head)
};

// The list of a call with gates: a task for each (sequence, key/value head)
template <class T> class active_list {
 public:
  active_list(const gradient_problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        rows_(memory.take<std::int32_t>(wanted() ? p.all_rows() : 0)),
        count_(memory.take<index_t>(wanted() ? p.sequences() * p.kv_heads : 0)) {}

  bool wanted() const { return p_.gates.data() != nullptr; }
  index_t tasks() const { return p_.heads == 0 ? 0 : p_.sequences() * p_.kv_heads; }
  void run(index_t pair) const {
    const sequence s = p_.sequence_at(pair / p_.kv_heads);
    const index_t kv_head = pair % p_.kv_heads;
    std::int32_t* const list = rows_ + ((s.batch * p_.kv_heads + kv_head) * p_.q.extent(2) + s.first_query) * p_.group;
    index_t count = 0;
    for (index_t i = 0; i < s.queries; ++i)
      for (index_t g = 0; g < p_.group; ++g)
        if (is_active(p_.gates(s.batch, kv_head * p_.group + g, s.first_query + i)))
          list[count++] = static_cast<std::int32_t>(i * p_.group + g);
    count_[pair] = count;
  }
  listed_rows<T> rows() const { return wanted() ? listed_rows<T>{rows_, count_} : listed_rows<T>{}; }

 private:
  const gradient_problem<T>& p_;
  std::int32_t* rows_;
  index_t* count_;
};

// Tiles of the rows that take part
template <class T> class gradient_row_tiles {
 public:
  static constexpr index_t lanes = score_tiles<T>::most_rows;

  gradient_row_tiles(const gradient_problem<T>& p, const listed_rows<T>& listed) : p_(p), listed_(listed) {}

  index_t rows_of(const sequence& s, index_t kv_head) const {
    return listed_.rows == nullptr ? p_.rows(s) : listed_.count[s.number * p_.kv_heads + kv_head];
  }
  index_t query_of(const sequence& s, index_t kv_head, index_t row) const {
    return (listed_.rows == nullptr ? row : list_of(s, kv_head)[row]) / p_.group;
  }
  void take(const sequence& s, index_t kv_head, index_t first) {
    const index_t count = std::min(lanes, rows_of(s, kv_head) - first);
    if (listed_.rows == nullptr) return rows_.take(kv_head, p_.group, first, count);
    const std::int32_t* const list = list_of(s, kv_head) + first;
    rows_.count = count;
    for (index_t l = 0; l < count; ++l) {
      rows_.row[l] = {kv_head * p_.group + list[l] % p_.group, list[l] / p_.group};
      gates_[l] = p_.gates(s.batch, rows_.row[l].head, s.first_query + rows_.row[l].query);
    }
  }
  const row_tile& rows() const { return rows_; }
  const T* gates() const { return listed_.rows == nullptr ? nullptr : gates_.data(); }  // of rows(); null: all 1

 private:
  const std::int32_t* list_of(const sequence& s, index_t kv_head) const {
    return listed_.rows + ((s.batch * p_.kv_heads + kv_head) * p_.q.extent(2) + s.first_query) * p_.group;
  }

  const gradient_problem<T>& p_;
  listed_rows<T> listed_;
  row_tile rows_;
  tile::lane_array<T, lane_capacity> gates_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
