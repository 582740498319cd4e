// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Attention of new tokens with a cache: o = softmax over the cached keys, split over the keys.
//
// The rows of a sequence that share a key/value head are cut into tiles as in forward, the keys of a tile into pieces
// (split_keys.hpp). A piece leaves the states (m, l, o) of its rows in memory that all workers share; who finishes the
// last piece of a tile joins them, in ascending order. A tile in one piece writes o at once. K and V are read once for
// the whole group of heads, wherever the cache has them.

#include <atomic>
#include <limits>
#include <new>

#include "heed/core/plan.hpp"
#include "heed/pairwise/cache.hpp"
#include "heed/pairwise/split_keys.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/tile/verb.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// One tile of rows and its pieces
struct piece_tile {
  sequence s;
  index_t kv_head = 0, number = 0, first = 0, rows = 0;  // number: of the tile in its head; rows [first, first + rows)
  key_set keys;
  index_t keys_total = 0, pieces = 1;
  index_t slot = 0, counter = -1;  // of the first piece in the shared memory; counter: of the tile, -1: one piece
};

// The tiles of a call in the order of their tasks. A worker claims tasks in ascending order and goes on from its last.
template <class T> class piece_list {
 public:
  // chosen: a tile may hold any rows of its head
  piece_list(const softmax_problem<T>& p, bool chosen) : p_(p), chosen_(chosen) {}

  // f(tile) for every tile, in order; its pieces are not known yet
  template <class F> void each_tile(F f) {
    const index_t sequences = p_.heads == 0 || p_.q.extent(2) == 0 ? 0 : p_.q.extent(0);
    for (tile_.s.number = 0; tile_.s.number < sequences; ++tile_.s.number)
      for (tile_.kv_head = 0; tile_.kv_head < p_.kv_heads; ++tile_.kv_head) {
        enter_head(tile_.s.number);
        for (tile_.number = 0; tile_.number < cut_tasks_; ++tile_.number) set_keys(), f(tile_);
      }
  }

  // f(tile, piece) of a task; ascending from call to call
  template <class F> void visit(const piece_sizes& sizes, index_t task, F f) {
    while (task >= end_) next(sizes);
    f(tile_, task - (end_ - tile_.pieces));
  }

  index_t tiles_of_head() const { return row_cut<T>(p_, p_.q.extent(2) * p_.group).tasks(); }

 private:
  void next(const piece_sizes& sizes) {
    if (tile_.counter >= 0) next_slot_ += tile_.pieces, ++next_counter_;
    if (++tile_.number >= cut_tasks_) {
      if (end_ > 0 && ++tile_.kv_head == p_.kv_heads) tile_.kv_head = 0, ++tile_.s.number;
      enter_head(tile_.s.number), tile_.number = 0;
    }
    set_keys();
    tile_.pieces = sizes.count(tile_.keys_total, tile_.rows);
    tile_.slot = next_slot_, tile_.counter = tile_.pieces > 1 ? next_counter_ : -1;
    end_ += tile_.pieces;
  }

  void enter_head(index_t number) {
    tile_.s = p_.sequence_at(number, tile_.kv_head);
    cut_tasks_ = row_cut<T>(p_, p_.rows(tile_.s)).tasks();
    rule_ = make_rule(p_.mask, number, tile_.s.keys);
    place_ = first_place(p_.align, p_.mask, number, tile_.s.queries, tile_.s.keys);
    lost_ = p_.lost(tile_.s, tile_.kv_head);
  }
  void set_keys() {
    const row_cut<T> cut(p_, p_.rows(tile_.s));
    tile_.first = cut.first(tile_.number), tile_.rows = cut.count(tile_.number);
    const index_t first = chosen_ ? 0 : tile_.first / p_.group,
                  last = chosen_ ? tile_.s.queries - 1 : (tile_.first + tile_.rows - 1) / p_.group;
    tile_.keys = visible_keys(rule_, place_ + first, place_ + last, lost_.first, lost_.end);
    tile_.keys_total = tile_.keys.total();
  }

  const softmax_problem<T>& p_;
  bool chosen_;
  piece_tile tile_;
  key_rule rule_;
  typename attention<T>::lost_tokens lost_;
  index_t cut_tasks_ = 0, place_ = 0;
  index_t end_ = 0, next_slot_ = 0, next_counter_ = 0;  // end_: of the tile's tasks
};

// What the workers of a call share: the states of the rows of pieces. Those of a tile are joined in ascending order, as
// far as they are done, by who finishes one and finds nobody at it; so a single worker joins what it has just made.
template <class T> class piece_memory {
  struct tile_progress {
    std::atomic<std::uint32_t> busy;
    std::uint32_t joined;  // pieces from the first on; of who is at it
  };

 public:
  // most_rows: of a tile
  piece_memory(index_t most_pieces, index_t most_rows, index_t columns, heed::detail::arena& memory)
      : pieces_(most_pieces), rows_(most_rows), columns_(columns) {
    tiles_ = take<tile_progress>(memory, pieces_ / 2), done_ = take<std::atomic<std::uint32_t>>(memory, pieces_);
    states_.stride = tile::whole_vectors<T>(columns);
    states_.m = memory.take<T>(pieces_ * rows_), states_.l = memory.take<T>(pieces_ * rows_);
    states_.o = memory.take<T>(pieces_ * rows_ * states_.stride);
  }
  partial_rows<T> piece(const piece_tile& x, index_t number) const { return states_.from((x.slot + number) * rows_); }

  // Notes that a piece is done. Returns true to one worker: who has joined all pieces of the tile, in the first one.
  bool finish(const piece_tile& x, index_t number, index_t rows) const {
    tile_progress& tile = tiles_[x.counter];
    const auto all = static_cast<std::uint32_t>(x.pieces);
    const auto next_done = [&] { return done_[x.slot + static_cast<index_t>(tile.joined)].load() != 0; };
    done_[x.slot + number].store(1);
    while (tile.busy.exchange(1) == 0) {
      const bool finished = tile.joined == all;
      for (; tile.joined < all && next_done(); ++tile.joined)
        if (tile.joined > 0) join_rows(piece(x, 0), piece(x, static_cast<index_t>(tile.joined)), rows, columns_);
      const std::uint32_t joined = tile.joined;
      tile.busy.store(0);
      if (joined == all) return !finished;
      if (done_[x.slot + static_cast<index_t>(joined)].load() == 0) return false;  // else it came after our look
    }
    return false;
  }

 private:
  // Objects that begin their life as zeros
  template <class X> static X* take(heed::detail::arena& memory, index_t count) {
    static_assert(std::is_trivially_destructible_v<X>);
    auto* const bytes = memory.take<std::byte>(count * static_cast<index_t>(sizeof(X)));
    for (index_t i = 0; bytes != nullptr && i < count; ++i) new (bytes + i * static_cast<index_t>(sizeof(X))) X{};
    return reinterpret_cast<X*>(bytes);
  }

  index_t pieces_, rows_, columns_;
  tile_progress* tiles_;
  std::atomic<std::uint32_t>* done_;
  partial_rows<T> states_;
};

// All rows of a tile; mixture_of_head has a choice of them in its place.
template <class T> struct every_row {
  static constexpr bool chosen = false;  // whether a tile may hold any rows of its head
  const softmax_problem<T>& p;

  // Rows of a tile that are to be computed, and their gates, or null
  const T* take(const piece_tile& x, row_tile& rows) {
    rows.take(x.kv_head, p.group, x.first, x.rows);
    return nullptr;
  }
  // Before the first piece of a head's first tile
  void begin_head(const piece_tile&) {}
};

// A call of decode. Problem: softmax_problem<T>, or one that is derived from it; Rows: as every_row
template <class T, class Problem, template <class> class Rows> struct decode_call {
  Problem p;
  const cache_shapes& cache;
  softmax_cut cut = {};
  piece_sizes sizes = {};
  index_t most_pieces = 0, most_rows = 0, splits = 1;

  void check(heed::detail::checker& check) const {
    check_cache_call(check, p, cache);
    if (check.ok()) check_softmax(check, p);
  }

  tile::workload measure(index_t) {
    const index_t sequences = p.q.extent(0), rows = p.q.extent(2) * p.group;
    if (p.heads == 0 || sequences == 0 || rows == 0) return {};
    const row_cut<T> each(p, rows);
    cut.add(each, sequences * p.kv_heads);
    cut.most_few = std::max(cut.most_few, std::min(rows, most_few_rows(p)));
    most_rows = each.count(0);
    most_pieces = piece_sizes::most_pieces(static_cast<double>(cut.tasks), cache.capacity());
    if (p.k.extent(2) >= 2 * piece_sizes::least_keys) count_pieces();
    heed::detail::arena shared;
    static_cast<void>(piece_memory<T>(most_pieces, most_rows, p.e, shared));
    return {.tasks = cut.tasks,
            .most_tasks = sequences * p.kv_heads * each.tasks() + most_pieces,
            .shared_bytes = shared.used(),
            .slot_bytes = softmax_driver<T>::bytes(p, cut)};
  }

  void describe(plan& out) const {
    const bool few = !cut.many;
    out.path = !few             ? "softmax: decode, queries in lanes"
               : runs_on_dots() ? "softmax: decode, head dim in lanes on bf16 dot products"
                                : "softmax: decode, head dim in lanes";
    out.query_tile = most_rows, out.splits = splits;
    out.key_tile = few ? dims_in_lanes<T>::tile_keys(most_rows) : score_tiles<T>::most_keys;
    heed::detail::message text(out.why);
    if (out.tasks == 0)
      text << "no rows";
    else
      text << p.q.extent(2) * p.group << " rows share keys";
    if (out.tasks > 0 && p.few_dots == nullptr) text << ", queries go in lanes from " << few_rows<T>;
    text << "; " << cache.layout_name() << " cache of " << p.kv_format->name << ", up to " << p.k.extent(2) << " keys";
    if (cache.has_prefix) text << ", of which " << cache.prefix_length() << " shared";
    if (splits > 1) text << ", in up to " << splits << " pieces";
    name_options(text, static_cast<const softmax_problem<T>&>(p));
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    if (work.tasks == 0) return;
    heed::detail::arena shared({memory.shared(), work.shared_bytes}, work.shared_bytes);
    const piece_memory<T> states(most_pieces, most_rows, p.e, shared);
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte> scratch, auto claim) {
      softmax_driver<T> driver(p, cut, scratch, nullptr);
      piece_list<T> list(p, Rows<T>::chosen);
      Rows<T> choice{p};
      row_tile rows;
      claim([&](index_t task) {
        list.visit(sizes, task, [&](const piece_tile& x, index_t number) {
          if (number == 0 && x.number == 0) choice.begin_head(x);
          const T* const gates = choice.take(x, rows);
          if (rows.count > 0) run_piece(driver, states, x, number, rows, gates);
        });
      });
    });
  }

  bool runs_on_dots() const { return p.few_dots != nullptr; }

 private:
  void count_pieces() {
    piece_list<T> list(p, Rows<T>::chosen);
    list.each_tile([&](const piece_tile& x) { sizes.add(x.keys_total, x.rows); });
    cut.tasks = 0;
    list.each_tile([&](const piece_tile& x) {
      const index_t pieces = sizes.count(x.keys_total, x.rows);
      cut.tasks += pieces, splits = std::max(splits, pieces);
    });
  }

  void run_piece(softmax_driver<T>& driver, const piece_memory<T>& states, const piece_tile& x, index_t number,
                 const row_tile& rows, const T* gates) const {
    const index_t from = piece_sizes::first_key(x.keys_total, x.pieces, number),
                  to = piece_sizes::first_key(x.keys_total, x.pieces, number + 1);
    key_share<T> share{x.keys.part(from, to), x.pieces > 1, number == 0, {}};
    if (share.split) share.out = states.piece(x, number);
    driver.run(x.s, x.kv_head, rows, row_cut<T>(p, rows.count).few(), gates, &share);
    if (!share.split || !states.finish(x, number, rows.count)) return;
    const partial_rows<T> all = states.piece(x, 0);
    for (index_t r = 0; r < rows.count; ++r) {
      const partial_rows<T> row = all.from(r);
      finish_row<T>(p, x.s, rows.row[r], {*row.m, *row.l}, gates == nullptr ? T(1) : gates[r], row.o);
    }
  }
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
