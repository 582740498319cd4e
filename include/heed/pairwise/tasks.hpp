// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention of rows that share a key/value head, few or many: which of the two drivers runs them, in how many
// tasks, and in how much scratch.

#include <algorithm>
#include <optional>
#include <span>

#include "heed/pairwise/dims_in_lanes.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/pairwise/queries_in_lanes.hpp"
#include "heed/pairwise/unit_driver.hpp"
#include "heed/tile/run_tasks.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// f(sequence, how many key/value heads have rows as many as its): packed sequences one by one, a batch as one.
template <class T, class F> void each_size(const attention<T>& p, F f) {
  if (p.heads == 0) return;
  const index_t sequences = p.sequences(), different = p.packed() ? sequences : std::min<index_t>(sequences, 1);
  for (index_t s = 0; s < different; ++s) f(p.sequence_at(s), p.kv_heads * (p.packed() ? 1 : sequences));
}

// A worker claims tasks in ascending order, so that it finds each by going on from the last; the last tiles of a head
// come first: under causal masks they are the longest. Tiles: tiles_of(rows of a sequence that share keys).
template <class T, class Tiles> class task_list {
 public:
  task_list(const attention<T>& p, Tiles tiles_of)
      : p_(p), tiles_of_(tiles_of), heads_share_pairs_(for_all_heads(p.mask, p.scores.bias)) {
    enter(0);
  }

  // f(sequence, kv_head, tile)
  template <class F> void visit(index_t task, F f) {
    while (task >= end_) enter(sequence_.number + 1);
    const index_t at = task - (end_ - p_.kv_heads * per_head_);
    if (heads_share_pairs_)
      f(of_head(at % p_.kv_heads), at % p_.kv_heads, per_head_ - 1 - at / p_.kv_heads);
    else
      f(of_head(at / per_head_), at / per_head_, per_head_ - 1 - at % per_head_);
  }

 private:
  void enter(index_t number) {
    sequence_ = p_.sequence_at(number);
    per_head_ = tiles_of_(p_.rows(sequence_));
    end_ += p_.kv_heads * per_head_;
  }

  // The sequence as a head has it: lengths of a cache may differ.
  const sequence& of_head(index_t kv_head) {
    if (p_.lengths != nullptr) sequence_ = p_.sequence_at(sequence_.number, kv_head);
    return sequence_;
  }

  // Rows of a bias or keep for all heads stay in cache from one head to the next.
  static bool for_all_heads(const heed::detail::mask_parts& mask, const tensor_view<const T, 4>& bias) {
    return (bias.data() != nullptr && bias.extent(1) == 1 && bias.extent(2) > 1) ||
           (mask.has(mask.keep) && mask.keep_tensor.extent(1) == 1 && mask.keep_tensor.extent(2) > 1);
  }

  const attention<T>& p_;
  Tiles tiles_of_;
  sequence sequence_;
  index_t per_head_ = 0, end_ = 0;
  bool heads_share_pairs_;
};

// Fewer rows than this run with the head dim in lanes. bench/softmax_bench.cpp, small-N table.
template <class T> inline constexpr index_t few_rows = simd::width<T> < 8 ? 8 : simd::width<T>;

// So many rows at most run together with the head dim in lanes. Where they run on dot products all rows do.
template <class T> index_t most_few_rows(const softmax_problem<T>& p) {
  static_assert(few_rows<T> <= dims_in_lanes<T>::most_rows);
  return p.few_dots != nullptr ? dims_in_lanes<T>::most_rows : few_rows<T> - 1;
}

// Rows and keys of a tile with queries in lanes, at most
template <class T> index_t most_rows_of(const softmax_problem<T>& p) {
  return p.on_unit == nullptr ? score_tiles<T>::most_rows : p.on_unit->most_rows;
}

template <class T> index_t most_keys_of(const softmax_problem<T>& p) {
  return p.on_unit == nullptr ? score_tiles<T>::most_keys : p.on_unit->most_keys;
}

// How the rows that share a key/value head run: few of them in one task with the head dim in lanes, others in tiles
// with queries in lanes.
template <class T> struct row_cut {
  row_cut(const softmax_problem<T>& p, index_t count)
      : rows(count), on_dots(p.few_dots != nullptr), most(few() ? most_few_rows(p) : most_rows_of(p)) {}

  bool few() const { return on_dots || rows < few_rows<T>; }
  index_t tasks() const { return (rows + most - 1) / most; }

  index_t first(index_t task) const { return task * most; }
  index_t count(index_t task) const { return std::min(most, rows - first(task)); }

  index_t rows;
  bool on_dots;
  index_t most;
};

// How the rows of a call are cut
struct softmax_cut {
  index_t tasks = 0;
  index_t most_few = 0;  // the most rows that run together with the head dim in lanes
  bool many = false;     // some run with queries in lanes

  // times: so many key/value heads with so many rows each
  template <class T> void add(const row_cut<T>& cut, index_t times) {
    if (times == 0) return;
    tasks += times * cut.tasks();
    if (cut.few())
      most_few = std::max(most_few, cut.count(0));
    else
      many = true;
  }
};

// The drivers of one worker; memory: as `bytes` says; shared: memory of all workers, as `shared_bytes` says
template <class T> class softmax_driver {
 public:
  static std::size_t bytes(const softmax_problem<T>& p, const softmax_cut& cut) {
    heed::detail::arena few, many;
    if (cut.most_few > 0) static_cast<void>(dims_in_lanes<T>(p, cut.most_few, few));
    if (cut.many && p.on_unit == nullptr) static_cast<void>(queries_in_lanes<T>(p, many));
    const std::size_t unit = on_unit(p, cut) ? p.on_unit->bytes(p) : 0;
    return object_bytes(p, cut) + std::max({few.used(), many.used(), unit});
  }
  static std::size_t shared_bytes(const softmax_problem<T>& p, const softmax_cut& cut) {
    return on_unit(p, cut) ? p.on_unit->shared_bytes(p) : 0;
  }
  // Before the workers of a call
  static void clear(const softmax_problem<T>& p, const softmax_cut& cut, std::byte* shared) {
    if (shared_bytes(p, cut) > 0) p.on_unit->clear(p, shared);
  }

  softmax_driver(const softmax_problem<T>& p, const softmax_cut& cut, std::span<std::byte> memory, std::byte* shared)
      : p_(p),
        few_scratch_(memory.subspan(object_bytes(p, cut)), memory.size() - object_bytes(p, cut)),
        many_scratch_(memory.subspan(object_bytes(p, cut)), memory.size() - object_bytes(p, cut)) {
    if (cut.most_few > 0) few_.emplace(p, cut.most_few, few_scratch_);
    if (!cut.many) return;
    if (p.on_unit == nullptr) {
      many_.emplace(p, many_scratch_);
    } else {
      on_unit_ = memory.data();
      p.on_unit->begin(on_unit_, p, shared_bytes(p, cut) > 0 ? shared : nullptr, many_scratch_);
    }
  }
  ~softmax_driver() {
    if (on_unit_ != nullptr) p_.on_unit->end();
  }
  softmax_driver(const softmax_driver&) = delete;
  softmax_driver& operator=(const softmax_driver&) = delete;

  // few: as row_cut says of all rows that share this key/value head. gate, share: as the drivers
  void run(const sequence& s, index_t kv_head, const row_tile& rows, bool few, const T* gate = nullptr,
           const key_share<T>* share = nullptr) {
    HEED_ASSERT(share == nullptr || on_unit_ == nullptr);
    if (few)
      few_->run(s, kv_head, rows, gate, share);
    else if (on_unit_ == nullptr)
      many_->run(s, kv_head, rows, gate, share);
    else
      p_.on_unit->run(on_unit_, s, kv_head, rows, gate);
  }

 private:
  static bool on_unit(const softmax_problem<T>& p, const softmax_cut& cut) { return cut.many && p.on_unit != nullptr; }
  // Of the driver on a unit, in front of the scratch
  static std::size_t object_bytes(const softmax_problem<T>& p, const softmax_cut& cut) {
    return on_unit(p, cut) ? p.on_unit->object_bytes : 0;
  }

  const softmax_problem<T>& p_;
  heed::detail::arena few_scratch_, many_scratch_;  // the same memory: one driver at a time uses it
  std::optional<dims_in_lanes<T>> few_;
  std::optional<queries_in_lanes<T>> many_;
  void* on_unit_ = nullptr;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
