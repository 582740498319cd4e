// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How backward of softmax attention is cut into tasks.
//
// One pass: a task has all rows of a head of q, and all keys that they share. It goes over blocks of keys, and over the
// tiles of rows in each: dk and dv are ready when a block is done, dq grows from block to block. Two passes: a task has
// a tile of rows and makes dq, or a block of keys and makes dk and dv. Scores and weights are computed twice: 7
// products instead of 5, but more tasks. Every element is summed in the same order in both: the choice depends on the
// number of workers, and no bit depends on the choice.

#include <algorithm>

#include "heed/pairwise/gradient_tile.hpp"
#include "heed/pairwise/listed_rows.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The heads of q, or groups of them, whose gradients no other task may add to
struct gradient_unit {
  index_t first_sequence, end_sequence, first_cluster, end_cluster;
};

struct gradient_cut {
  bool one_pass = true;
  index_t units = 0, unit_tasks = 0, row_tasks = 0;  // unit_tasks: in one pass the units, else their blocks of keys
  index_t tasks() const { return unit_tasks + row_tasks; }
};

// The (sequence, head) pairs of a call as units and tasks
template <class T> class gradient_units {
 public:
  static constexpr index_t lanes = score_tiles<T>::most_rows;

  explicit gradient_units(const gradient_problem<T>& p)
      : p_(p),
        clusters_(std::min(p.query_heads, p.kv_heads)),
        block_(gradient_tile<T>::block_keys(p)),
        one_batch_(p.wants_pair_bias() && p.dbias.extent(0) == 1 && (!p.packed() || p.overlaps_bias())),
        one_head_(p.wants_pair_bias() && p.dbias.extent(1) == 1) {}

  index_t clusters() const { return clusters_; }
  index_t pairs() const { return p_.sequences() * clusters_; }
  index_t units() const {
    return (one_batch_ ? std::min<index_t>(1, p_.sequences()) : p_.sequences()) *
           (one_head_ ? std::min<index_t>(1, clusters_) : clusters_);
  }
  gradient_unit unit(index_t number) const {
    const index_t heads = one_head_ ? 1 : clusters_, s = number / heads, c = number % heads;
    return {one_batch_ ? 0 : s, one_batch_ ? p_.sequences() : s + 1, one_head_ ? 0 : c, one_head_ ? clusters_ : c + 1};
  }
  // Blocks of the longest sequence
  index_t blocks(const gradient_unit& u) const { return (p_.sequence_at(u.first_sequence).keys + block_ - 1) / block_; }
  index_t block_keys() const { return block_; }
  index_t kv_heads_of_cluster() const { return p_.repeat; }
  index_t row_tiles(const sequence& s) const { return (p_.rows(s) + lanes - 1) / lanes; }

  // What a unit costs in one product, and all of them; equal: units cost the same
  struct costs {
    double all = 0, largest = 0;
    bool equal = true;
  };
  costs measure() const {
    costs x;
    const index_t count = p_.packed() ? units() : std::min<index_t>(1, units());
    double least = 0;
    for (index_t u = 0; u < count; ++u) {
      const double cost = cost_of(unit(u));
      x.all += cost, x.largest = std::max(x.largest, cost), least = u == 0 ? cost : std::min(least, cost);
    }
    if (!p_.packed()) x.all *= static_cast<double>(units());
    x.equal = !(least < x.largest);
    return x;
  }

 private:
  double cost_of(const gradient_unit& u) const {
    const sequence s = p_.sequence_at(u.first_sequence);
    return static_cast<double>(s.queries) * static_cast<double>(s.keys) *
           static_cast<double>((u.end_sequence - u.first_sequence) * (u.end_cluster - u.first_cluster));
  }

  const gradient_problem<T>& p_;
  index_t clusters_, block_;
  bool one_batch_, one_head_;
};

template <class T> gradient_cut cut_gradients(const gradient_problem<T>& p, index_t workers) {
  const gradient_units<T> units(p);
  gradient_cut cut;
  cut.units = units.units();
  const bool rows = p.has_row_pass(), keys = p.has_key_pass();
  if (p.overlaps_bias()) {
    cut.one_pass = true;
  } else if (rows && keys) {
    const auto cost = units.measure();
    const double w = static_cast<double>(workers), even = cost.all / w;
    const double rounds = std::ceil(static_cast<double>(cut.units) / w) * cost.largest;
    cut.one_pass = 5 * (cost.equal ? rounds : std::max(even, cost.largest)) <= 7 * even;
  } else {
    cut.one_pass = false;
  }
  if (cut.one_pass) {
    cut.unit_tasks = cut.units;
    return cut;
  }
  const index_t sequences = p.sequences(), different = p.packed() ? sequences : std::min<index_t>(1, sequences);
  for (index_t u = 0; keys && u < (p.packed() ? cut.units : std::min<index_t>(1, cut.units)); ++u)
    cut.unit_tasks += units.blocks(units.unit(u)) * (p.packed() ? 1 : cut.units);
  for (index_t s = 0; rows && s < different; ++s)
    cut.row_tasks += units.row_tiles(p.sequence_at(s)) * units.clusters() * (p.packed() ? 1 : sequences);
  return cut;
}

// The tasks of one worker, claimed in ascending order
template <class T> class gradient_worker {
 public:
  gradient_worker(const gradient_problem<T>& p, const gradient_cut& cut, const row_sums<T>& sums,
                  const listed_rows<T>& listed, heed::detail::arena& memory)
      : p_(p), cut_(cut), units_(p), tiles_(p, listed), tile_(p, sums, memory) {}

  void run(index_t task) {
    if (cut_.one_pass) return visit_unit(units_.unit(task), {p_.has_row_pass(), p_.has_key_pass()});
    if (task < cut_.unit_tasks) return visit_block(task);
    visit_tile(task - cut_.unit_tasks);
  }

 private:
  // f(sequence, key/value head) for all of a unit
  template <class F> void each_head(const gradient_unit& u, F f) const {
    for (index_t number = u.first_sequence; number < u.end_sequence; ++number) {
      const sequence s = p_.sequence_at(number);
      for (index_t head = u.first_cluster * p_.repeat; head < u.end_cluster * p_.repeat; ++head) f(s, head);
    }
  }

  void visit_unit(const gradient_unit& u, const gradient_pass& pass) {
    each_head(u, [&](const sequence& s, index_t kv_head) {
      for (index_t first = 0; first < s.keys; first += units_.block_keys()) visit_keys(s, kv_head, first, pass);
    });
  }
  void visit_block(index_t task) {
    while (task >= block_end_) block_end_ += units_.blocks(units_.unit(++unit_));
    const gradient_unit u = units_.unit(unit_);
    const index_t first = (task - (block_end_ - units_.blocks(u))) * units_.block_keys();
    each_head(u, [&](const sequence& s, index_t kv_head) {
      if (first < s.keys) visit_keys(s, kv_head, first, {false, true});
    });
  }
  // Whether the mask hides all keys of the block from `first` on from rows [row, last].
  bool hides_block(const sequence& s, index_t kv_head, index_t row, index_t last, index_t first) const {
    const key_rule rule = make_rule(p_.mask, s.number, s.keys);
    const index_t place = first_place(p_.align, p_.mask, s.number, s.queries, s.keys);
    return hides_keys(rule, place + tiles_.query_of(s, kv_head, row), place + tiles_.query_of(s, kv_head, last), first,
                      std::min(first + units_.block_keys(), s.keys));
  }
  // All rows with the block of keys from `first` on
  void visit_keys(const sequence& s, index_t kv_head, index_t first, const gradient_pass& pass) {
    const index_t end = std::min(first + units_.block_keys(), s.keys), rows = tiles_.rows_of(s, kv_head);
    tile_.begin(s, kv_head, first, end - first, pass);
    for (index_t r = 0; r < rows; r += gradient_units<T>::lanes) {
      if (hides_block(s, kv_head, r, std::min(r + gradient_units<T>::lanes, rows) - 1, first)) continue;
      tiles_.take(s, kv_head, r), tile_.visit(tiles_.rows(), tiles_.gates());
    }
    tile_.finish();
  }
  // A tile of rows with all keys; the last tiles, under causal masks the longest, come first.
  void visit_tile(index_t task) {
    while (task >= tile_end_) tile_end_ += units_.row_tiles(p_.sequence_at(++pair_ / units_.clusters()));
    const sequence s = p_.sequence_at(pair_ / units_.clusters());
    const index_t number = tile_end_ - 1 - task, cluster = pair_ % units_.clusters();
    for (index_t head = cluster * p_.repeat; head < (cluster + 1) * p_.repeat; ++head) {
      if (number * gradient_units<T>::lanes >= tiles_.rows_of(s, head)) continue;
      tiles_.take(s, head, number * gradient_units<T>::lanes);
      const index_t from = number * gradient_units<T>::lanes;
      const index_t last = std::min(from + gradient_units<T>::lanes, tiles_.rows_of(s, head)) - 1;
      for (index_t first = 0; first < s.keys; first += units_.block_keys()) {
        if (hides_block(s, head, from, last, first)) continue;
        tile_.begin(s, head, first, std::min(units_.block_keys(), s.keys - first), {true, false});
        tile_.visit(tiles_.rows(), tiles_.gates());
      }
    }
  }

  const gradient_problem<T>& p_;
  const gradient_cut& cut_;
  gradient_units<T> units_;
  gradient_row_tiles<T> tiles_;
  gradient_tile<T> tile_;
  index_t unit_ = -1, block_end_ = 0, pair_ = -1, tile_end_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
